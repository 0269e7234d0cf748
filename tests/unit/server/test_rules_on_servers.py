"""One server or three: the same numbers, bit for bit, by every rule."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from flps.message import Pull, Push
from flps.routing import blocks, shard_of
from flps.server.store import Store
from flps.table import TableSpec
from flps.table.rules import RULES, make_rule

DIM = 23


def stores(servers: int, name: str) -> list[Store]:
    rule = make_rule(name, learning_rate=0.1)
    sparse = TableSpec(name="rows", kind="sparse", dim=5, rule=rule, seed=3)
    made = []
    for rank, block in enumerate(blocks(DIM, servers)):
        dense = TableSpec(name="dense", kind="dense", dim=block.stop - block.start, rule=rule)
        made.append(Store(rank, servers, 1000))
        made[-1].declare([msgspec.to_builtins(spec) for spec in (sparse, dense)])
    return made


def push(of: list[Store], keys: np.ndarray, rows: np.ndarray, dense: np.ndarray, samples: int) -> None:  # type: ignore[type-arg]
    shards = shard_of(keys, len(of))
    for rank, (store, block) in enumerate(zip(of, blocks(DIM, len(of)), strict=True)):
        mine = shards == rank
        pushes = [Push(0, keys[mine], rows[mine]), Push(1, None, dense[block])]
        store.accept(pushes)
        store.apply_mean([(samples, pushes), (1, pushes)])


@pytest.mark.parametrize("name", RULES)
def test_one_server_is_three_servers(name: str) -> None:
    rng = np.random.default_rng(1)
    first, every = rng.standard_normal(DIM, np.float32), np.arange(40, dtype=np.uint64)
    both = [stores(1, name), stores(3, name)]
    for of in both:
        for store, block in zip(of, blocks(DIM, len(of)), strict=True):
            store.start([Push(1, None, first[block])])
    for step in range(12):
        keys = rng.permutation(every)[: rng.integers(1, 40)]
        rows = rng.standard_normal((keys.size, 5), np.float32)
        dense = rng.standard_normal(DIM, np.float32)
        for of in both:
            push(of, keys, rows, dense, step + 1)
    whole = []
    for of in both:
        rows = np.empty((40, 5), np.float32)
        for rank, store in enumerate(of):
            mine = every[shard_of(every, len(of)) == rank]
            rows[mine.astype(np.int64)] = store.pull([Pull(0, mine)])[0]
        whole.append((rows, np.concatenate([store.pull([Pull(1, None)])[0] for store in of])))
    assert np.array_equal(whole[0][0], whole[1][0])
    assert np.array_equal(whole[0][1], whole[1][1])
    assert not np.isclose(whole[0][1], first, rtol=1e-4).any()
