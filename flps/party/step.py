"""One step of a party: its course, carried out with its nets and its links.

Law 1: what travels is the course's business, what is computed the nets'; here they meet, and nothing is known of any
model.
Law 2: the parties move their weights together or not at all: where any net of any party has a loss scale, each tells
the others whether something overflowed in its part, and nobody moves before he has heard of all.
Law 3: a batch in several parts (schedule.py) gives what it gives as a whole, where losses are means over the rows: each
part counts by its share, and the weights move once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from flps.party.border import expect_finite, expect_forms, expect_rows
from flps.party.mail import Gradients, Links, Mail
from flps.party.schedule import turns
from flps.split.course import Action, Back, Course, Receive, Run, Send

Tensors: TypeAlias = Mapping[str, Tensor]
_OVERFLOW = "has overflowed"  # what a party calls its part of the decision to skip a step


class Seen(Protocol):
    """What an evaluation wants of an FLModel."""

    def forward_one_step(self, local_data_batch: Tensors, remote_data_batch: Tensors) -> Mapping[str, Tensor]:
        """Its outputs by name."""


class Net(Seen, Protocol):
    """What a step of training wants of an FLModel."""

    window: int  # forwards that may wait for their backward

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
        share: float = 1.0,
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """Gradients of its inputs, by output and input; its parameters move, or wait for more."""

    def update_one_step(self, overflowed: bool | None = None) -> None:
        """Its parameters move, or stay where they are because something has overflowed somewhere."""


class PartyLook:
    """Carries out the way there of a course again and again: what an evaluation is made of."""

    def __init__(self, course: Course, nets: Mapping[str, Seen], links: Links) -> None:
        self._course = course
        self._nets = nets
        self._links = links
        self._mail = Mail(course, links)
        self._sent_back = {name for action in course.backward if isinstance(action, Send) for name in action.names}

    def forward(self, batch: Tensors) -> dict[str, Tensor]:
        """Everything that this party's nets give for its rows `batch`, by name.

        Raises ProtocolError when another party sends other tensors than its nets give.
        """
        part = Part(batch)
        for action in self._course.forward:
            self._go(part, action)
        return part.own

    def _go(self, part: Part, action: Action) -> None:
        """One action on the way there."""
        if isinstance(action, Run):
            part.own.update(self._nets[action.net].forward_one_step(part.local, part.remote))
        elif isinstance(action, Send):
            given = OrderedDict((name, part.own[name]) for name in action.names)
            expect_finite(given, action.party, "activation")
            self._links.send_tensors(action.party, given)
        elif isinstance(action, Receive):
            got = self._mail.activations(action.party, action.names)
            expect_rows(got, action.party, part.rows, self._sent_back)
            part.remote.update(got)


class PartyStep(PartyLook):
    """Carries out one course of training again and again."""

    def __init__(
        self, course: Course, nets: Mapping[str, Net], links: Links, peers: Sequence[str] = (), micro_batches: int = 1
    ) -> None:
        """peers: the parties at the other ends of the links, where steps may overflow; else none. micro_batches: into
        how many parts a batch is cut, at all parties alike.
        """
        super().__init__(course, nets, links)
        self._trained = nets
        self._peers = peers
        self._micro_batches = micro_batches
        self._went_back: set[str] = set()  # the nets whose `overflowed` is of this step
        for net in nets.values():
            net.window = micro_batches

    def train(self, batch: Tensors, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
        """One step: every net's parameters move, or none does at any party.

        meanwhile: called before another party is waited for on the way back; short work that fills that time. Returns
        everything that this party's nets gave for its rows `batch`, by name; of a number for all rows (a loss)
        the mean over the parts. Raises ProtocolError when another party sends other tensors than are due.
        """
        parts = parts_of(batch, self._micro_batches)
        self._went_back.clear()
        for number, action, is_back in turns(self._course, len(parts)):
            if is_back:
                self._go_back(parts[number], action, meanwhile)
            else:
                self._go(parts[number], action)
        is_overflow = self._overflows_anywhere(meanwhile) if self._peers else None
        for net in self._trained.values():
            net.update_one_step(is_overflow)
        return whole_of(parts)

    def _go_back(self, part: Part, action: Action, meanwhile: Callable[[], None]) -> None:
        """One action on the way back."""
        if isinstance(action, Back):
            net, sens = self._trained[action.net], part.sens or None
            self._went_back.add(action.net)
            _join(part.sens, net.backward_one_step(part.local, part.remote, sens, update=False, share=part.share))
        elif isinstance(action, Send):
            picked = _picked(part.sens, action.names)
            if not self._peers:  # where steps may be skipped, NaN is how an overflow is told
                for held in picked.values():
                    expect_finite(held, action.party, "gradient")
            # No packing takes the NaN of an overflow, and what it leaves out must not be kept for the next step.
            self._links.send_tensors(action.party, picked, as_they_are=self._overflowed)
        elif isinstance(action, Receive):
            meanwhile()
            gradients = self._mail.gradients(action.party, action.names)
            for held in gradients.values():
                expect_forms(held, action.party, part.own)
            _join(part.sens, gradients)

    @property
    def _overflowed(self) -> bool:
        return any(self._trained[name].overflowed for name in self._went_back)

    def _overflows_anywhere(self, meanwhile: Callable[[], None]) -> bool:
        """Every party's part of the answer, told to all: each hears from a link what is known at its other end.

        Who has one link does not wait for it before he speaks, so two parties do not wait for each other in turn.
        """
        own = self._overflowed
        if len(self._peers) == 1:
            self._tell(self._peers[0], own)
            meanwhile()
            return self._hear(self._peers[0]) or own
        meanwhile()
        heard = [self._hear(peer) for peer in self._peers]
        for peer in self._peers:
            self._tell(peer, own or any(heard))
        return own or any(heard)

    def _tell(self, peer: str, is_overflow: bool) -> None:
        self._links.send_tensors(peer, {_OVERFLOW: torch.tensor([is_overflow])})

    def _hear(self, peer: str) -> bool:
        return bool(self._mail.activations(peer, [_OVERFLOW])[_OVERFLOW].any())


@dataclass
class Part:
    """Some rows of a batch, and what has become of them so far."""

    batch: Tensors
    share: float = 1.0  # of the batch's rows
    own: dict[str, Tensor] = field(default_factory=dict)
    remote: dict[str, Tensor] = field(default_factory=dict)
    sens: Gradients = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.batch.values())))

    @property
    def local(self) -> dict[str, Tensor]:
        """What this party itself has of these rows."""
        return {**self.batch, **self.own}


def parts_of(batch: Tensors, count: int) -> list[Part]:
    """A batch cut into that many parts, as even as can be, none of them empty; what has no rows is in all of them."""
    rows = len(next(iter(batch.values())))
    count = max(1, min(count, rows))
    if count == 1:
        return [Part(batch)]
    cut = {name: held.tensor_split(count) for name, held in batch.items() if held.ndim and len(held) == rows}
    parts = [{name: cut[name][n] if name in cut else held for name, held in batch.items()} for n in range(count)]
    return [Part(part, len(next(iter(part.values()))) / rows) for part in parts]


def whole_of(parts: Sequence[Part]) -> dict[str, Tensor]:
    """What the nets gave for all parts together."""
    if len(parts) == 1:
        return parts[0].own
    return {
        name: torch.cat([part.own[name] for part in parts])
        if held.ndim
        else torch.stack([part.own[name] * part.share for part in parts]).sum()
        for name, held in parts[0].own.items()
    }


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
