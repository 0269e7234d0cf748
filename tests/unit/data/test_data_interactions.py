"""Negatives: never a positive, every other item, uniformly."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.data.interactions import Interactions

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=50)


def build(pairs: list[tuple[int, int]], num_items: int = 7) -> Interactions:
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    return Interactions.build(users * 100, items, num_items)


@given(PAIRS)
def test_the_nth_open_item_is_that_of_a_plain_list(pairs: list[tuple[int, int]]) -> None:
    seen = build(pairs)
    for n, user in enumerate(seen.users.tolist()):
        own = {item for other, item in pairs if other * 100 == user}
        rest = [item for item in range(7) if item not in own]
        assert seen.of(user).tolist() == sorted(own)
        assert seen.open_items(np.array([n])).tolist() == [len(rest)]
        assert seen.nth_open(np.full(len(rest), n), np.arange(len(rest))).tolist() == rest


@settings(max_examples=50)
@given(PAIRS, st.integers(0, 2**32))
def test_no_draw_is_a_positive(pairs: list[tuple[int, int]], seed: int) -> None:
    seen = build(pairs)
    index = np.arange(len(seen.users))
    drawn = seen.draw(np.random.default_rng(seed), index, 5)
    full = seen.open_items(index) == 0
    assert (drawn[full] == -1).all()
    assert ((drawn[~full] >= 0) & (drawn[~full] < 7)).all()
    for user, items in zip(seen.users.tolist(), drawn, strict=True):
        assert not np.isin(items, seen.of(user)).any()


def test_draws_are_uniform_and_reach_the_last_item() -> None:
    seen = Interactions.build(np.zeros(3, np.int64), np.array([0, 3, 7]), 10)
    drawn = seen.draw(np.random.default_rng(5), np.zeros(1, np.int64), 70_000)
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert counts[[0, 3, 7]].tolist() == [0, 0, 0]
    rest = counts[[1, 2, 4, 5, 6, 8, 9]]
    chi = float(((rest - 10_000) ** 2 / 10_000).sum())
    assert chi < 22.5  # 99.9 % of chi-square with 6 degrees of freedom


def test_nobody() -> None:
    seen = Interactions.build(np.empty(0, np.int64), np.empty(0, np.int64), 5)
    assert seen.of(3).size == 0
    assert seen.draw(np.random.default_rng(0), np.empty(0, np.int64), 4).shape == (0, 4)
