"""Which rows changed since somebody last looked.

Every push gets a version. Who asks with a cursor (the version that they have seen) gets the slots that *others*
changed since, and a new cursor. A row's own writer is not told of its own push: it knows what it sent.
"""

from __future__ import annotations

from collections import deque

from flps.table.distinct import union
from flps.table.index import Slots

EVERYBODY = -1  # the writer of a merged entry: everyone is told
_SLOTS_A_ROW = 4  # the log holds at most this many slots for each row of the table before it is shortened


class ChangeLog:
    """Changes of one table in order of version."""

    def __init__(self, version: int = 0) -> None:
        """`version`: of the last change before, of which nothing is known any more."""
        self.version = version
        self._start = version  # entries with versions up to this one have been dropped
        self._entries: deque[tuple[int, int, Slots]] = deque()  # (version, writer, slots)
        self._cursors: dict[int, int] = {}
        self._slots = 0

    def add(self, writer: int, slots: Slots, rows: int) -> None:
        """`writer` changed the rows in these slots, each named once, of a table that has `rows` rows."""
        self.version += 1
        if not slots.size:
            return
        self._entries.append((self.version, writer, slots))
        self._slots += slots.size
        while self._slots > _SLOTS_A_ROW * rows and len(self._entries) > 1:
            self._merge_first_two()

    def since(self, reader: int, cursor: int) -> Slots | None:
        """Slots that others than `reader` changed after `cursor`, ascending; None means: take every row."""
        if cursor < self._start:
            return None
        fresh = [slots for version, writer, slots in self._entries if version > cursor and writer != reader]
        return union(fresh)

    def seen(self, reader: int) -> int:
        """`reader` is now up to date: returns its new cursor and drops what nobody will ask for."""
        self._cursors[reader] = self.version
        oldest = min(self._cursors.values())
        while self._entries and self._entries[0][0] <= oldest:
            self._drop_first()
        return self.version

    def is_seen(self, version: int) -> bool:
        """Whether everybody who ever looked has seen that version."""
        return all(cursor >= version for cursor in self._cursors.values())

    def forget(self, reader: int) -> None:
        """`reader` is gone and will not ask again."""
        self._cursors.pop(reader, None)

    def disown(self, writer: int) -> None:
        """`writer` has forgotten what it wrote: it is to be told of it like everybody else."""
        self._entries = deque((n, EVERYBODY if who == writer else who, slots) for n, who, slots in self._entries)
        self.forget(writer)

    def restart(self) -> None:
        """The table was loaded: everyone must take every row."""
        self.version += 1
        self._start = self.version
        self._entries.clear()
        self._slots = 0

    def _drop_first(self) -> None:
        version, _, slots = self._entries.popleft()
        self._start = version
        self._slots -= slots.size

    def _merge_first_two(self) -> None:
        (_, _, one), (version, _, two) = self._entries.popleft(), self._entries.popleft()
        both = union([one, two])
        self._entries.appendleft((version, EVERYBODY, both))
        self._slots += both.size - one.size - two.size
