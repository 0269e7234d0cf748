"""Each request is carried out once, however often it arrives and however often the listener is started again.

Every client numbers its requests 1, 2, 3, ... within an incarnation (one life of its process). The ledger says of an
arriving number whether it is new, a repeat of one that is still being worked on, or a repeat of one already answered,
or too early: one before it was lost on the way, and both will be sent again. With each request a client says up to
which number it is settled: it waits for no answer up to there, so nothing need be kept for it.
Law 1: pure bookkeeping; no socket, clock or thread.
Law 2: requests of a client become new in the order of their numbers, each once. Only questions, which change nothing
and therefore stand in no journal, may come out of order, and only after the journal was replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from flps.errors import ProtocolError

Answer = TypeVar("Answer")
KEPT_ANSWERS = 4  # more than the requests that a client has under way at once
Verdict = Literal["new", "pending", "early", "settled"]


@dataclass
class Account(Generic[Answer]):
    """What is known of one client."""

    incarnation: int
    last: int = 0  # every request up to this one has been admitted, but for those skipped
    settled: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)  # not in the journal that was replayed: questions

    def settle_up_to(self, number: int) -> None:
        """The client waits for nothing up to this number."""
        if number <= self.settled:
            return
        self.settled = number
        self.last = max(self.last, number)
        self.skipped = {sequence for sequence in self.skipped if sequence > number}
        for sequence in [sequence for sequence in self.answers if sequence <= number]:
            del self.answers[sequence]


class Ledger(Generic[Answer]):
    """Sequence numbers and unsettled answers of every client."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account[Answer]] = {}

    def admit(self, client: str, incarnation: int, sequence: int, settled: int = 0) -> Verdict | Answer:
        """What to do with a request: carry it out ("new"), wait for its answer ("pending"), drop it because it will
        come again ("early") or because nobody waits for it ("settled"), or send this answer again.

        Raises ProtocolError for an older life of the client, a gap wider than what a client has under way, or an
        answer no longer kept.
        """
        account = self._account(client, incarnation)
        if settled >= sequence:
            raise ProtocolError(f"{client} sent request {sequence} and says that all up to {settled} are settled")
        account.settle_up_to(settled)
        if sequence > account.last + KEPT_ANSWERS:
            raise ProtocolError(f"{client} sent request {sequence}, expected {account.last + 1}")
        if sequence == account.last + 1:
            account.last = sequence
            return "new"
        if sequence > account.last:
            return "early"
        if sequence <= account.settled:
            return "settled"
        if sequence in account.skipped:
            account.skipped.discard(sequence)
            return "new"
        if sequence in account.answers:
            return account.answers[sequence]
        if sequence <= account.last - KEPT_ANSWERS:
            raise ProtocolError(f"{client} repeats request {sequence}, whose answer is no longer kept")
        return "pending"

    def replay(self, client: str, incarnation: int, sequence: int, settled: int) -> None:
        """A request of the journal is carried out again; what it leaves out were questions, and they may come again.

        Raises ProtocolError for an older life of the client.
        """
        account = self._account(client, incarnation)
        account.settle_up_to(settled)
        account.skipped.update(range(account.last + 1, sequence))
        account.last = max(account.last, sequence)

    def settle(self, client: str, incarnation: int, sequence: int, answer: Answer) -> None:
        """Keep the answer for repeats; answers to an earlier life of the client are dropped."""
        account = self._accounts.get(client)
        if account is None or account.incarnation != incarnation or sequence <= account.settled:
            return
        account.answers[sequence] = answer
        account.answers.pop(sequence - KEPT_ANSWERS, None)

    def accounts(self) -> Iterator[tuple[str, Account[Answer]]]:
        """Every client with its account, by name."""
        yield from sorted(self._accounts.items())

    def restore(self, client: str, account: Account[Answer]) -> None:
        """Take over an account that was kept elsewhere."""
        self._accounts[client] = account

    def _account(self, client: str, incarnation: int) -> Account[Answer]:
        account = self._accounts.get(client)
        if account is None or incarnation > account.incarnation:
            account = self._accounts[client] = Account(incarnation)
        if incarnation < account.incarnation:
            raise ProtocolError(f"{client} speaks as incarnation {incarnation}, but {account.incarnation} is known")
        return account
