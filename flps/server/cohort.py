"""sync: when is a step complete? The cohort of a step is the workers that still have a batch in this epoch.

Law: pure code. Workers all leave the barrier before an epoch before any of them sends its first step, and with it
they say who left that barrier together: the first message of a new epoch tells who is in it.
"""

from __future__ import annotations

import msgspec

from flps.errors import Refused
from flps.message import Update
from flps.transport.listener import Ticket


class CohortState(msgspec.Struct, frozen=True):
    """Where a cohort is between two steps."""

    epoch: int
    step: int
    expected: tuple[int, ...]  # ranks


class Cohort:
    """Collects one step of every worker that still has a batch."""

    def __init__(self, workers: int) -> None:
        self._alive = set(range(workers))
        self._expected: set[int] = set()
        self._epoch = -1
        self._step = 0
        self._arrived: dict[int, tuple[Ticket, Update]] = {}

    def state(self) -> CohortState:
        """Where it is, for a checkpoint: nobody's step is waiting for the others'."""
        return CohortState(self._epoch, self._step, tuple(sorted(self._expected)))

    def take_up(self, state: CohortState) -> None:
        """Go on from there."""
        self._epoch, self._step, self._expected = state.epoch, state.step, set(state.expected) & self._alive

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody's step waits for the others'."""
        return not self._arrived

    def offer(self, ticket: Ticket, update: Update) -> None:
        """A worker's step arrived. Raises Refused when it is not the step that the cohort is at."""
        rank = ticket.member.rank
        if self._begins(update):
            together = self._alive & set(update.cohort) if update.cohort else self._alive
            self._epoch, self._step, self._expected = update.epoch, 0, set(together)
        if (update.epoch, update.step) != (self._epoch, self._step):
            raise Refused(
                f"worker {rank} is at epoch {update.epoch} step {update.step}, "
                f"the cohort at epoch {self._epoch} step {self._step}"
            )
        if rank not in self._expected:
            raise Refused(
                f"worker {rank} is not in the cohort of epoch {self._epoch}: it sent its last step, or is gone"
            )
        self._arrived[rank] = (ticket, update)

    def rest(self, rank: int) -> None:
        """A worker has begun anew: it takes no part before the next epoch."""
        self._expected.discard(rank)
        self._arrived.pop(rank, None)

    def drop(self, rank: int) -> None:
        """A worker is gone; its step that is not complete yet is forgotten."""
        self._alive.discard(rank)
        self.rest(rank)

    def complete(self) -> list[tuple[Ticket, Update]] | None:
        """The steps of all, in rank order, when everybody expected has arrived; the next step begins."""
        if not self._arrived or self._expected - self._arrived.keys():
            return None
        steps = [self._arrived[rank] for rank in sorted(self._arrived)]
        self._expected -= {ticket.member.rank for ticket, update in steps if update.final}
        self._arrived.clear()
        self._step += 1
        return steps

    def _begins(self, update: Update) -> bool:
        """Whether this is the first message of an epoch; one that nobody came to the end of may begin once more."""
        again = update.epoch == self._epoch and update.step == 0 and not self._expected
        return not self._arrived and (update.epoch > self._epoch or again)
