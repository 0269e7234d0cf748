"""One step of a party: its course, carried out with its nets and its links.

Law 1: what travels is the course's business, what is computed the nets'; here they meet, and nothing is known of any
model.
Law 2: what another party sent is checked by name before a net sees it: both loops stand at the same step, or end.
Law 3: the parties move their weights together or not at all: where any net of any party has a loss scale, each tells
the others whether something overflowed in its part, and nobody moves before he has heard of all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from flps.errors import ProtocolError
from flps.split.course import Action, Back, Course, Receive, Run, Send

Tensors: TypeAlias = Mapping[str, Tensor]
Gradients: TypeAlias = dict[str, "OrderedDict[str, Tensor]"]  # label of the sens -> tensor -> its gradient
_OVERFLOW = "has overflowed"  # what a party calls its part of the decision to skip a step


class Seen(Protocol):
    """What an evaluation wants of an FLModel."""

    def forward_one_step(self, local_data_batch: Tensors, remote_data_batch: Tensors) -> Mapping[str, Tensor]:
        """Its outputs by name."""


class Net(Seen, Protocol):
    """What a step of training wants of an FLModel."""

    @property
    def overflowed(self) -> bool:
        """Whether something has overflowed in the backward of this step."""

    def backward_one_step(
        self,
        local_data_batch: Tensors,
        remote_data_batch: Tensors,
        sens: Gradients | None = None,
        *,
        update: bool = True,
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """Gradients of its inputs, by output and input; its parameters move, or wait."""

    def update_one_step(self, overflowed: bool | None = None) -> None:
        """Its parameters move, or stay where they are because something has overflowed somewhere."""


class Links(Protocol):
    """What a step wants of a communicator."""

    def send_tensors(
        self,
        target_server_name: str,
        tensors: Mapping[str, Tensor | Mapping[str, Tensor]],
        *,
        as_they_are: bool = False,
    ) -> None:
        """Give tensors to a party; as_they_are: not packed."""

    def receive(self, target_server_name: str) -> Mapping[str, Tensor | Mapping[str, Tensor]]:
        """The next tensors of a party."""


class PartyLook:
    """Carries out the way there of a course again and again: what an evaluation is made of."""

    def __init__(self, course: Course, nets: Mapping[str, Seen], links: Links) -> None:
        self._course = course
        self._nets = nets
        self._links = links
        self._batch: Tensors = {}
        self._own: dict[str, Tensor] = {}
        self._remote: dict[str, Tensor] = {}

    def forward(self, batch: Tensors) -> dict[str, Tensor]:
        """Everything that this party's nets give for its rows `batch`, by name.

        Raises ProtocolError when another party sends other tensors than its nets give.
        """
        self._batch, self._own, self._remote = batch, {}, {}
        for action in self._course.forward:
            if isinstance(action, Run):
                self._own.update(self._nets[action.net].forward_one_step(self._local(), self._remote))
            elif isinstance(action, Send):
                self._links.send_tensors(action.party, OrderedDict((name, self._own[name]) for name in action.names))
            elif isinstance(action, Receive):
                self._remote.update(_plain(action, self._links.receive(action.party)))
        return self._own

    def _local(self) -> dict[str, Tensor]:
        return {**self._batch, **self._own}


class PartyStep(PartyLook):
    """Carries out one course of training again and again."""

    def __init__(self, course: Course, nets: Mapping[str, Net], links: Links, peers: Sequence[str] = ()) -> None:
        """peers: the parties at the other ends of the links, where steps may overflow; else none."""
        super().__init__(course, nets, links)
        self._trained = nets
        self._peers = peers

    def backward(self) -> None:
        """The way back of the same batch: every net's parameters move, or none does at any party.

        Raises ProtocolError when another party sends other gradients than are due.
        """
        sens: Gradients = {}
        for action in self._course.backward:
            if isinstance(action, Back):
                net = self._trained[action.net]
                _join(sens, net.backward_one_step(self._local(), self._remote, sens=sens or None, update=False))
            elif isinstance(action, Send):
                # No packing takes the NaN of an overflow, and what it leaves out must not be kept for the next step.
                self._links.send_tensors(action.party, _picked(sens, action.names), as_they_are=self._overflowed)
            elif isinstance(action, Receive):
                _join(sens, _nested(action, self._links.receive(action.party)))
        is_overflow = self._overflows_anywhere() if self._peers else None
        for net in self._trained.values():
            net.update_one_step(is_overflow)

    @property
    def _overflowed(self) -> bool:
        return any(net.overflowed for net in self._trained.values())

    def _overflows_anywhere(self) -> bool:
        """Every party's part of the answer, told to all: each hears from a link what is known at its other end.

        Who has one link does not wait for it before he speaks, so two parties do not wait for each other in turn.
        """
        own = self._overflowed
        if len(self._peers) == 1:
            self._tell(self._peers[0], own)
            return self._hear(self._peers[0]) or own
        heard = [self._hear(peer) for peer in self._peers]
        for peer in self._peers:
            self._tell(peer, own or any(heard))
        return own or any(heard)

    def _tell(self, peer: str, is_overflow: bool) -> None:
        self._links.send_tensors(peer, {_OVERFLOW: torch.tensor([is_overflow])})

    def _hear(self, peer: str) -> bool:
        heard = _plain(Receive(peer, (_OVERFLOW,)), self._links.receive(peer))
        return bool(heard[_OVERFLOW].any())


def _join(sens: Gradients, more: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A tensor that several nets took has the sum of their gradients."""
    for label, gradients in more.items():
        known = sens.setdefault(label, OrderedDict())
        for name, gradient in gradients.items():
            known[name] = known[name] + gradient if name in known else gradient


def _picked(sens: Gradients, names: tuple[str, ...]) -> Gradients:
    """By label the gradients of these tensors."""
    picked = {label: OrderedDict((n, held[n]) for n in names if n in held) for label, held in sens.items()}
    return {label: held for label, held in picked.items() if held}


def _plain(action: Receive, got: Mapping[str, Tensor | Mapping[str, Tensor]]) -> dict[str, Tensor]:
    tensors = {name: held for name, held in got.items() if isinstance(held, Tensor)}
    _expect(action, "activations", list(got), set(tensors))
    return tensors


def _nested(action: Action, got: Mapping[str, Tensor | Mapping[str, Tensor]]) -> Gradients:
    assert isinstance(action, Receive)
    gradients: Gradients = {label: OrderedDict(held) for label, held in got.items() if not isinstance(held, Tensor)}
    _expect(action, "gradients", list(got), {name for held in gradients.values() for name in held})
    return gradients


def _expect(action: Receive, what: str, got: list[str], names: set[str]) -> None:
    if names != set(action.names):
        raise ProtocolError(
            f"{action.party} was to send the {what} {', '.join(action.names)}, it sent {', '.join(got) or 'nothing'}: "
            "are all parties' yaml files of one job?"
        )
