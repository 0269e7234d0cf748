"""Every key has one server, every number of a dense tensor one block."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flps.routing import blocks, shard_of


@given(st.lists(st.integers(0, 2**64 - 1)), st.integers(1, 8))
def test_a_keys_server_is_the_remainder(keys: list[int], servers: int) -> None:
    assert shard_of(np.array(keys, np.uint64), servers).tolist() == [key % servers for key in keys]


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_blocks_cover_a_tensor_in_order_and_differ_by_one_at_most(size: int, servers: int) -> None:
    parts = [np.arange(size)[block] for block in blocks(size, servers)]
    assert len(parts) == servers
    assert np.array_equal(np.concatenate(parts), np.arange(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
