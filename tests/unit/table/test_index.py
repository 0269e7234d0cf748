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
    drive(HashIndex(), [[at_home(1023, n) for n in range(start, start + 100)] for start in (0, 100, 200)])


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
