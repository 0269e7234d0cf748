"""The privacy section of a net's yaml, applied to what goes in and out of the net in training."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flps.errors import ConfigError
from flps.split.privacy.budget import Budget
from flps.split.privacy.chance import Seed
from flps.split.privacy.cut import CutNoise
from flps.split.privacy.embedding import EmbeddingDP
from flps.split.privacy.label import LabelDP

Tensors: TypeAlias = "OrderedDict[str, Tensor]"


class Protection:
    """What protects one net's labels, activations and gradients; what nothing is said of passes as it is.

    label_dp, embedding_dp, cut: the three, or None. budget: what they have spent.
    """

    def __init__(
        self,
        privacy: Mapping[str, Any],
        *,
        labels: Collection[str] = (),
        outputs: Collection[str] = (),
        inputs: Collection[str] = (),
        ids: str = "row_ids",
        seed: Seed = None,
        rows_per_epoch: int | None = None,
    ) -> None:
        """privacy: as in the yaml, {label_dp: {eps}, embedding_dp: {eps}, cut: {clip, noise, delta}}, each or none.

        labels: which inputs of the net are labels. outputs: which outputs go to another party, and are activations.
        inputs: which inputs come from another party, so that their gradients go there. ids: what a batch calls its
        row ids; the labels of a batch without them are noised anew each time. seed: of all three (see `Chance`).

        Raises ConfigError for a scheme without anything to protect, and for settings that cannot be.
        """
        label, embedding, cut = (privacy.get(scheme) for scheme in ("label_dp", "embedding_dp", "cut"))
        _expect("label_dp", label, labels, "no input is a label")
        _expect("embedding_dp", embedding, outputs, "no output goes to another party")
        _expect("cut", cut, inputs, "no input comes from another party, so no gradient goes there")
        self._labels, self._outputs, self._inputs = frozenset(labels), frozenset(outputs), frozenset(inputs)
        self._ids = ids
        self.label_dp = LabelDP(label["eps"], seed) if label else None
        self.embedding_dp = None
        if embedding is not None:
            self.embedding_dp = EmbeddingDP(embedding.get("eps"), seed, rows_per_epoch=rows_per_epoch)
        self.cut = CutNoise(seed=seed, rows_per_epoch=rows_per_epoch, **cut) if cut else None
        self._all = {"label_dp": self.label_dp, "embedding_dp": self.embedding_dp, "cut": self.cut}
        self.budget = Budget(mechanism for mechanism in self._all.values() if mechanism is not None)

    @property
    def signs(self) -> frozenset[str]:
        """Outputs that go out as 0 and 1."""
        return self._outputs if self.embedding_dp is not None else frozenset()

    def inputs(self, inputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensors:
        """Before a forward in training: labels among the inputs are noised. `batch` may hold the rows' ids."""
        protect = self.label_dp
        if protect is None:
            return OrderedDict(inputs)
        ids = batch.get(self._ids)
        return OrderedDict(
            (name, protect(tensor, ids, name=name) if name in self._labels else tensor)
            for name, tensor in inputs.items()
        )

    def activations(self, outputs: Mapping[str, Tensor]) -> Tensors:
        """Before outputs go out in training. All that are protected are one row together, in the accounts too."""
        chosen = [name for name in outputs if name in self._outputs]
        if self.embedding_dp is None or not chosen:
            return OrderedDict(outputs)
        rows = {outputs[name].shape[0] for name in chosen if outputs[name].ndim}
        if len(rows) != 1 or not all(outputs[name].ndim for name in chosen):
            raise ConfigError(f"privacy.embedding_dp: {', '.join(chosen)} do not have the same rows")
        widths = [math.prod(outputs[name].shape[1:]) for name in chosen]
        (count,) = rows
        whole = torch.cat([outputs[name].reshape(count, width) for name, width in zip(chosen, widths, strict=True)], 1)
        bits = dict(zip(chosen, torch.split(self.embedding_dp(whole), widths, dim=1), strict=True))
        return OrderedDict(
            (name, bits[name].reshape(tensor.shape).to(tensor.dtype) if name in bits else tensor)
            for name, tensor in outputs.items()
        )

    def looked_at(self, outputs: Mapping[str, Tensor]) -> Tensors:
        """Before outputs go out in evaluation: signs where training sends noisy ones, since by signs the nets behind
        have learned; numbers would mean something else to them.
        """
        return OrderedDict(
            (name, (tensor > 0).to(tensor.dtype) if name in self.signs else tensor) for name, tensor in outputs.items()
        )

    def gradients(self, scales: Mapping[str, Mapping[str, Tensor]], scale: float = 1.0) -> OrderedDict[str, Tensors]:
        """Before the gradients of inputs, {label: {input: gradient}}, go out: those to other parties are noised.

        scale: by how much the gradients are larger now than with the yaml's own `sens` (a loss scale that has moved).
        """
        found = OrderedDict((label, OrderedDict(gradients)) for label, gradients in scales.items())
        places = [(label, name) for label, gradients in found.items() for name in gradients if name in self._inputs]
        if self.cut is not None and places:
            noisy = self.cut({f"{label}/{name}": found[label][name] for label, name in places}, scale)
            for (label, name), gradient in zip(places, noisy.values(), strict=True):
                found[label][name] = gradient
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """For the net's checkpoint, which is then as secret as what is protected."""
        return {
            f"{scheme}/{part}": tensor
            for scheme, mechanism in self._all.items()
            if mechanism is not None
            for part, tensor in mechanism.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor], same_noise: bool = True) -> None:
        """Go on from a checkpoint. Raises ConfigError when it does not have what this yaml protects.

        same_noise: False when the yaml has changed since. Then other numbers may be sent for the rows of a step that
        was sent before, and what was added to them must be other noise, or the difference would give them away.
        Labels keep theirs: another draw for the same label would.
        """
        for scheme, mechanism in self._all.items():
            if mechanism is None:
                continue
            parts = {part: state.get(f"{scheme}/{part}") for part in ("key", "spent")}
            if any(tensor is None for tensor in parts.values()):
                raise ConfigError(
                    f"privacy.{scheme}: the checkpoint was written without it; noise would be drawn anew, and what "
                    "was spent is not known. Take the yaml of that run, or start anew"
                )
            if not same_noise and mechanism is not self.label_dp:
                parts["key"] = mechanism.state_dict()["key"]
            mechanism.load_state_dict({part: tensor for part, tensor in parts.items() if tensor is not None})


def _expect(scheme: str, said: object, names: Collection[str], why: str) -> None:
    if said is not None and not names:
        raise ConfigError(f"privacy.{scheme} has nothing to protect in this net: {why}")
