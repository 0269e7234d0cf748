"""What comes from the other parties in a step, found by what it is.

Law 1: what another party sent is checked by name before a net sees it: both loops stand at the same step, or end.
Law 2: messages of one kind keep their order; of several kinds each is found when it is waited for, in whatever order
the others go through the parts of a batch.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from flps.errors import ProtocolError
from flps.split.course import Course, Receive

Gradients: TypeAlias = dict[str, "OrderedDict[str, Tensor]"]  # label of the sens -> tensor -> its gradient


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


class Mail:
    """The messages of the other parties, of one course again and again."""

    def __init__(self, course: Course, links: Links) -> None:
        self._links = links
        self._due = {
            Due(action.party, frozenset(action.names), is_back)
            for actions, is_back in ((course.forward, False), (course.backward, True))
            for action in actions
            if isinstance(action, Receive)
        }
        self._early: defaultdict[Due, deque[Any]] = defaultdict(deque)

    def activations(self, party: str, names: Sequence[str]) -> dict[str, Tensor]:
        """The next message of these tensors. Raises ProtocolError when the party sends what is not due at all."""
        return dict(self._next(Due(party, frozenset(names), is_back=False)))

    def gradients(self, party: str, names: Sequence[str]) -> Gradients:
        """The next message of gradients of these tensors. Raises as `activations`."""
        return {label: OrderedDict(held) for label, held in self._next(Due(party, frozenset(names), True)).items()}

    def _next(self, due: Due) -> Mapping[str, Any]:
        early = self._early[due]
        if early:
            return early.popleft()  # type: ignore[no-any-return]
        while (found := _seen(due.party, got := self._links.receive(due.party))) != due:
            if found not in self._due:
                raise ProtocolError(
                    f"{due.party} was to send the {'gradients' if due.is_back else 'activations'} "
                    f"{', '.join(sorted(due.names))}, it sent {', '.join(got) or 'nothing'}: are all parties' yaml "
                    "files of one job?"
                )
            self._early[found].append(got)
        return got


class Due(NamedTuple):
    """What a message is."""

    party: str
    names: frozenset[str]
    is_back: bool


def _seen(party: str, got: Mapping[str, Tensor | Mapping[str, Tensor]]) -> Due:
    """What came."""
    inner = [held for held in got.values() if not isinstance(held, Tensor)]
    if len(inner) == len(got):
        return Due(party, frozenset(name for held in inner for name in held), is_back=True)
    return Due(party, frozenset(got), is_back=False)
