"""The change log against a naive one that keeps everything: nobody misses a change of somebody else."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flps.table import ChangeLog

ROWS = 6
WHO = st.integers(0, 3)
SLOTS = st.sets(st.integers(0, ROWS - 1))


class NaiveLog(RuleBasedStateMachine):
    """Writers and readers of one table of six rows."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ChangeLog()
        self.changes: list[tuple[int, int, set[int]]] = []  # (version, writer, slots), never forgotten
        self.cursors: dict[int, int] = {}
        self.followed: set[int] = set()  # readers that the log knows and that nothing was restarted under

    @rule(writer=WHO, slots=SLOTS)
    def write(self, writer: int, slots: set[int]) -> None:
        self.log.add(writer, np.array(sorted(slots), np.int64), ROWS)
        self.changes.append((self.log.version, writer, slots))

    @rule(writer=WHO)
    def begin_anew(self, writer: int) -> None:
        """A writer has forgotten everything: it is told of its own changes, too."""
        self.log.disown(writer)
        self.changes = [(n, -1 if who == writer else who, slots) for n, who, slots in self.changes]
        self.cursors.pop(writer, None)
        self.followed.discard(writer)

    @rule(reader=WHO)
    def read(self, reader: int) -> None:
        cursor = self.cursors.get(reader, 0)
        answer = self.log.since(reader, cursor)
        missed = [slots for version, writer, slots in self.changes if version > cursor and writer != reader]
        if answer is None:
            assert reader not in self.followed
        else:
            assert set().union(*missed) <= set(answer.tolist())
            assert answer.tolist() == sorted(set(answer.tolist()))
        self.cursors[reader] = self.log.seen(reader)
        self.followed.add(reader)

    @rule(reader=WHO)
    def read_twice(self, reader: int) -> None:
        self.read(reader)
        again = self.log.since(reader, self.cursors[reader])
        assert again is not None
        assert not again.size

    @rule(reader=WHO)
    def forget(self, reader: int) -> None:
        self.log.forget(reader)
        self.followed.discard(reader)

    @precondition(lambda self: self.changes)
    @rule()
    def restart(self) -> None:
        self.log.restart()
        self.changes.append((self.log.version, -1, set(range(ROWS))))
        self.followed.clear()
        for reader, cursor in self.cursors.items():
            assert self.log.since(reader, cursor) is None

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.log._slots == sum(slots.size for _, _, slots in self.log._entries)
        assert self.log._slots <= 4 * ROWS
        assert len(self.log._entries) <= 4 * ROWS


NaiveLog.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestNaiveLog = NaiveLog.TestCase


def slots(*numbers: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(numbers, np.int64)


def test_who_wrote_is_not_told_of_its_own_push() -> None:
    log = ChangeLog()
    log.seen(0)
    log.seen(1)
    log.add(0, slots(1, 2), 100)
    log.add(1, slots(2, 3), 100)
    told = {reader: log.since(reader, 0) for reader in (0, 1, 2)}
    assert {reader: None if s is None else s.tolist() for reader, s in told.items()} == {
        0: [2, 3], 1: [1, 2], 2: [1, 2, 3]
    }  # fmt: skip


def test_a_shortened_log_tells_everybody() -> None:
    """Two rows, so at most eight slots: then the oldest entries become one, which names no writer."""
    log = ChangeLog()
    for _ in range(9):
        log.add(0, slots(0), 2)
    own = log.since(0, 0)
    assert own is not None
    assert own.tolist() == [0]
    assert log.since(0, 2).tolist() == []  # type: ignore[union-attr]


def test_a_newcomer_takes_every_row_once_the_log_has_dropped_something() -> None:
    log = ChangeLog()
    log.add(0, slots(1), 9)
    log.seen(0)
    assert log.since(1, 0) is None
    cursor = log.seen(1)
    log.add(0, slots(4), 9)
    assert log.since(1, cursor).tolist() == [4]  # type: ignore[union-attr]
