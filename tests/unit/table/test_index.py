"""Both indexes against a dict: same slots, in the order of insertion, whatever the keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import Refused
from flps.table.index import MISSING, DirectIndex, HashIndex, make_index

TOP = 2**64 - 1
INVERSE = pow(0x9E3779B97F4A7C15, -1, 2**64)  # undoes the multiplication of the hash: keys can be made for a home


def at_home(home: int, number: int, bits: int = 10) -> int:
    """The key with this home in a table of 2**bits places; `number` tells such keys apart."""
    return ((home << (64 - bits)) + number) * INVERSE % 2**64


def at_salted_home(index: HashIndex, home: int, number: int) -> int:
    """The same for this index, by one who knows its salt."""
    salted = (home << int(index._shift)) + number
    hashed = salted * INVERSE % 2**64
    return (hashed ^ hashed >> 32) * pow(int(index._salt), -1, 2**64) % 2**64


COLLIDING = st.builds(at_home, st.sampled_from([0, 1, 1022, 1023]), st.integers(0, 300))
KEYS = st.one_of(st.sampled_from([0, 1, TOP, TOP - 1, 2**63]), st.integers(0, TOP), st.integers(0, 50), COLLIDING)


def array(keys: list[int]) -> Any:
    return np.array(keys, np.uint64)


def drive(index: DirectIndex | HashIndex, batches: list[list[int]]) -> None:
    """Insert the new keys of each batch; after each, look everything up."""
    known: dict[int, int] = {}
    for batch in batches:
        assert index.lookup(array(batch)).tolist() == [known.get(key, MISSING) for key in batch]
        fresh = [key for key in dict.fromkeys(batch) if key not in known]
        expected = list(range(len(known), len(known) + len(fresh)))
        assert index.insert(array(fresh)).tolist() == expected
        known.update(zip(fresh, expected, strict=True))
        assert index.size == len(known)
        assert index.lookup(array(list(known))).tolist() == list(known.values())


@given(st.lists(st.lists(KEYS, max_size=60), max_size=6))
@settings(max_examples=80, deadline=None)
def test_hash_index_is_a_dict(batches: list[list[int]]) -> None:
    drive(HashIndex(), batches)


@given(st.lists(st.lists(st.integers(0, 39), max_size=30), max_size=6))
@settings(max_examples=50, deadline=None)
def test_direct_index_is_a_dict(batches: list[list[int]]) -> None:
    drive(DirectIndex(40), batches)


def test_hash_index_grows_and_keeps_every_slot() -> None:
    rng = np.random.default_rng(0)
    drive(HashIndex(1), [rng.integers(0, TOP, 700, np.uint64, endpoint=True).tolist() for _ in range(12)])


def test_keys_of_one_home_that_wraps_round_the_end() -> None:
    index = HashIndex()
    batches = [[at_salted_home(index, 1023, n) for n in range(start, start + 100)] for start in (0, 100, 200)]
    assert set(index._home(array(batches[0])).tolist()) == {1023}
    drive(index, batches)


def longest_way(index: HashIndex, keys: Any) -> int:
    """The most places that any of the keys in the index is away from its home."""
    place_of = np.empty(index.size, np.int64)
    taken = np.flatnonzero(index._places != MISSING)
    place_of[index._places[taken]] = taken
    return int(((place_of[index.lookup(keys)] - index._home(keys)) % index._places.size).max())


@given(st.integers(0, 1023), st.sampled_from([1, 2**20, 2**44]))
@settings(max_examples=20, deadline=None)
def test_keys_chosen_to_collide_are_found_about_as_soon_as_others(home: int, stride: int) -> None:
    """Without the salt all of them would have one home, and the last would be 2,000 places away from it."""
    keys = array([at_home(home, n * stride % 2**44, 20) for n in range(2_000)])
    index = HashIndex()
    index.insert(keys)
    assert longest_way(index, keys) < 100


def test_neighbours_are_spread() -> None:
    keys = np.arange(50_000, dtype=np.uint64)
    index = HashIndex()
    index.insert(keys)
    assert longest_way(index, keys) < 60


def test_two_indexes_have_different_salts_and_the_same_slots() -> None:
    keys = np.random.default_rng(2).integers(0, TOP, 500, np.uint64)
    one, two = HashIndex(), HashIndex()
    one.insert(keys)
    two.insert(keys)
    assert one._salt != two._salt
    assert not np.array_equal(one._places, two._places)
    assert np.array_equal(one.lookup(keys), two.lookup(keys))


@given(st.sets(st.integers(0, 299), max_size=80), st.data(), st.sampled_from([None, 300]))
@settings(max_examples=50, deadline=None)
def test_what_is_kept_closes_ranks(keys: set[int], choice: st.DataObject, bound: int | None) -> None:
    index = make_index(bound)
    listed = list(keys)
    index.insert(array(listed))
    kept = sorted(choice.draw(st.sets(st.sampled_from(range(len(listed)))))) if listed else []
    index.keep(np.array(kept, np.int64))
    stay = [listed[slot] for slot in kept]
    assert index.size == len(stay)
    assert index.keys.between(0, 1000).tolist() == stay
    assert index.lookup(array(listed)).tolist() == [stay.index(key) if key in stay else MISSING for key in listed]
    assert index.insert(array([key for key in listed if key not in stay][:3])).tolist() == [
        *range(len(stay), min(len(listed), len(stay) + 3))
    ]


def test_one_insert_of_far_more_than_the_capacity() -> None:
    index = HashIndex(4)
    keys = np.random.default_rng(1).permutation(100_000).astype(np.uint64)
    index.insert(keys)
    assert np.array_equal(index.lookup(keys), np.arange(100_000))
    assert (index.lookup(keys + np.uint64(100_000)) == MISSING).all()


@pytest.mark.parametrize("key", [40, 41, 2**63 - 1, 2**63, TOP])
def test_direct_index_refuses_keys_out_of_range(key: int) -> None:
    index = DirectIndex(40)
    with pytest.raises(Refused, match=rf"key {key} is out of range: the table has keys 0\.\.39"):
        index.lookup(array([3, key]))
    assert index.size == 0


def test_make_index_by_bound() -> None:
    assert isinstance(make_index(7), DirectIndex)
    assert isinstance(make_index(None), HashIndex)


def test_an_index_of_a_huge_bound_is_small_and_keeps_the_bound() -> None:
    index = make_index(2**32)
    index.insert(array([2**32 - 1, 5]))
    assert index.nbytes < 100_000
    assert index.lookup(array([5, 2**32 - 1, 6])).tolist() == [1, 0, MISSING]
    with pytest.raises(Refused, match=rf"key {2**32} is out of range: the table has keys 0\.\.{2**32 - 1}"):
        index.lookup(array([2**32]))


def test_slots_end_at_31_bits() -> None:
    index = HashIndex()
    index.keys.size = 2**31 - 2
    with pytest.raises(Refused, match=r"at most 2147483647 rows on one server"):
        index.insert(array([1, 2]))
