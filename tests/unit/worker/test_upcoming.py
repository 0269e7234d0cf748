"""Batches with what they look up, some ahead of their time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flps.nn import Embedding
from flps.worker.upcoming import Features, Upcoming, embeddings_of, prepared, with_following


@given(st.integers(0, 12), st.integers(0, 4))
def test_each_batch_comes_with_those_after_it(count: int, lookahead: int) -> None:
    batches = [Upcoming({"n": np.array([n])}, {}) for n in range(count)]
    seen = [[int(batch.features["n"][0]) for batch in window] for window in with_following(batches, lookahead)]
    assert seen == [list(range(n, min(n + 1 + lookahead, count))) for n in range(count)]


@pytest.mark.parametrize("rows", [20, None])
@pytest.mark.parametrize("count", [0, 1, 16, 37])
def test_every_batch_gets_its_own_look_ups(rows: int | None, count: int) -> None:
    model = nn.ModuleList(
        [
            Embedding("users", 2, rows=rows, feature="user"),
            Embedding("items", 2, rows=rows, feature="item"),
            Embedding("asked_when_called", 2, rows=rows),
        ]
    )
    rng = np.random.default_rng(count)
    batches: list[Features] = [
        {"user": rng.integers(0, 20, 3 + n % 5), "item": rng.integers(0, 20, (2, 1 + n % 3)).astype(np.int32)}
        for n in range(count)
    ]
    seen = list(prepared(batches, embeddings_of(model)))
    assert [one.features for one in seen] == batches
    for batch, upcoming in zip(batches, seen, strict=True):
        assert set(upcoming.lookups) == {"users", "items"}
        for name, feature in (("users", "user"), ("items", "item")):
            keys, unique, places = upcoming.lookups[name]
            assert keys.tolist() == batch[feature].reshape(-1).tolist()
            assert unique[places].tolist() == keys.tolist()
            assert len(set(unique.tolist())) == unique.size
