"""One yaml of split training: what net a party has, what it takes and gives, how it is trained.

Law 1: a file is read whole and all its faults are told at once, each with file and line.
Law 2: the files of the original load as they are; docs/split-yaml.md names every key.
Law 3: what is read is not judged against the code's nets: who knows them complains with `where`.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flps.config.source import Complaints, KeyPath, read
from flps.config.typed import typed
from flps.split.yaml_check import check
from flps.split.yaml_types import Dataset, LossScale, Net

_STEP = re.compile(r"[^.\[\]]+")
_NEEDS = "a net needs at least role, model and opts"


class FLYamlData:
    """What one yaml file says, checked.

    path: the file. overrides: `key=value` with a dotted key, as `privacy.label_dp.eps=1`, in the place of what it says.
    Raises ConfigError with every complaint, each with file and line.

    As in the original, parts come as the lists and dicts that were written, with `source` and `destination` filled in:
    train_net_ins, train_net_outs, eval_net_ins, eval_net_outs: lists of tensors, each `{name, source or destination,
    compress_type, bit_num, ...}`; `..._names`: their names in order. train_net, eval_net, model_data: the parts they
    stand in. opts: a list of optimizers; a dynamic loss_scale is complete. grad_scalers: a list, or None when the file
    names none. privacy: a dict, or None; label_dp_eps and embedding_dp_eps are None where the scheme is absent, and
    embedding_dp_eps also where it is `null` (then `privacy["embedding_dp"]` exists).

    net: the same, typed. digest: sha256 in hex over what the file means, whatever its order, comments and defaults;
    where checkpoints lie is no part of it.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str] = ()) -> None:
        complaints = Complaints()
        source = read(Path(path), overrides, complaints, needs=_NEEDS)
        net = typed(source, Net, source.values)
        check(source)
        complaints.raise_if_any()
        assert net is not None
        self.path = str(path)
        self.net = net
        self._source = source
        self._take(copy.deepcopy(source.values))
        meaning = msgspec.to_builtins(msgspec.structs.replace(net, ckpt_path="-"))
        self.digest = hashlib.sha256(msgspec.json.encode(meaning, order="deterministic")).hexdigest()

    def _take(self, written: dict[str, Any]) -> None:
        """The attributes of the original."""
        net = self.net
        self.role: str = net.role
        self.model_data: dict[str, Any] = written["model"]
        self.train_net: dict[str, Any] = _with_places(self.model_data["train_net"])
        self.train_net_ins: list[dict[str, Any]] = self.train_net["inputs"]
        self.train_net_outs: list[dict[str, Any]] = self.train_net["outputs"]
        self.train_net_in_names = [tensor.name for tensor in net.model.train_net.inputs]
        self.train_net_out_names = [tensor.name for tensor in net.model.train_net.outputs]
        self.eval_net: dict[str, Any] = _with_places(self.model_data["eval_net"])
        self.eval_net_ins: list[dict[str, Any]] = self.eval_net["inputs"]
        self.eval_net_outs: list[dict[str, Any]] = self.eval_net["outputs"]
        self.eval_net_in_names = [tensor.name for tensor in net.model.eval_net.inputs]
        self.eval_net_out_names = [tensor.name for tensor in net.model.eval_net.outputs]
        self.eval_net_gt = net.model.eval_net.gt
        self.opts: list[dict[str, Any]] = [_plain(opt) for opt in written["opts"]]
        self.grad_scalers: list[dict[str, Any]] | None = written.get("grad_scalers")
        self._take_settings(net, written)

    def _take_settings(self, net: Net, written: dict[str, Any]) -> None:
        dataset: Dataset = net.dataset
        self.dataset_name, self.features, self.labels = dataset.name, [*dataset.features], [*dataset.labels]
        self.epochs = net.hyper_parameters.epochs
        self.batch_size = net.hyper_parameters.batch_size
        self.is_eval = net.hyper_parameters.is_eval
        self.micro_batches = net.hyper_parameters.micro_batches
        privacy = net.privacy
        label_dp, embedding_dp = (privacy.label_dp, privacy.embedding_dp) if privacy else (None, None)
        self.privacy: dict[str, Any] | None = None
        if privacy:
            said = {name: getattr(privacy, name) for name in privacy.__struct_fields__}
            self.privacy = {name: msgspec.to_builtins(scheme) for name, scheme in said.items() if scheme is not None}
        self.label_dp_eps = label_dp.eps if label_dp else None
        self.embedding_dp_eps = embedding_dp.eps if embedding_dp else None
        self.ckpt_path = net.ckpt_path

    def where(self, key_path: str | KeyPath) -> str:
        """`file:line` of a key, as `opts[0].params[1].name` or ("opts", 0, "params", 1, "name").

        Of a key that is left out it is the line of the part that it would stand in.
        """
        return self._source.origin(_steps(key_path) if isinstance(key_path, str) else key_path)

    def says(self, key: str) -> bool:
        """Whether the file itself says this key of hyper_parameters."""
        return key in (self._source.values.get("hyper_parameters") or {})

    def __repr__(self) -> str:
        return f"FLYamlData({self.path!r}: {self.role}, {self.train_net['name']})"


def _steps(key: str) -> KeyPath:
    return tuple(int(step) if step.isdigit() else step for step in _STEP.findall(key))


def _with_places(net: dict[str, Any]) -> dict[str, Any]:
    """A net whose tensors say where they come from and go to."""
    for side, key in (("inputs", "source"), ("outputs", "destination")):
        for tensor in net[side]:
            tensor.setdefault(key, "local")
    return net


def _plain(opt: dict[str, Any]) -> dict[str, Any]:
    """An optimizer without empty lists of params (they mean `left out`), its dynamic loss scale complete."""
    for part in (opt, *opt["grads"]):
        if not part.get("params", True):
            del part["params"]
    values: dict[str, Any] = opt.get("hyper_parameters") or {}
    opt["hyper_parameters"] = values
    if isinstance(values.get("loss_scale"), dict):
        values["loss_scale"] = msgspec.to_builtins(msgspec.convert(values["loss_scale"], LossScale))
    return opt
