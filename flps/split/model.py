"""FLModel: one net of one party, stepped forwards and backwards by what its yaml says.

Law 1: one forward and one backward in a step (gradients.py); the graph stays inside from the one to the other. What is
handed out is detached: it may be sent, kept and printed, not written into.
Law 2: gradients for other nets are of the weights before the update.
Law 3: evaluation runs in eval mode without a graph, and leaves modes and a step under way as they were.
Law 4: the parties' steps stay level: a step that overflows is skipped, and counted (scale.py).

    outputs = model.forward_one_step(batch, received)
    scales = model.backward_one_step(batch, received, sens)

A loop whose parties skip together, or that has several micro-batches under way, parts the gradients from the update:

    model.window = 4                                                  forwards that may wait for their backward
    model.backward_one_step(sens=sens, update=False, share=1 / 4)     of the oldest of them; gradients add up
    model.update_one_step(overflowed=is_overflow_anywhere)            once for all four
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flps.compression import CompressConfig
from flps.errors import ConfigError, DataError, FlpsError
from flps.split import checkpoint
from flps.split.compress import compress_configs
from flps.split.forward import Batch, Forward, Intake, Tensors, WithLoss, as_tensor, run, same
from flps.split.gradients import Sens
from flps.split.guard import protection_of
from flps.split.scale import loss_scale_of
from flps.split.step import Held, Plan, Scales
from flps.split.updates import untrained, updates_of

if TYPE_CHECKING:
    from flps.split.schema import FLYamlData

log = logging.getLogger(__name__)


class FLModel:
    """One net of a party, with its optimizers.

    yaml_data: what is taken, given and trained. network: the net; its inputs and outputs are positional, in the yaml's
    order. loss_fn: then the net is loss_fn(network(*inputs but the last), the last input). optimizers: instead of those
    of the yaml (updates.py says what may be given). metrics: an object with `update(*outputs, label)`.
    eval_network: what is evaluated; without it the bare network is.

    global_step: steps that are done, skipped ones too. skipped_steps: those of them in which something overflowed.
    overflowed: whether the step under way has overflowed, or else the last one. position: the loop's own record of
    where it stands in its data and what else it must know to go on, numbers, texts and tensors, a part of the
    checkpoints. ckpt_name: what these are called by.

    Raises ConfigError with all that does not fit between yaml and net, TypeError for what is no module.
    """

    def __init__(
        self,
        yaml_data: FLYamlData,
        network: nn.Module,
        loss_fn: Callable[..., Tensor] | None = None,
        optimizers: object = None,
        metrics: Any = None,
        eval_network: nn.Module | None = None,
    ) -> None:
        for name, module in (("network", network), ("eval_network", eval_network)):
            if not isinstance(module, nn.Module) and (module is not None or name == "network"):
                raise TypeError(f"FLModel: type of {name!r} is not torch.nn.Module but {type(module).__name__}")
        self.yaml_data = yaml_data
        self.name = str(yaml_data.train_net["name"])
        self.ckpt_name = checkpoint.name_of(yaml_data.role, self.name, yaml_data.path)
        self.network = WithLoss(network, loss_fn) if loss_fn is not None else network
        self.eval_network = eval_network if eval_network is not None else network
        self.metrics = metrics
        self.updates = updates_of(self.name, self.network, yaml_data.opts, optimizers, yaml_data.where)
        self.loss_scale = loss_scale_of(yaml_data.opts, yaml_data.where)
        self.window = 1
        self.global_step = self.skipped_steps = 0
        self.overflowed = False
        self.position: dict[str, Any] = {}
        self._plan = Plan(self.name, self.updates, yaml_data.grad_scalers or ())
        self._intake = Intake(self.name, yaml_data.train_net_ins)
        self._eval_intake = Intake(f"{self.name} (eval_net)", yaml_data.eval_net_ins)
        self._waiting: deque[Forward] = deque()
        self._held = Held()
        self._seed: int | bytes | None = None
        self._privacy = protection_of(yaml_data)
        self.network.train()
        self._report_untrained()

    def forward_one_step(
        self, local_data_batch: Batch | None = None, remote_data_batch: Batch | None = None
    ) -> Tensors:
        """Run the net on a batch, in training.

        The inputs are picked by name out of the party's own batch and what came from other nets, which wins. Returns
        the outputs by the yaml's names. Raises ConfigError for a missing input or another number of outputs,
        ProtocolError for what came from elsewhere and is missing or has changed its form.
        """
        forward = self._forward(local_data_batch, remote_data_batch)
        while len(self._waiting) >= max(self.window, 1):
            self._waiting.popleft()  # nobody came back for it, as after a forward that was for looking only
        self._waiting.append(forward)
        outputs = _detached(forward.outputs)
        return self._privacy.activations(outputs) if self._privacy else outputs

    def backward_one_step(
        self,
        local_data_batch: Batch | None = None,
        remote_data_batch: Batch | None = None,
        sens: Sens | None = None,
        *,
        update: bool = True,
        share: float = 1.0,
    ) -> Scales:
        """Go back through the oldest forward that waits; when none does, through a forward of these batches.

        sens: label -> output of this net -> its gradient, of the output's shape, from the nets behind. update: also let
        the optimizers step; else gradients add up until `update_one_step`. share: factor of the yaml's numbers in
        `sens`; for a micro-batch its share of the batch's rows.

        Returns, for every grad_scaler, {its output: {input: gradient of the input's shape}}; integer inputs have none
        and are left out. When the step overflows, all of these are NaN: whoever gets them skips it, too. Raises
        ConfigError for a `sens` that the yaml names and that did not come, or batches that are not the forward's;
        ProtocolError for a gradient of another shape.
        """
        forward = self._forward_back(local_data_batch, remote_data_batch)
        if not self._held.gradients:
            self.overflowed = False
        ratio = self.loss_scale.ratio
        found = self._plan.back(forward, sens, share * ratio, self.loss_scale.is_checked)
        self.network.zero_grad(set_to_none=True)  # of what nobody trains
        self.overflowed = self.overflowed or found.is_overflow
        self._held.add(found.gradients, list(forward.inputs.values()), sens)
        if update:
            self.update_one_step()
        return dict(self._privacy.gradients(found.scales, ratio)) if self._privacy else found.scales

    def update_one_step(self, overflowed: bool | None = None) -> None:
        """End the step: the optimizers get the gradients that have added up, or the step is skipped.

        overflowed: whether any net of any party has overflowed; None: go by this net alone. A step may be skipped
        without a backward. Raises FlpsError when there are no gradients.
        """
        held, self._held = self._held, Held()
        self.overflowed = self.overflowed if overflowed is None else overflowed
        if self.overflowed:
            self.skipped_steps += 1
            if not held.inputs and self._waiting:
                self._waiting.popleft()
            log.warning("%s: step %d overflowed and is skipped", self.name, self.global_step + 1)
        elif not held.inputs:
            raise FlpsError(f"{self.name}: update_one_step without gradients: backward_one_step comes before it")
        else:
            for one, gradients in zip(self.updates, held.gradients, strict=True):
                one.step(gradients, self.loss_scale.ratio, held.inputs, held.sens)
        self.loss_scale.settle(self.overflowed)
        self.global_step += 1

    def drop_step(self) -> None:
        """Forget a step that is under way, as when the parties go back: its forwards, and gradients that add up."""
        self._waiting.clear()
        self._held = Held()

    def eval_one_step(self, local_data_batch: Batch | None = None, remote_data_batch: Batch | None = None) -> Tensors:
        """Evaluate a batch: `metrics` sees the eval net's outputs and the label `eval_net.gt`.

        Returns the outputs by the yaml's names. Raises ConfigError without metrics or without the label: a party that
        has no labels calls predict_one_step.
        """
        if not callable(getattr(self.metrics, "update", None)):
            raise ConfigError(
                f"FLModel: {self.name}: eval_one_step wants metrics, an object with update(*outputs, label), as "
                "FLModel(metrics=...); without labels call predict_one_step"
            )
        gt = self.yaml_data.eval_net_gt
        batch = {**(local_data_batch or {}), **(remote_data_batch or {})}
        if gt is None or gt not in batch:
            place = self.yaml_data.where("model.eval_net.gt")
            wanted = f"the label {gt!r} is" if gt else "the yaml names no label (gt), and it is"
            raise ConfigError(
                f"{place}: {self.name}: {wanted} not in the batch, which has "
                f"{', '.join(map(repr, batch)) or 'nothing'}; a party without labels calls predict_one_step"
            )
        outputs = self.predict_one_step(local_data_batch, remote_data_batch)
        self.metrics.update(*outputs.values(), as_tensor(self.name, gt, batch[gt]))
        return outputs

    def predict_one_step(
        self, local_data_batch: Batch | None = None, remote_data_batch: Batch | None = None
    ) -> Tensors:
        """The eval net's outputs for a batch, by the yaml's names: no dropout, no gradient, no label.

        Raises as forward_one_step does.
        """
        net, place = f"{self.name} (eval_net)", self.yaml_data.where("model.eval_net.outputs")
        inputs = self._eval_intake.take(local_data_batch, remote_data_batch, self._device)
        with _evaluating(self.eval_network), torch.no_grad():
            forward = run(net, self.eval_network, inputs, (), self.yaml_data.eval_net_out_names, place)
        outputs = _detached(forward.outputs)
        return self._privacy.looked_at(outputs) if self._privacy else outputs

    def get_compress_configs(self) -> dict[str, CompressConfig]:
        """How each tensor that the yaml compresses is packed, by its name (compress.py)."""
        return compress_configs(self.yaml_data, self._privacy.signs if self._privacy else ())

    def protect(
        self,
        seed: int | bytes | None = None,
        rows_per_epoch: int | None = None,
        sent: Iterable[str] | None = None,
        received: Iterable[str] | None = None,
    ) -> None:
        """Say more about the yaml's `privacy`, before the first step: see `protection_of`. A seed, once said, stays."""
        self._seed = self._seed if seed is None else seed
        self._privacy = protection_of(self.yaml_data, self._seed, rows_per_epoch, sent, received)

    def privacy_spent(self) -> dict[str, float]:
        """What the privacy schemes have spent so far, for metrics: `label_dp_epsilon`, ... (see `Budget.numbers`)."""
        return self._privacy.budget.numbers() if self._privacy else {}

    def privacy_statements(self) -> list[str]:
        """The same in words: what each scheme's epsilon is, what it covers and what not."""
        return self._privacy.budget.statements() if self._privacy else []

    def save_ckpt(self, path: str | Path | None = None, keep: int | None = None) -> Path:
        """Save all that the net remembers (checkpoint.py) under its step; between steps.

        path: the folder, the yaml's `ckpt_path` when None. keep: how many of the newest stay; None: all. Returns the
        record's path. Raises ResourceError, and FlpsError within a step.
        """
        if self._held.inputs:
            raise FlpsError(f"{self.name}: a checkpoint is taken between steps; update_one_step ends this one")
        folder = self._folder(path)
        record = checkpoint.write(folder, self._identity(), self.global_step, self._content())
        if keep is not None:
            checkpoint.prune(folder, self.ckpt_name, keep)
        return record

    def export(self, path: str | Path) -> Path:
        """Save the eval net's weights alone into a folder, for `load_ckpt("eval", path)`; returns the record's path."""
        weights = checkpoint.shared_by(self.eval_network.state_dict(), self.network.state_dict())
        return checkpoint.write(Path(path), self._identity(), self.global_step, {"eval_network": weights})

    def load_ckpt(self, phrase: str = "eval", path: str | Path | None = None, step: int | None = None) -> int:
        """Take up a checkpoint; returns its step.

        phrase: `train` goes on where it was saved (weights, optimizers, loss scale, random numbers, step, position);
        `eval` takes the eval net's weights alone. path: the folder (default: the yaml's), or the record itself. step:
        which; None: the newest. Raises ConfigError for another phrase, DataError with the reason when there is none, or
        it is damaged or of another net: nothing is changed then.
        """
        if phrase not in ("train", "eval"):
            raise ConfigError(f"FLModel: load_ckpt knows the phrases 'train' and 'eval', got {phrase!r}")
        folder = self._folder(path)
        if folder.suffix in (".json", ".safetensors"):
            record_path = folder.with_suffix(".json")
        elif step is not None:
            record_path = checkpoint.record_path(folder, self.ckpt_name, step)
        else:
            record_path = checkpoint.newest(folder, self.ckpt_name)
        record, content = checkpoint.read(record_path, self._identity())
        if phrase == "train":
            if "network" not in content:
                raise DataError(f"{record_path} holds trained weights alone; training goes on from a checkpoint")
            self._take_up(content, has_same_yaml=record.yaml_digest == self.yaml_data.digest)
        self.eval_network.load_state_dict(content["eval_network"])
        log.info("%s: %s of step %d from %s", self.name, phrase, record.step, record_path)
        return record.step

    def _forward(self, local: Batch | None, remote: Batch | None) -> Forward:
        taken = self._intake.take(local, remote, self._device)
        inputs = self._privacy.inputs(taken, local or {}) if self._privacy else taken
        place = self.yaml_data.where("model.train_net.outputs")
        names = self.yaml_data.train_net_out_names
        forward = run(self.name, self.network, inputs, self._plan.inputs, names, place)
        forward.taken = taken
        return forward

    def _forward_back(self, local: Batch | None, remote: Batch | None) -> Forward:
        """The forward to go back through. Raises ConfigError when the batches are not those it ran on."""
        if not self._waiting:
            return self._forward(local, remote)
        forward = self._waiting.popleft()
        for name, before in forward.taken.items():
            batch = next((batch for batch in (remote, local) if batch is not None and name in batch), None)
            if batch is not None and not same(before, as_tensor(self.name, name, batch[name])):
                raise ConfigError(
                    f"{self.name}: backward_one_step got another {name!r} than the forward before it ran on; a "
                    "gradient belongs to the activation that was sent: give the same batch, or none"
                )
        return forward

    @property
    def _device(self) -> torch.device:
        first = next(self.network.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _folder(self, path: str | Path | None) -> Path:
        return Path(path if path is not None else self.yaml_data.ckpt_path)

    def _report_untrained(self) -> None:
        if names := untrained(self.network, self.updates):
            log.warning("%s: no entry of opts trains %s: they stay as they are", self.name, ", ".join(names))

    def _identity(self) -> checkpoint.Identity:
        optimizers = tuple(f"{update.name} of {', '.join(update.parameters)}" for update in self.updates)
        weights = checkpoint.forms(self.network.state_dict())
        return checkpoint.Identity(self.ckpt_name, self.yaml_data.digest, weights, optimizers)

    def _content(self) -> dict[str, Any]:
        weights = self.network.state_dict()
        return {
            "network": dict(weights),
            "eval_network": checkpoint.shared_by(self.eval_network.state_dict(), weights),
            "updates": [update.state() for update in self.updates],
            "loss_scale": {"now": self.loss_scale.now, "clean_steps": self.loss_scale.clean_steps},
            "steps": {"global": self.global_step, "skipped": self.skipped_steps, "overflowed": self.overflowed},
            "position": dict(self.position),
            "random": checkpoint.random_state(self._device),
            "privacy": self._privacy.state_dict() if self._privacy else {},
        }

    def _take_up(self, content: dict[str, Any], has_same_yaml: bool) -> None:
        """Become what a checkpoint's content is."""
        if self._privacy:
            self._privacy.load_state_dict(content["privacy"], same_noise=has_same_yaml)
        self.network.load_state_dict(content["network"])
        for update, state in zip(self.updates, content["updates"], strict=True):
            update.take_up(state, keeps_settings=not has_same_yaml)
        if not has_same_yaml:
            log.warning("%s: the yaml has changed since: its optimizers' settings are those of now", self.name)
        self.loss_scale.take_up(**content["loss_scale"])
        steps = content["steps"]
        self.global_step, self.skipped_steps, self.overflowed = steps["global"], steps["skipped"], steps["overflowed"]
        self.position = content["position"]
        self.drop_step()
        checkpoint.set_random_state(content["random"], self._device)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In eval mode; every module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _detached(tensors: Tensors) -> Tensors:
    return OrderedDict((name, tensor.detach()) for name, tensor in tensors.items())
