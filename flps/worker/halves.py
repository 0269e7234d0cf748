"""A model that two workers train together: each has one part, and the cut between them is a link.

    party A (worker)                 party B (heter_worker)
    joint = a(batch)   -- joint -->  logits = b(batch, joint), loss
                       <- gradient-  d loss / d joint
    backward from it                 backward

Law 1: the trainer sees a model like any other, with a forward and a loss: that part of it lives elsewhere it does not
know.
Law 2: what came across the cut is checked against the own rows before anything is computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from flps.errors import ConfigError, ProtocolError

Batch = Mapping[str, Tensor]
PARTS = ("a", "b")  # attributes of a model that is cut in two
JOINT, GRADIENT = "joint", "gradient"


class Partner(Protocol):
    """The worker that has the other part of the rows."""

    def give(self, name: str, tensor: Tensor) -> None:
        """Send it a tensor."""

    def take(self, name: str) -> Tensor:
        """Wait for the tensor that it sends next, which must be called so. Raises ProtocolError, PeerLost."""


class GivingHalf(nn.Module):
    """Party A's part. It has no labels: its loss is what makes the gradient that comes back the one of `joint`."""

    target = ""

    def __init__(self, part: nn.Module, partner: Partner) -> None:
        super().__init__()
        self.part = part
        self._partner = partner

    def forward(self, batch: Batch) -> Tensor:
        """What crosses the cut (B, J); the partner has got it."""
        joint: Tensor = self.part(batch)
        self._partner.give(JOINT, joint.detach())
        return joint

    def loss(self, joint: Tensor, batch: Batch) -> Tensor:
        """A number without meaning whose gradient by `joint` is the partner's."""
        gradient = self._partner.take(GRADIENT)
        _expect(gradient, joint, GRADIENT)
        return (joint * gradient).sum()


class LabelHalf(nn.Module):
    """Party B's part, which has the labels."""

    def __init__(self, part: nn.Module, target: str, partner: Partner) -> None:
        super().__init__()
        self.part = part
        self.target = target
        self._partner = partner

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B,). In training the gradient of what came goes back as soon as it is there."""
        joint = self._partner.take(JOINT)
        samples = len(batch[self.target])
        if joint.dim() < 1 or len(joint) != samples or not joint.is_floating_point():
            raise ProtocolError(
                f"{samples} rows are here, and the partner sent {joint.dtype} {tuple(joint.shape)} for them: do both "
                "have the same rows and the same runner.train_batch_size?"
            )
        if torch.is_grad_enabled():
            joint.requires_grad_()
            joint.register_hook(lambda gradient: self._partner.give(GRADIENT, gradient))  # type: ignore[no-untyped-call]
        logits: Tensor = self.part(batch, joint)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of the own labels."""
        loss: Tensor = self.part.loss(logits, batch)  # type: ignore[operator]
        return loss


def half_of(model: nn.Module, part: str, partner: Partner) -> GivingHalf | LabelHalf:
    """What the worker with that part trains. Raises ConfigError when the model is not cut in two."""
    missing = [name for name in PARTS if not isinstance(getattr(model, name, None), nn.Module)]
    if missing:
        raise ConfigError(
            f"the model has no part {missing[0]!r}: with runner.vertical it is cut in two modules, `a(batch)`, which "
            "gives what crosses the cut, and `b(batch, joint)`, which gives the logits and has a `loss`"
        )
    own: nn.Module = getattr(model, part)
    return GivingHalf(own, partner) if part == "a" else LabelHalf(own, str(model.target), partner)


def _expect(got: Tensor, own: Tensor, name: str) -> None:
    if got.shape != own.shape or got.dtype != own.dtype:
        raise ProtocolError(
            f"the partner sent the {name} {got.dtype} {tuple(got.shape)}, expected {own.dtype} {tuple(own.shape)}"
        )
