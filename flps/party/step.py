"""One step of a party: its course, carried out with its nets and its links.

Law 1: what travels is the course's business, what is computed the nets'; here they meet, and nothing is known of any
model.
Law 2: what another party sent is checked by name before a net sees it: both loops stand at the same step, or end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from torch import Tensor

from flps.errors import ProtocolError
from flps.split.course import Action, Back, Course, Receive, Run, Send

Tensors: TypeAlias = Mapping[str, Tensor]
Gradients: TypeAlias = dict[str, "OrderedDict[str, Tensor]"]  # label of the sens -> tensor -> its gradient


class Net(Protocol):
    """What a step wants of an FLModel."""

    def forward_one_step(self, local_data_batch: Tensors, remote_data_batch: Tensors) -> Mapping[str, Tensor]:
        """Its outputs by name."""

    def backward_one_step(
        self, local_data_batch: Tensors, remote_data_batch: Tensors, sens: Gradients | None = None
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """Gradients of its inputs, by output and input; its parameters move."""


class Links(Protocol):
    """What a step wants of a communicator."""

    def send_tensors(self, target_server_name: str, tensors: Mapping[str, Tensor | Mapping[str, Tensor]]) -> None:
        """Give tensors to a party."""

    def receive(self, target_server_name: str) -> Mapping[str, Tensor | Mapping[str, Tensor]]:
        """The next tensors of a party."""


class PartyStep:
    """Carries out one course again and again."""

    def __init__(self, course: Course, nets: Mapping[str, Net], links: Links) -> None:
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

    def backward(self) -> None:
        """The way back of the same batch: every net's parameters move.

        Raises ProtocolError when another party sends other gradients than are due.
        """
        sens: Gradients = {}
        for action in self._course.backward:
            if isinstance(action, Back):
                _join(sens, self._nets[action.net].backward_one_step(self._local(), self._remote, sens=sens or None))
            elif isinstance(action, Send):
                self._links.send_tensors(action.party, _picked(sens, action.names))
            elif isinstance(action, Receive):
                _join(sens, _nested(action, self._links.receive(action.party)))

    def _local(self) -> dict[str, Tensor]:
        return {**self._batch, **self._own}


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
