"""Counting, letting in, decaying, removing and choosing rows, against a plain dict of rows."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flps.table import Initializer, Sgd, TableSpec
from flps.table.accessor import (
    Accessor,
    CountEntry,
    ProbabilityEntry,
    ShowClickEntry,
    counts_of,
    merge_counts,
)
from flps.table.counted import CountedTable, make_sparse
from flps.table.initializer import chance
from flps.table.rules import Adam, SparseAdagrad

real = np.float32
KEYS = st.lists(st.integers(0, 12), min_size=1, max_size=8)
ENTRIES = (None, CountEntry(3), ProbabilityEntry(0.4), ShowClickEntry(2.5))


def spec_of(accessor: Accessor, **changes: Any) -> TableSpec:
    init = Initializer("uniform", 0.5)
    spec = TableSpec(name="t", kind="sparse", dim=2, rule=Sgd(1.0), init=init, seed=5, accessor=accessor)
    return msgspec.structs.replace(spec, **changes)


def keys_of(*numbers: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


def counts(*rows: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([(*row, 0.0)[:3] for row in rows], np.float32)


class PlainRow:
    """One row as plain numbers."""

    def __init__(self, weights: Any) -> None:
        self.w = [real(w) for w in weights]
        self.show = self.click = self.delta_score = real(0)
        self.unseen_days = self.slot = self.sightings = 0
        self.admitted = False


class PlainTable:
    """What a counted table does, one row at a time."""

    def __init__(self, spec: TableSpec) -> None:
        assert spec.accessor is not None
        self.spec = spec
        self.accessor = spec.accessor
        self.rows: dict[int, PlainRow] = {}

    def first(self, key: int) -> Any:
        return self.spec.init.rows(keys_of(key), self.spec.dim, self.spec.seed, "float32")[0].tolist()

    def score(self, show: Any, click: Any) -> Any:
        return (show - click) * real(self.accessor.nonclk_coeff) + click * real(self.accessor.click_coeff)

    def pull(self, key: int) -> list[float]:
        return [float(w) for w in (self.rows[key].w if key in self.rows else self.first(key))]

    def push(self, key: int, g: list[float], show: float, click: float, slot: int) -> None:
        row = self.rows.setdefault(key, PlainRow(self.first(key)))
        row.show += real(show)
        row.click += real(click)
        row.delta_score += self.score(real(show), real(click))
        row.unseen_days, row.slot = 0, slot
        row.sightings += 1
        if not row.admitted:
            row.admitted = self.admits(key, row)
        if row.admitted:
            row.w = [w - real(x) for w, x in zip(row.w, g, strict=True)]

    def admits(self, key: int, row: PlainRow) -> bool:
        match self.accessor.entry:
            case CountEntry(count):
                return row.sightings >= count
            case ProbabilityEntry(probability):
                return bool(chance(keys_of(key), keys_of(row.sightings), self.spec.seed)[0] < probability)
            case ShowClickEntry(threshold):
                return bool(self.score(row.show, row.click) >= real(threshold))
        return True

    def shrink(self, is_day: bool) -> set[int]:
        for row in self.rows.values():
            row.show *= real(self.accessor.show_click_decay_rate)
            row.click *= real(self.accessor.show_click_decay_rate)
        gone = {
            key for key, row in self.rows.items()
            if self.score(row.show, row.click) < real(self.accessor.delete_threshold)
            or row.unseen_days > self.accessor.delete_after_unseen_days
        }  # fmt: skip
        for key in gone:
            del self.rows[key]
        for row in self.rows.values():
            row.unseen_days += is_day
        return gone

    def saved(self, mode: str) -> set[int]:
        threshold = real(self.accessor.delta_threshold if mode == "delta" else 0)
        return {
            key for key, row in self.rows.items()
            if mode in ("all", "batch")
            or (
                self.score(row.show, row.click) >= real(self.accessor.base_threshold)
                and row.delta_score >= threshold
                and row.unseen_days <= self.accessor.delta_keep_days
            )
        }  # fmt: skip

    def settle(self, mode: str) -> None:
        if mode in ("delta", "base"):
            for key in self.saved(mode):
                self.rows[key].delta_score = real(0)
        if mode == "batch":
            for row in self.rows.values():
                row.unseen_days += 1


class TableIsPlain(RuleBasedStateMachine):
    """Any sequence of pushes, pulls, shrinks, saves and loads: the table is the dict of rows."""

    @initialize(
        entry=st.sampled_from(ENTRIES),
        decay=st.sampled_from([1.0, 0.98, 0.5]),
        days=st.integers(0, 3),
        memory=st.sampled_from([None, 150]),  # bytes of rows, of which the others go to disk
    )
    def begin(self, entry: Any, decay: float, days: int, memory: int | None) -> None:
        accessor = Accessor(
            entry=entry, show_click_decay_rate=decay, delete_threshold=0.3, delete_after_unseen_days=days,
            base_threshold=0.9, delta_keep_days=1,
        )  # fmt: skip
        self.table: Any = CountedTable(spec_of(accessor, memory_bytes_max=memory))
        self.plain = PlainTable(self.table.spec)

    @rule(keys=KEYS, seed=st.integers(0, 2**20), is_unique=st.booleans())
    def push(self, keys: list[int], seed: int, is_unique: bool) -> None:
        rng = np.random.default_rng(seed)
        keys = sorted(set(keys)) if is_unique else keys
        pushed = rng.integers(-8, 8, (len(keys), 2)).astype(np.float32)  # sums of them are exact
        show = rng.integers(0, 4, len(keys))
        added = np.stack([show, rng.integers(0, show + 1), rng.integers(0, 3, len(keys))], 1).astype(np.float32)
        self.table.push(keys_of(*keys), pushed, is_unique, added)
        for key in set(keys):
            where = np.flatnonzero(np.array(keys) == key)
            total = added[where].sum(axis=0)
            self.plain.push(key, pushed[where].sum(axis=0).tolist(), *total[:2].tolist(), int(added[where[-1], 2]))

    @rule(keys=KEYS)
    def pull(self, keys: list[int]) -> None:
        before = len(self.table)
        assert self.table.pull(keys_of(*keys)).tolist() == [self.plain.pull(key) for key in keys]
        assert len(self.table) == before

    @rule(is_day=st.booleans())
    def shrink(self, is_day: bool) -> None:
        held = self.table.keys().tolist()
        gone = self.table.shrink(is_day)
        assert set(gone.keys.tolist()) == self.plain.shrink(is_day)
        assert [key for key, stays in zip(held, gone.kept, strict=True) if stays] == self.table.keys().tolist()

    @rule(mode=st.sampled_from(["all", "delta", "base", "batch"]), is_settled=st.booleans())
    def save(self, mode: Any, is_settled: bool) -> None:
        saved = self.table.dump(self.table.chosen(mode))
        assert set(saved["keys"].tolist()) == self.plain.saved(mode)
        if is_settled:
            self.table.settle(mode)
            self.plain.settle(mode)

    @rule()
    def save_and_load(self) -> None:
        again = CountedTable(self.table.spec)
        again.load(self.table.dump())
        self.table = again

    @rule(slots=st.sets(st.integers(0, 3)))
    def rows_of_slots(self, slots: set[int]) -> None:
        chosen = self.table.dump(self.table.chosen("all", slots))
        assert set(chosen["keys"].tolist()) == {key for key, row in self.plain.rows.items() if row.slot in slots}

    @invariant()
    def is_the_plain_table(self) -> None:
        if not hasattr(self, "table"):
            return
        held = self.table.dump()
        lines = [
            (row.show, row.click, row.delta_score, row.unseen_days, row.slot, row.sightings, row.admitted)
            for key in held["keys"].tolist() for row in [self.plain.rows[key]]
        ]  # fmt: skip
        assert held["counters"].tolist() == [[float(number) for number in line] for line in lines]
        assert held["keys"].size == len(self.plain.rows)
        assert held["values"].tolist() == [self.plain.pull(key) for key in held["keys"].tolist()]
        slots = [row.slot for row in self.plain.rows.values()]
        assert self.table.rows_by_slot() == {str(slot): slots.count(slot) for slot in set(slots)}


TableIsPlain.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_any_sequence = TableIsPlain.TestCase


# --- one thing at a time ---------------------------------------------------------------------------------------------


def test_a_table_without_an_accessor_is_not_counted() -> None:
    spec = spec_of(Accessor())
    assert type(make_sparse(spec)) is CountedTable
    assert type(make_sparse(msgspec.structs.replace(spec, accessor=None))) is not CountedTable


def test_the_defaults_are_the_originals() -> None:
    one = Accessor()
    assert (one.nonclk_coeff, one.click_coeff, one.base_threshold, one.delta_threshold) == (0.1, 1, 1.5, 0.25)
    assert (one.delta_keep_days, one.show_click_decay_rate, one.delete_threshold) == (16, 0.98, 0.8)
    assert (one.delete_after_unseen_days, ShowClickEntry().threshold) == (30, 10)


def test_a_key_is_let_in_by_its_third_push_and_is_what_it_was_until_then() -> None:
    table = CountedTable(spec_of(Accessor(entry=CountEntry(3))))
    first = table.pull(keys_of(7))
    for _ in range(2):
        assert table.push(keys_of(7), np.ones((1, 2), np.float32)).size == 0
        assert np.array_equal(table.pull(keys_of(7)), first)
    assert table.push(keys_of(7), np.ones((1, 2), np.float32)).size == 1
    assert np.array_equal(table.pull(keys_of(7)), first - 1)


def test_the_state_of_the_rule_waits_too() -> None:
    table = CountedTable(spec_of(Accessor(entry=CountEntry(2)), rule=Adam(0.1)))
    alone = CountedTable(spec_of(Accessor(), rule=Adam(0.1)))
    for g in (5.0, 1.0, 2.0):
        table.push(keys_of(1), np.full((1, 2), g, np.float32))
    for g in (1.0, 2.0):
        alone.push(keys_of(1), np.full((1, 2), g, np.float32))
    assert np.array_equal(table.pull(keys_of(1)), alone.pull(keys_of(1)))


def test_a_probability_is_drawn_for_each_key_and_push() -> None:
    table = CountedTable(spec_of(Accessor(entry=ProbabilityEntry(0.25))))
    keys = np.arange(4000, dtype=np.uint64)
    share = []
    for _ in range(3):
        table.push(keys, np.zeros((keys.size, 2), np.float32), unique=True)
        share.append(float(table.dump()["counters"][:, 6].mean()))
    assert share == pytest.approx([0.25, 1 - 0.75**2, 1 - 0.75**3], abs=0.02)
    divided = CountedTable(table.spec)
    for _ in range(3):
        divided.push(keys[1::3], np.zeros((keys[1::3].size, 2), np.float32), unique=True)
    assert np.array_equal(divided.dump()["counters"], table.dump()["counters"][1::3])


def test_decay_and_both_thresholds() -> None:
    table = CountedTable(spec_of(Accessor(show_click_decay_rate=0.5, delete_threshold=1.0, delete_after_unseen_days=1)))
    table.push(keys_of(1, 2), np.zeros((2, 2), np.float32), True, counts((4, 4), (3, 1)))
    assert table.shrink(is_day=True).keys.tolist() == [2]  # its score is half of 1.2
    assert table.shrink(is_day=True).keys.tolist() == []  # a score of 1.0 stays
    table.push(keys_of(3), np.zeros((1, 2), np.float32), True, counts((40, 40)))
    table.push(keys_of(1), np.zeros((1, 2), np.float32), True, counts((90, 90)))
    for _ in range(2):
        assert table.shrink(is_day=True).keys.size == 0
    assert sorted(table.shrink(is_day=True).keys.tolist()) == [1, 3]  # two days unseen, although of a high score


def test_a_delta_holds_what_is_new_since_the_last() -> None:
    table = CountedTable(spec_of(Accessor()))
    table.push(keys_of(1, 2, 3), np.zeros((3, 2), np.float32), True, counts((2, 2), (10, 0), (3, 2)))

    def delta() -> list[int]:
        keys: list[int] = sorted(table.dump(table.chosen("delta"))["keys"].tolist())
        return keys

    assert delta() == [1, 3] == delta()  # key 2 has score 1; asking changes nothing
    table.settle("delta")
    assert delta() == []
    assert sorted(table.dump(table.chosen("base"))["keys"].tolist()) == [1, 3]
    table.push(keys_of(2, 3), np.zeros((2, 2), np.float32), True, counts((10, 0), (2, 0)))
    assert delta() == [2]  # 3 gained 0.2, less than delta_threshold
    table.push(keys_of(3), np.zeros((1, 2), np.float32), True, counts((1, 0)))
    assert delta() == [2, 3]
    table.settle("base")
    assert delta() == []


def test_a_gradient_for_one_show() -> None:
    accessor = Accessor(show_scale=True)
    g = np.array([[6.0, -3.0]], np.float32)
    plain, one = (
        CountedTable(spec_of(Accessor(), rule=SparseAdagrad())),
        CountedTable(spec_of(accessor, rule=SparseAdagrad())),
    )
    for _ in range(3):
        plain.push(keys_of(1), g / 3, True, counts((3, 1)))
        one.push(keys_of(1), g, True, counts((3, 1)))
    assert np.array_equal(plain.pull(keys_of(1)), one.pull(keys_of(1)))
    unscaled = CountedTable(spec_of(accessor, rule=Sgd(1.0)))  # the original's adam and sgd do not scale
    before = unscaled.pull(keys_of(1))
    unscaled.push(keys_of(1), g, True, counts((3, 1)))
    assert np.array_equal(unscaled.pull(keys_of(1)), before - g)


def test_rows_that_come_without_counters_are_let_in() -> None:
    table = CountedTable(spec_of(Accessor(entry=CountEntry(9))))
    table.load({"keys": keys_of(4), "values": np.full((1, 2), 3, np.float32)})
    table.push(keys_of(4), np.ones((1, 2), np.float32))
    assert table.pull(keys_of(4)).tolist() == [[2, 2]]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_counts_of_a_batch(keys: list[int], columns: int, seed: int) -> None:
    keys = keys[: len(keys) // columns * columns]
    clicks = np.random.default_rng(seed).integers(0, 2, len(keys) // columns)
    once, inverse = np.unique(np.array(keys, np.uint64), return_inverse=True)
    got = counts_of(inverse, once.size, np.repeat(clicks, columns), columns)
    for line, key in zip(got.tolist(), once.tolist(), strict=True):
        at = [n for n, other in enumerate(keys) if other == key]
        assert line == [len(at), sum(int(clicks[n // columns]) for n in at), at[-1] % columns]
    merged = merge_counts(np.repeat(once, 2), np.repeat(got, 2, axis=0))
    assert np.array_equal(merged[0], once)
    assert np.array_equal(merged[1], got * np.array([2, 2, 1], np.float32))
