"""What a net remembers, on disk: weights, optimizers' state, loss scale, random numbers, step and data position.

    <folder>/<role>-<train_net.name>-<yaml's file name>_step_<n>.safetensors    tensors
                                                           ..._step_<n>.json    the rest, with the sha256 of the tensors

Law 1: the record is written last and taken away first: tensors without one are no checkpoint. Both are there whole or
not at all, and what was damaged, or is another net's, is refused with the reason.
Law 2: nets whose role, name or yaml differ never share a file: what separates the three occurs in none of them.
Law 3: a checkpoint is called by its step, never by the time of its file: the newest is the one of the highest step.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from flps.checkpoint.record import read_record, write_record
from flps.disk import beside, cannot_write, put_in_place
from flps.errors import ConfigError, DataError, ResourceError
from flps.table.files import sha256_of

log = logging.getLogger(__name__)
FORMAT = 1
_RECORD = re.compile(r"(.+)_step_([0-9]{1,18})\.json")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the file beside the tensors says."""

    format: int
    net: str  # as `name_of` calls it
    step: int
    yaml_digest: str
    weights: dict[str, str]  # name -> type and shape
    optimizers: tuple[str, ...]  # of each entry of opts
    sha256: str
    content: Any  # as `taken_apart` leaves it


class Identity(NamedTuple):
    """Which net a checkpoint is of."""

    name: str
    yaml_digest: str
    weights: dict[str, str]
    optimizers: tuple[str, ...]


def name_of(role: str, net: str, yaml: str | Path) -> str:
    """What a net's checkpoints are called by."""
    return "-".join(quote(part, safe="").replace("-", "%2D") for part in (role, net, Path(yaml).stem))


