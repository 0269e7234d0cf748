"""sync, by tables of events: whose step is in, and what completes."""

from __future__ import annotations

from typing import Any

import pytest

from flps.errors import Refused
from flps.membership import Member
from flps.message import Update
from flps.server.cohort import Cohort
from flps.transport.listener import Ticket


def offer(
    cohort: Cohort, rank: int, epoch: int, step: int, final: bool = False, together: tuple[int, ...] = ()
) -> None:
    ticket = Ticket(Member("worker", rank), 1, 10 * epoch + step)
    cohort.offer(ticket, Update(epoch, step, 1, final, (), (), together))


def completed(cohort: Cohort) -> list[int] | None:
    steps = cohort.complete()
    return None if steps is None else [ticket.member.rank for ticket, _ in steps]


# events: (rank, epoch, step, final) offers a step; ("drop", rank) drops; a list: these complete; None: nothing does
STORIES: dict[str, list[Any]] = {
    "nobody": [None],
    "alone": [(0, 0, 0), None, (1, 0, 0), None, (2, 0, 0), [0, 1, 2], None],
    "in rank order": [(2, 0, 0), (0, 0, 0), (1, 0, 0), [0, 1, 2]],
    "steps follow each other": [(0, 0, 0), (1, 0, 0), (2, 0, 0), [0, 1, 2], (1, 0, 1), (0, 0, 1), (2, 0, 1), [0, 1, 2]],
    "an early end": [(0, 0, 0, True), (1, 0, 0), (2, 0, 0), [0, 1, 2], (1, 0, 1), None, (2, 0, 1), [1, 2]],
    "everyone comes back in the next epoch": [
        (0, 0, 0, True), (1, 0, 0, True), (2, 0, 0), [0, 1, 2], (2, 0, 1, True), [2],
        (2, 1, 0), None, (0, 1, 0), None, (1, 1, 0), [0, 1, 2],
    ],
    "an empty shard sends one final step": [
        (1, 0, 0, True), (0, 0, 0), (2, 0, 0), [0, 1, 2], (0, 0, 1), (2, 0, 1), [0, 2],
    ],
    "dropped before its step": [(0, 0, 0), (1, 0, 0), ("drop", 2), [0, 1]],
    "dropped after its step": [(0, 0, 0), (2, 0, 0), ("drop", 2), None, (1, 0, 0), [0, 1]],
    "dropped between steps": [
        (0, 0, 0), (1, 0, 0), (2, 0, 0), [0, 1, 2], ("drop", 1), (0, 0, 1), None, (2, 0, 1), [0, 2],
        (2, 1, 0), (0, 1, 0), [0, 2],
    ],
    "who rests comes back in the next epoch": [
        (0, 0, 0), (1, 0, 0), ("rest", 1), (2, 0, 0), [0, 2], (0, 0, 1, True), (2, 0, 1, True), [0, 2],
        (1, 1, 0), (0, 1, 0), None, (2, 1, 0), [0, 1, 2],
    ],
    "or in the one after, when it was not there in time": [
        (0, 0, 0), ("rest", 1), (2, 0, 0), [0, 2], (0, 0, 1, True), (2, 0, 1, True), [0, 2],
        (0, 1, 0, True, (0, 2)), (2, 1, 0, True, (0, 2)), [0, 2],
        (0, 2, 0, False, (0, 1, 2)), (1, 2, 0, False, (0, 1, 2)), None, (2, 2, 0, False, (0, 1, 2)), [0, 1, 2],
    ],
    "when all rest the epoch begins once more": [
        (0, 0, 0), (1, 0, 0), (2, 0, 0), [0, 1, 2], (0, 0, 1), ("rest", 0), ("rest", 1), ("rest", 2), None,
        (1, 0, 0), (0, 0, 0), None, (2, 0, 0), [0, 1, 2],
    ],
    "who is dropped does not count for being released": [
        ("drop", 1), (0, 0, 0, False, (0, 1, 2)), None, (2, 0, 0, False, (0, 1, 2)), [0, 2],
    ],
    "all dropped": [(0, 0, 0), ("drop", 0), ("drop", 1), ("drop", 2), None],
    "the only one that still had batches is dropped": [
        (0, 0, 0, True), (1, 0, 0, True), (2, 0, 0), [0, 1, 2], ("drop", 2), None, (0, 1, 0), (1, 1, 0), [0, 1],
    ],
    "epochs may begin anywhere": [(0, 7, 0), (1, 7, 0), (2, 7, 0), [0, 1, 2]],
    "sent again": [(0, 0, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0), [0, 1, 2]],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_completes(story: str) -> None:
    cohort = Cohort(3)
    for event in STORIES[story]:
        if event is None or isinstance(event, list):
            assert completed(cohort) == event
        elif event[0] == "drop":
            cohort.drop(event[1])
        elif event[0] == "rest":
            cohort.rest(event[1])
        else:
            offer(cohort, *event)


REFUSED: dict[str, tuple[list[tuple[int, ...]], tuple[int, ...]]] = {
    r"worker 0 is at epoch 0 step 1, the cohort at epoch 0 step 0": ([(1, 0, 0)], (0, 0, 1)),
    r"worker 0 is at epoch 1 step 0, the cohort at epoch 0 step 0": ([(1, 0, 0)], (0, 1, 0)),
    r"worker 0 is at epoch 0 step 0, the cohort at epoch 0 step 1": ([(0, 0, 0), (1, 0, 0)], (0, 0, 0)),
    r"worker 0 is at epoch 0 step 2, the cohort at epoch 0 step 1": ([(0, 0, 0), (1, 0, 0)], (0, 0, 2)),
    r"worker 0 is at epoch 1 step 3, the cohort at epoch 1 step 0": ([], (0, 1, 3)),
    r"worker 5 is not in the cohort of epoch 0": ([], (5, 0, 0)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_step_out_of_turn_is_refused(reason: str) -> None:
    before, wrong = REFUSED[reason]
    cohort = Cohort(2)
    for event in before:
        offer(cohort, *event)
        cohort.complete()
    with pytest.raises(Refused, match=reason):
        offer(cohort, *wrong)


def test_who_sent_its_last_step_or_is_gone_is_refused() -> None:
    cohort = Cohort(3)
    offer(cohort, 0, 0, 0, True)
    offer(cohort, 1, 0, 0)
    offer(cohort, 2, 0, 0)
    assert completed(cohort) == [0, 1, 2]
    cohort.drop(1)
    for rank in (0, 1):
        with pytest.raises(Refused, match=f"worker {rank} is not in the cohort of epoch 0: it sent its last step, or"):
            offer(cohort, rank, 0, 1)
    offer(cohort, 2, 0, 1)
    assert completed(cohort) == [2]
