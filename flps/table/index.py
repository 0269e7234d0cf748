"""Key -> slot and back, vectorised: no Python loop runs over keys.

Law 1: a key's slot never changes while it is in the index, but for `keep`, which numbers all that stay anew.
Law 2: slots are handed out 0, 1, 2, ... in the order of the keys given to `insert`; at most 2**31 - 1 of them.
Law 3: which keys collide depends on a random salt: a peer that chooses keys cannot choose slow look-ups. The salt is
in no answer and no dump, so it needs no seed.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from flps.errors import Refused
from flps.table import storage
from flps.table.storage import GrowingArray, random_access_memory

Keys = NDArray[np.uint64]
Slots = storage.Slots

MISSING = -1
_DIRECT_MAX = 1 << 26  # an array of so many places costs 256 MB once all are touched
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbours (Knuth, TAOCP 3, 6.4)
_HALF = np.uint64(32)
_KEYS_A_PART = 1 << 18  # what is placed anew is placed in parts of so many keys, to keep what is made on the way small


class KeyList:
    """The keys of an index by slot."""

    def __init__(self) -> None:
        self.size = 0
        self._array = GrowingArray(None, "uint64")
        self._array.reserve(1)

    @property
    def nbytes(self) -> int:
        """Bytes held for keys."""
        return self._array.nbytes

    def append(self, keys: Keys) -> Slots:
        """Give each key the next slot; returns the slots (N,). Raises Refused when there are no more."""
        size = self.size + keys.size
        if size > np.iinfo(np.int32).max:
            raise Refused(f"a table holds at most {np.iinfo(np.int32).max} rows on one server: use more servers")
        self._array.reserve(size)
        self._array.lines[self.size : size] = keys
        slots = np.arange(self.size, size)
        self.size = size
        return slots

    def at(self, slots: Slots) -> Keys:
        """The keys in these slots (N,); some key for a slot that is not there."""
        keys: Keys = self._array.lines.take(slots, mode="clip")
        return keys

    def between(self, start: int, stop: int) -> Keys:
        """The keys in slots start..stop-1, a copy."""
        return self._array.lines[start : min(stop, self.size)].copy()

    def keep(self, slots: Slots) -> None:
        """Only the keys in these ascending slots stay, and close ranks."""
        kept = self._array.lines.take(slots)
        self._array.lines[: kept.size] = kept
        self._array.truncate(kept.size)
        self.size = kept.size


class DirectIndex:
    """Slots of keys below a known bound, one array element a key."""

    def __init__(self, bound: int) -> None:
        self.keys = KeyList()
        self._next = np.zeros(bound, np.int32)  # slot + 1, so that what is not touched takes no memory

    @property
    def size(self) -> int:
        """Keys in the index."""
        return self.keys.size

    @property
    def nbytes(self) -> int:
        """Bytes held, were every place touched."""
        return self.keys.nbytes + self._next.nbytes

    def lookup(self, keys: Keys) -> Slots:
        """Slot of each key (N,), -1 where it is not in the index. Raises Refused for keys out of range."""
        _refuse_from(self._next.size, keys)
        slots = self._next.take(keys.view(np.int64)).astype(np.int64)
        slots -= 1
        return slots

    def insert(self, keys: Keys) -> Slots:
        """Give each of these new, unique keys the next slot; returns the slots (N,)."""
        slots = self.keys.append(keys)
        self._next[keys.view(np.int64)] = slots + 1
        return slots

    def keep(self, slots: Slots) -> None:
        """Only the keys in these ascending slots (M,) stay, as slots 0..M-1."""
        self._next[:] = 0
        self.keys.keep(slots)
        for start in range(0, self.size, _KEYS_A_PART):
            keys = self.keys.between(start, start + _KEYS_A_PART)
            self._next[keys.view(np.int64)] = np.arange(start + 1, start + 1 + keys.size)


class HashIndex:
    """Slots of 64-bit keys: open addressing with linear probing, at most a third full.

    A place holds a slot alone; the key that it stands for is read from the list of keys.
    """

    def __init__(self, capacity: int = 256, bound: int | None = None) -> None:
        """`bound`: keys from it on are refused."""
        self.keys = KeyList()
        self._bound = bound
        self._salt = np.uint64(secrets.randbits(64) | 1)
        self._make_places(capacity)

    @property
    def size(self) -> int:
        """Keys in the index."""
        return self.keys.size

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self._places.nbytes

    def lookup(self, keys: Keys) -> Slots:
        """Slot of each key (N,), -1 where it is not in the index. Raises Refused for keys out of range."""
        if self._bound is not None:
            _refuse_from(self._bound, keys)
        place = self._home(keys)
        slots = self._places.take(place).astype(np.int64)
        # On the way to a key that is here no place is empty, so what is read for an empty one does not matter.
        is_other = self.keys.at(slots) != keys
        is_other &= slots != MISSING
        astray = np.flatnonzero(is_other)
        if astray.size:
            slots[astray] = self._look_further(keys[astray], place[astray])
        return slots

    def insert(self, keys: Keys) -> Slots:
        """Give each of these new, unique keys the next slot; returns the slots (N,)."""
        slots = self.keys.append(keys)
        if 3 * self.size > self._places.size:
            self._make_places(self.size)
            self._place_all()
        else:
            self._place(keys, slots)
        return slots

    def keep(self, slots: Slots) -> None:
        """Only the keys in these ascending slots (M,) stay, as slots 0..M-1."""
        self.keys.keep(slots)
        self._make_places(self.size)
        self._place_all()

    def _make_places(self, keys: int) -> None:
        """Empty places, four to eight for each key."""
        bits = max(10, (4 * keys - 1).bit_length())
        self._places = np.empty(0, np.int32)  # the old ones go before the new ones come
        self._places = np.frombuffer(random_access_memory(4 << bits), np.int32)
        self._places[:] = MISSING
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1

    def _home(self, keys: Keys) -> Slots:
        hashed = keys * self._salt
        hashed ^= hashed >> _HALF
        hashed *= _GOLDEN
        hashed >>= self._shift
        return hashed.view(np.int64)

    def _look_further(self, keys: Keys, place: Slots) -> Slots:
        """Slots of keys (N,) of whom somebody else sits at `place` (N,)."""
        found = np.empty(keys.size, np.int64)
        where = np.arange(keys.size)
        while where.size:
            place += 1
            place &= self._mask
            slots = self._places.take(place).astype(np.int64)
            found[where] = slots
            is_other = self.keys.at(slots) != keys
            is_other &= slots != MISSING
            further = np.flatnonzero(is_other)
            where, keys, place = where[further], keys[further], place[further]
        return found

    def _place_all(self) -> None:
        for start in range(0, self.size, _KEYS_A_PART):
            keys = self.keys.between(start, start + _KEYS_A_PART)
            self._place(keys, np.arange(start, start + keys.size))

    def _place(self, keys: Keys, slots: Slots) -> None:
        """Write slots down; of several keys that claim one free place the last wins, the others look further."""
        place, claims = self._home(keys), slots.astype(np.int32)
        while claims.size:
            is_free = self._places.take(place) == MISSING
            self._places[place[is_free]] = claims[is_free]
            waiting = np.flatnonzero(self._places.take(place) != claims)
            place, claims = place[waiting], claims[waiting]
            place += 1
            place &= self._mask


def make_index(bound: int | None) -> DirectIndex | HashIndex:
    """The index for keys 0..bound-1, or for any 64-bit keys when no bound is known."""
    return DirectIndex(bound) if bound is not None and bound <= _DIRECT_MAX else HashIndex(bound=bound)


def _refuse_from(bound: int, keys: Keys) -> None:
    if keys.size and int(keys.max()) >= bound:
        raise Refused(f"key {int(keys.max())} is out of range: the table has keys 0..{bound - 1}")