def write(folder: Path, identity: Identity, step: int, content: Any) -> Path:
    """Write a checkpoint; one of the same net and step gives way to it. Returns its record's path.

    content: nested dicts, lists and tuples of tensors, numbers and texts. Raises ResourceError, ConfigError for
    something else in it.
    """
    tensors: dict[str, Tensor] = {}
    rest = _taken_apart(content, "", tensors, {})
    record = folder / f"{identity.name}_step_{step}.json"
    path = record.with_suffix(".safetensors")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, beside(path))
        with beside(path).open("rb") as file:
            os.fsync(file.fileno())
        sha256 = sha256_of(beside(path))
        record.unlink(missing_ok=True)  # what is about to be written over is a checkpoint no more
        put_in_place(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside(path).unlink(missing_ok=True)
        said = error if isinstance(error, OSError) else OSError(None, str(error))
        raise cannot_write(path, said) from error
    name, digest, weights, optimizers = identity
    write_record(
        record,
        Record(
            format=FORMAT, net=name, step=step, yaml_digest=digest, weights=weights, optimizers=optimizers,
            sha256=sha256, content=rest,
        ),
    )  # fmt: skip
    return record


def read(path: Path, identity: Identity) -> tuple[Record, Any]:
    """A checkpoint's record and content. Raises DataError when it is damaged or another net's."""
    missing = f"{path} is not there: a checkpoint is a .json and the .safetensors of the same name"
    record = read_record(path, Record, missing)
    if record.format != FORMAT:
        raise DataError(f"{path} has format {record.format}, this version reads {FORMAT}")
    _expect_same(path, record, identity)
    tensors_path = path.with_suffix(".safetensors")
    if not tensors_path.is_file():
        raise DataError(f"{tensors_path} is missing, {path.name} names it; take an older step, or a copy")
    if (found := sha256_of(tensors_path)) != record.sha256:
        raise DataError(
            f"{tensors_path} is not what was written: its sha256 is {found[:12]}..., expected {record.sha256[:12]}..."
        )
    try:
        tensors = safetensors.torch.load_file(tensors_path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {tensors_path}: {error}") from error
    return record, _put_together(record.content, tensors)


def steps_in(folder: str | Path, nets: Iterable[str] = ()) -> list[int]:
    """Steps of which every net has a checkpoint in a folder, ascending; what a party can offer when all agree on one.

    nets: their names, as `FLModel.ckpt_name` and `name_of` say them; none: all that have a checkpoint there.
    """
    there: dict[str, set[int]] = {name: set() for name in nets}
    is_asked = bool(there)
    for path in Path(folder).glob("*_step_*.json"):
        match = _RECORD.fullmatch(path.name)
        if match and (match[1] in there or not is_asked):
            there.setdefault(match[1], set()).add(int(match[2]))
    return sorted(set.intersection(*there.values())) if there else []


def newest(folder: Path, net: str) -> Path:
    """The record of a net's highest step in a folder. Raises DataError when it has none."""
    steps = steps_in(folder, [net])
    if not steps:
        others = sorted({match[1] for path in folder.glob("*.json") if (match := _RECORD.fullmatch(path.name))})
        beside_it = f"; it has those of {', '.join(others)}" if others else ""
        raise DataError(f"{folder} has no checkpoint of {net}{beside_it}")
    return record_path(folder, net, steps[-1])


def record_path(folder: Path, net: str, step: int) -> Path:
    """Where the record of a net's step is."""
    return folder / f"{net}_step_{step}.json"


def prune(folder: Path, net: str, keep: int) -> None:
    """Take away a net's checkpoints but the `keep` highest steps. Raises ResourceError."""
    _remove(folder, net, steps_in(folder, [net])[: -max(keep, 1)])


def drop_after(folder: Path, net: str, step: int) -> None:
    """Take away a net's checkpoints of later steps than this one. Raises ResourceError."""
    _remove(folder, net, [later for later in steps_in(folder, [net]) if later > step])


def _remove(folder: Path, net: str, steps: Iterable[int]) -> None:
    try:
        for step in steps:
            record = record_path(folder, net, step)
            record.unlink(missing_ok=True)
            record.with_suffix(".safetensors").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot remove old checkpoints in {folder}: {error.strerror}") from error


def forms(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> type and shape, as a record says them."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for name, tensor in tensors.items()
    }


def random_state(device: torch.device) -> dict[str, Any]:
    """Where the random numbers of torch, Python and NumPy stand."""
    version, words, gauss = random.getstate()
    kind, keys, *counts = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": (version, torch.tensor(words), gauss),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *counts),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on with the random numbers where `random_state` saw them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *counts = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *counts))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _expect_same(path: Path, record: Record, identity: Identity) -> None:
    """Raises DataError, naming what differs."""
    wrong = []
    if record.net != identity.name:
        wrong.append(f"it is of {record.net}, this net is {identity.name}")
    wrong += _differences("weight", record.weights, identity.weights)
    if record.optimizers != identity.optimizers:
        wrong.append(f"optimizers were {', '.join(record.optimizers)}, are {', '.join(identity.optimizers)}")
    if wrong:
        raise DataError(f"{path} is not a checkpoint of this net:\n  " + "\n  ".join(wrong))


def _differences(what: str, saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*saved, *now])
    wrong = [name for name in names if saved.get(name) != now.get(name)]
    lines = [
        f"{what} {name} was {saved.get(name, 'not there')}, is {now.get(name, 'not there')}" for name in wrong[:10]
    ]
    return lines + [f"and {len(wrong) - 10} more"] * (len(wrong) > 10)


def _taken_apart(value: Any, key: str, tensors: dict[str, Tensor], known: dict[tuple[Any, ...], str]) -> Any:
    """What JSON can hold of a nest; its tensors go to `tensors`, one that occurs twice only once."""
    if isinstance(value, Tensor):
        # Weights may be tied, and a net and its eval net mostly share theirs.
        mark = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() == 0 or mark not in known:
            known[mark] = key
            own = value.detach().cpu().contiguous()
            is_piece = own.untyped_storage().nbytes() != own.nbytes or (own.data_ptr(),) in known
            known[(own.data_ptr(),)] = key
            tensors[key] = own.clone() if is_piece else own  # the file wants memory that is not shared
        return {"tensor": known[mark]}
    if isinstance(value, Mapping):
        return {"pairs": [[name, _taken_apart(part, f"{key}/{name}", tensors, known)] for name, part in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_taken_apart(part, f"{key}/{index}", tensors, known) for index, part in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"a checkpoint cannot hold the {type(value).__name__} at {key}: only tensors, numbers and texts")


def _put_together(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest that `_taken_apart` took apart; tensors of their own, none of them a piece of the file."""
    if not isinstance(rest, dict):
        return rest
    ((kind, inner),) = rest.items()
    if kind == "tensor":
        return tensors[inner].clone()
    if kind == "pairs":
        return {name: _put_together(part, tensors) for name, part in inner}
    if kind == "float":
        return float(inner)
    parts = [_put_together(part, tensors) for part in inner]
    return tuple(parts) if kind == "tuple" else parts


def shared_by(eval_state: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An eval net's tensors, with those of the trained net where names and shapes agree but memory is not shared."""
    trained = {tensor.data_ptr() for tensor in state.values()}
    return {
        name: state[name]
        if tensor.data_ptr() not in trained and name in state and state[name].shape == tensor.shape
        else tensor
        for name, tensor in eval_state.items()
    }
