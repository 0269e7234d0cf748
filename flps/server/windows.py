"""geo: how much does a client's delta weigh, and what has changed since it last looked?

weight of client i = samples of its window / samples of that window over the clients that train (design, decision 5),
or 1/number of clients present. A client that has sent its last window of an epoch trains again when the next begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from flps.message import Changes, Push, Window
from flps.packing import RowType, pack
from flps.server.store import Store
from flps.table import ChangeLog, CountedTable, SparseTable
from flps.table.change_log import EVERYBODY
from flps.table.index import Keys, Slots

_UNTIL_ITS_NEXT = 2**53  # later than every epoch


class WindowsState(msgspec.Struct, frozen=True):
    """What the clients' next windows weigh by."""

    samples: dict[int, int]
    resting: dict[int, int]


class Windows:
    """Weights of the clients and change logs of the tables."""

    def __init__(
        self, store: Store, workers: int, weights: Literal["samples", "uniform"], row_type: RowType = "float32"
    ) -> None:
        """`row_type`: how rows travel to the clients."""
        self._row_type = row_type
        self._store = store
        self._weights = weights
        self._present = set(range(workers))
        self._samples: dict[int, int] = {}  # of each client's last window
        self._resting: dict[int, int] = {}  # client -> the epoch whose last window it has sent
        self._logs: dict[int, ChangeLog] = {}
        self._gone: dict[int, list[tuple[int, Keys]]] = {}  # table -> (version, keys whose rows were removed then)

    def state(self) -> WindowsState:
        """Everything but the change logs: who goes on from here takes every row once."""
        return WindowsState(dict(self._samples), dict(self._resting))

    def take_up(self, state: WindowsState) -> None:
        """Go on from there."""
        self._samples, self._resting = dict(state.samples), dict(state.resting)

    @property
    def is_at_rest(self) -> bool:
        """Whether everybody knows which rows have been removed."""
        return not any(self._gone.values())

    def versions(self) -> dict[int, int]:
        """Table -> the version of its changes."""
        return {table: log.version for table, log in self._logs.items()}

    def take_up_versions(self, versions: Mapping[int, int]) -> None:
        """Go on from there: every cursor that was handed out is older than what comes."""
        for table, version in versions.items():
            self._logs[table] = ChangeLog(version)
            self._logs[table].restart()

    def drop(self, rank: int) -> None:
        """A client is gone."""
        self._present.discard(rank)
        for log in self._logs.values():
            log.forget(rank)

    def rest(self, rank: int) -> None:
        """A client has begun anew: it knows nothing of what it sent, and counts again with its first window."""
        self._samples.pop(rank, None)
        self._resting[rank] = _UNTIL_ITS_NEXT
        for log in self._logs.values():
            log.disown(rank)

    def take(self, rank: int, window: Window) -> Changes:
        """Apply a client's deltas and tell it what others changed. Raises Refused, and then nothing has changed."""
        self._store.accept(window.deltas)
        for table in window.cursors:
            self._store.table(table)
        weight = self._weight(rank, window)
        for delta in window.deltas:
            scaled = delta.values * delta.values.dtype.type(weight)
            slots = self._store.apply(Push(delta.table, delta.keys, scaled, delta.counts))
            self._log(delta.table).add(rank, slots, self._rows(delta.table))
            self._tell_held_back(delta, slots)
        changed: list[Push] = []
        more: dict[int, int] = {}
        cursors: dict[int, int] = {}
        for table, cursor in window.cursors.items():
            came = window.after.get(table, 0)
            pushes, so_far = self._changed(rank, table, cursor, came)
            changed += pushes
            if so_far is not None:
                more[table] = so_far
            if not came:  # what changes while the pieces come is told again later
                cursors[table] = self._log(table).seen(rank)
            if table in self._gone:
                self._gone[table] = [(n, keys) for n, keys in self._gone[table] if not self._log(table).is_seen(n)]
        return Changes(weight, tuple(changed), cursors, more)

    def _weight(self, rank: int, window: Window) -> float:
        if not window.samples and not window.final:
            return 0.0  # only looks
        self._resting.pop(rank, None)
        self._samples[rank] = window.samples
        training = [r for r in self._present if self._resting.get(r, -1) < window.epoch]
        if window.final:
            self._resting[rank] = window.epoch
        if self._weights == "uniform":
            return 1.0 / max(len(self._present), 1)
        # A client not heard of yet is taken to be like this one.
        total = sum(self._samples.get(r, window.samples) for r in training)
        return window.samples / total if total else 0.0

    def forget_rows(self, table: int, keys: Keys) -> None:
        """The rows of these keys are gone and the others stand elsewhere: everyone is told how rows of the keys begin,
        and takes every row.
        """
        if table in self._logs:
            self._logs[table].restart()
            self._gone.setdefault(table, []).append((self._logs[table].version, keys))

    def _tell_held_back(self, delta: Push, changed: Slots) -> None:
        """Rows of keys that are not let in did not change: their sender, too, is to be told how they are."""
        target = self._store.tables[delta.table]
        if isinstance(target, CountedTable) and delta.keys is not None and changed.size < delta.keys.size:
            held_back = np.setdiff1d(target.slots(delta.keys), changed)
            self._log(delta.table).add(EVERYBODY, held_back, len(target))

    def _changed(self, rank: int, table: int, cursor: int, came: int) -> tuple[list[Push], int | None]:
        """What others changed; more rows than a message holds come in pieces, and then every row comes. `came`: how
        many have. Also returns how many will have come after this piece, when it is not the last one.
        """
        target = self._store.tables[table]
        slots = None if came else self._log(table).since(rank, cursor)
        if slots is not None and not slots.size:
            return [], None
        if not isinstance(target, SparseTable):
            return [Push(table, None, pack(target.pull(), self._row_type))], None
        most, end = self._store.rows_in_a_message(table), len(target)
        if slots is None or slots.size > most:
            end = min(came + most, end)
            slots = np.arange(came, end)
        begun = [] if came else self._begun_anew(table, cursor)
        rows = Push(table, target.keys(slots), pack(target.read(slots), self._row_type))
        return [*begun, rows], end if end < len(target) else None

    def _begun_anew(self, table: int, cursor: int) -> list[Push]:
        """Keys whose rows are gone since, with the values that they begin with."""
        target = self._store.tables[table]
        if not isinstance(target, CountedTable):
            return []
        gone = [keys for version, keys in self._gone.get(table, ()) if version > cursor and keys.size]
        return [Push(table, keys, target.first_values(keys)) for keys in gone]

    def _rows(self, table: int) -> int:
        target = self._store.tables[table]
        return len(target) if isinstance(target, SparseTable) else 1

    def _log(self, table: int) -> ChangeLog:
        if table not in self._logs:
            self._logs[table] = ChangeLog()
            if self._store.is_warm:  # clients begin with first values: who looks for the first time takes every row
                self._logs[table].restart()
        return self._logs[table]
