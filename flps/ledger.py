"""Each request is carried out once, however often it arrives.

Every client numbers its requests 1, 2, 3, ... within an incarnation (one life of its process). The ledger says of an
arriving number whether it is new, a repeat of one that is still being worked on, or a repeat of one already answered,
or too early: one before it was lost on the way, and both will be sent again.
Law 1: pure bookkeeping; no socket, clock or thread.
Law 2: requests of a client become new in the order of their numbers, each once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from flps.errors import ProtocolError

Answer = TypeVar("Answer")
KEPT_ANSWERS = 4  # more than the requests that a client has under way at once


@dataclass
class _Client(Generic[Answer]):
    incarnation: int
    last: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)


class Ledger(Generic[Answer]):
    """Sequence numbers and last answers of every client."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client[Answer]] = {}

    def admit(self, client: str, incarnation: int, sequence: int) -> Literal["new", "pending", "early"] | Answer:
        """What to do with a request: carry it out ("new"), wait for its answer ("pending"), drop it because it will
        come again ("early"), or send this answer again.

        Raises ProtocolError for an older life of the client, a gap wider than what a client has under way, or an
        answer no longer kept.
        """
        entry = self._clients.get(client)
        if entry is None or incarnation > entry.incarnation:
            entry = self._clients[client] = _Client(incarnation)
        if incarnation < entry.incarnation:
            raise ProtocolError(f"{client} speaks as incarnation {incarnation}, but {entry.incarnation} is known")
        if sequence > entry.last + KEPT_ANSWERS:
            raise ProtocolError(f"{client} sent request {sequence}, expected {entry.last + 1}")
        if sequence == entry.last + 1:
            entry.last = sequence
            return "new"
        if sequence > entry.last:
            return "early"
        if sequence in entry.answers:
            return entry.answers[sequence]
        if sequence <= entry.last - KEPT_ANSWERS:
            raise ProtocolError(f"{client} repeats request {sequence}, whose answer is no longer kept")
        return "pending"

    def settle(self, client: str, incarnation: int, sequence: int, answer: Answer) -> None:
        """Keep the answer for repeats; answers to an earlier life of the client are dropped."""
        entry = self._clients.get(client)
        if entry is None or entry.incarnation != incarnation:
            return
        entry.answers[sequence] = answer
        entry.answers.pop(sequence - KEPT_ANSWERS, None)
