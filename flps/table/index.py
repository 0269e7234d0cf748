"""Key -> slot, vectorised: no Python loop runs over keys.

Law 1: a key's slot never changes while it is in the index.
Law 2: slots are handed out 0, 1, 2, ... in the order of the keys given to `insert`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flps.errors import Refused
from flps.table import storage

Keys = NDArray[np.uint64]
Slots = storage.Slots

MISSING = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbours (Knuth, TAOCP 3, 6.4)


class DirectIndex:
    """Slots of keys below a known bound, one array element a key."""

    def __init__(self, bound: int) -> None:
        self._slots = np.full(bound, MISSING, np.int64)
        self.size = 0

    def lookup(self, keys: Keys) -> Slots:
        """Slot of each key (N,), -1 where it is not in the index. Raises Refused for keys out of range."""
        if keys.size and int(keys.max()) >= self._slots.size:
            raise Refused(f"key {int(keys.max())} is out of range: the table has keys 0..{self._slots.size - 1}")
        return self._slots.take(keys.view(np.int64))

    def insert(self, keys: Keys) -> Slots:
        """Give each of these new, unique keys the next slot; returns the slots (N,)."""
        slots = np.arange(self.size, self.size + keys.size)
        self._slots[keys.view(np.int64)] = slots
        self.size += keys.size
        return slots


class HashIndex:
    """Slots of arbitrary 64-bit keys: open addressing with linear probing, at most half full."""

    def __init__(self, capacity: int = 1024) -> None:
        self._bits = max(10, (capacity - 1).bit_length())
        self._entries = np.zeros((1 << self._bits, 2), np.uint64)  # (key, slot + 1); 0 in the second column: empty
        self.size = 0

    def lookup(self, keys: Keys) -> Slots:
        """Slot of each key (N,), -1 where it is not in the index."""
        place = self._home(keys)
        entry = np.take(self._entries, place, axis=0)
        slots = entry[:, 1].view(np.int64) - 1
        astray = np.flatnonzero((entry[:, 0] != keys) & (slots != MISSING))  # somebody else sits there: look further
        while astray.size:
            place[astray] = (place[astray] + 1) & (len(self._entries) - 1)
            entry = np.take(self._entries, place[astray], axis=0)
            slots[astray] = entry[:, 1].view(np.int64) - 1
            astray = astray[(entry[:, 0] != keys[astray]) & (slots[astray] != MISSING)]
        return slots

    def insert(self, keys: Keys) -> Slots:
        """Give each of these new, unique keys the next slot; returns the slots (N,)."""
        slots = np.arange(self.size, self.size + keys.size)
        self.size += keys.size
        if 2 * self.size > len(self._entries):
            self._grow()
        self._place(keys, slots)
        return slots

    def _home(self, keys: Keys) -> Slots:
        return ((keys * _GOLDEN) >> np.uint64(64 - self._bits)).view(np.int64)

    def _grow(self) -> None:
        old = self._entries[self._entries[:, 1] != 0]
        self._bits = max(self._bits + 1, (4 * self.size - 1).bit_length() - 1)
        self._entries = np.zeros((1 << self._bits, 2), np.uint64)
        self._place(old[:, 0], old[:, 1].view(np.int64) - 1)

    def _place(self, keys: Keys, slots: Slots) -> None:
        """Write entries; of several keys that claim one free place the last wins, the others look further."""
        place = self._home(keys)
        waiting = np.arange(keys.size)
        while waiting.size:
            wanted = place[waiting]
            free = self._entries[wanted, 1] == 0
            claimants = waiting[free]
            self._entries[wanted[free], 1] = (slots[claimants] + 1).astype(np.uint64)
            won = np.zeros(waiting.size, bool)
            won[free] = self._entries[wanted[free], 1] == (slots[claimants] + 1).astype(np.uint64)
            self._entries[wanted[won], 0] = keys[waiting[won]]
            waiting = waiting[~won]
            place[waiting] = (place[waiting] + 1) & (len(self._entries) - 1)


def make_index(bound: int | None) -> DirectIndex | HashIndex:
    """The index for keys 0..bound-1, or for any 64-bit keys when no bound is known."""
    return HashIndex() if bound is None else DirectIndex(bound)
