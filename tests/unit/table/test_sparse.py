"""A sparse table against rows in a dict; first values; growth; dumps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import Refused
from flps.table import Adagrad, Adam, Initializer, Sgd, SparseTable, TableSpec
from flps.table.sparse import merge_duplicates

KEYS = st.one_of(st.integers(0, 20), st.sampled_from([2**64 - 1, 2**63]))


def spec(**changes: Any) -> TableSpec:
    settings: dict[str, Any] = {"name": "items", "kind": "sparse", "dim": 4, "rule": Sgd(0.5), "dtype": "float64"}
    return TableSpec(**{**settings, **changes})


def array(*keys: int) -> Any:
    return np.array(keys, np.uint64)


@given(st.lists(st.tuples(st.booleans(), st.lists(KEYS, max_size=12)), max_size=8), st.sampled_from([None, "bound"]))
@settings(max_examples=60, deadline=None)
def test_pull_and_push_are_a_loop_over_rows(steps: list[tuple[bool, list[int]]], bound: str | None) -> None:
    """Duplicates are added up before the rule is applied; here the rule is linear, so one by one is the same."""
    table = SparseTable(spec(bound=21 if bound else None))
    first = SparseTable(spec())
    plain: dict[int, Any] = {}
    rng = np.random.default_rng(0)
    for is_push, keys in steps:
        keys = [key for key in keys if not bound or key < 21]
        for key in keys:
            plain.setdefault(key, first.pull(array(key))[0])
        if is_push:
            pushed = rng.integers(-8, 8, (len(keys), 4)).astype(np.float64)
            changed = table.push(array(*keys), pushed)
            assert sorted(table.keys(changed).tolist()) == sorted(set(keys))
            for key, g in zip(keys, pushed, strict=True):
                plain[key] = plain[key] - 0.5 * g
        assert table.pull(array(*keys)) == pytest.approx(np.array([plain[k] for k in keys]).reshape(-1, 4), abs=1e-12)
    assert sorted(table.keys().tolist()) == sorted(plain)
    assert len(table) == len(plain)


def test_duplicates_are_one_push_of_their_sum() -> None:
    twice, once = SparseTable(spec(rule=Adam())), SparseTable(spec(rule=Adam()))
    twice.push(array(5, 6, 5), np.array([[1.0] * 4, [2.0] * 4, [3.0] * 4]))
    once.push(array(5, 6), np.array([[4.0] * 4, [2.0] * 4]))
    assert np.array_equal(twice.pull(array(5, 6)), once.pull(array(5, 6)))


@given(st.lists(st.integers(0, 9), max_size=30))
@settings(deadline=None)
def test_merge_duplicates_is_a_loop(slots: list[int]) -> None:
    pushed = np.arange(len(slots) * 2, dtype=np.float64).reshape(-1, 2)
    merged, sums = merge_duplicates(np.array(slots, np.int64), pushed)
    expected: dict[int, Any] = {}
    for slot, row in zip(slots, pushed, strict=True):
        expected[slot] = expected.get(slot, 0) + row
    assert len(merged) == len(expected)
    assert all(np.array_equal(expected[int(slot)], row) for slot, row in zip(merged, sums, strict=True))


def test_growth_keeps_rows_and_state() -> None:
    table, rng = SparseTable(spec(rule=Adagrad())), np.random.default_rng(0)
    plain: dict[int, Any] = {}
    for start in range(0, 12_000, 1_500):
        keys = np.arange(start, start + 1_500, dtype=np.uint64)
        table.push(keys, rng.normal(size=(1_500, 4)))
        plain.update(zip(keys.tolist(), table.pull(keys), strict=True))
    everything = np.array(list(plain), np.uint64)
    assert np.array_equal(table.pull(everything), np.array(list(plain.values())))
    assert (table.dump()["state.0"] > 0).all()
    assert 12_000 * 9 * 8 <= table.nbytes < 12_000 * 9 * 8 * 2


def test_storage_of_a_bounded_table_ends_at_the_bound() -> None:
    table = SparseTable(spec(bound=1_500))
    table.pull(np.arange(1_400, dtype=np.uint64))
    table.pull(np.arange(1_500, dtype=np.uint64))
    assert table.nbytes == 1_500 * (4 + 1) * 8


@given(st.permutations([0, 1, 2, 3, 7, 2**64 - 1, 2**63]), st.integers(1, 4), st.sampled_from(["normal", "uniform"]))
@settings(max_examples=30, deadline=None)
def test_first_values_depend_on_seed_and_key_alone(order: list[int], batch: int, kind: Any) -> None:
    init = Initializer(kind, 0.1)
    whole = SparseTable(spec(init=init, seed=3)).pull(array(0, 1, 2, 3, 7, 2**64 - 1, 2**63))
    other_seed, table = SparseTable(spec(init=init, seed=4)), SparseTable(spec(init=init, seed=3, name="renamed"))
    for start in range(0, len(order), batch):
        table.pull(array(*order[start : start + batch]))
    assert np.array_equal(table.pull(array(0, 1, 2, 3, 7, 2**64 - 1, 2**63)), whole)
    assert not np.equal(other_seed.pull(array(0, 1, 2, 3, 7, 2**64 - 1, 2**63)), whole).any()
    shares = [SparseTable(spec(init=init, seed=3)) for _ in range(3)]
    assert all(np.array_equal(shares[k % 3].pull(array(k)), table.pull(array(k))) for k in order)


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
def test_moments_of_first_values(seed: int) -> None:
    keys = np.arange(50_000, dtype=np.uint64)
    normal = Initializer("normal", 2.0).rows(keys, 4, seed, "float64")
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(2, rel=0.01)
    assert np.mean(np.abs(normal) < 2) == pytest.approx(0.6827, abs=0.005)  # within one deviation
    assert np.mean(normal**4) / 16 == pytest.approx(3, rel=0.03)
    uniform = Initializer("uniform", 0.5).rows(keys, 4, seed, "float64")
    assert uniform.mean() == pytest.approx(0, abs=0.005)
    assert uniform.var() == pytest.approx(1 / 12, rel=0.01)
    assert np.abs(uniform).max() <= 0.5
    assert np.histogram(uniform, 10, (-0.5, 0.5))[0] == pytest.approx(20_000, rel=0.03)
    for columns in (np.corrcoef(normal.T), np.corrcoef(normal[:-1, 0], normal[1:, 0])):
        assert np.abs(columns - np.eye(len(columns))).max() < 0.02  # neither columns nor neighbours go together
    assert not Initializer("zeros").rows(keys, 4, seed, "float32").any()


def test_float32_first_values_are_the_float64_ones_rounded() -> None:
    keys = np.arange(100, dtype=np.uint64)
    exact = Initializer().rows(keys, 3, 5, "float64")
    assert np.array_equal(Initializer().rows(keys, 3, 5, "float32"), exact.astype(np.float32))


@given(st.lists(KEYS, min_size=1, max_size=20), st.lists(KEYS, max_size=20))
@settings(max_examples=30, deadline=None)
def test_dump_and_load_go_on_as_if_nothing_had_been(before: list[int], after: list[int]) -> None:
    table = SparseTable(spec(rule=Adam()))
    table.push(array(*before), np.ones((len(before), 4)))
    again = SparseTable(spec(rule=Adam()))
    again.load(table.dump())
    for one in (table, again):
        one.push(array(*before, *after), np.full((len(before) + len(after), 4), 0.5))
    assert all(np.array_equal(part, again.dump()[name]) for name, part in table.dump().items())


def test_load_of_some_rows_leaves_the_others() -> None:
    table, again = SparseTable(spec()), SparseTable(spec())
    table.push(array(1, 2, 3), np.ones((3, 4)))
    dumped = table.dump()
    again.load(dumped, dumped["keys"] != np.uint64(2))
    assert again.keys().tolist() == [1, 3]
    again.pull(array(2))
    assert np.array_equal(again.pull(array(1, 3)), table.pull(array(1, 3)))
    assert not np.array_equal(again.pull(array(2)), table.pull(array(2)))


@given(st.sets(st.integers(0, 40), min_size=1), st.data(), st.sampled_from([None, 41]))
@settings(max_examples=40, deadline=None)
def test_removed_rows_are_gone_and_the_others_stay(keys: set[int], choice: st.DataObject, bound: int | None) -> None:
    table = SparseTable(spec(rule=Adam(), bound=bound))
    table.push(array(*keys), np.ones((len(keys), 4)))
    gone = choice.draw(st.sets(st.sampled_from(sorted(keys))))
    left, before = [key for key in table.keys().tolist() if key not in gone], table.dump()
    table.remove(table.slots(array(*gone)))
    assert table.keys().tolist() == left
    stays = np.isin(before["keys"], array(*left))
    assert all(np.array_equal(part, before[name][stays]) for name, part in table.dump().items())
    fresh = SparseTable(spec(rule=Adam(), bound=bound))
    for one in (table, fresh):
        one.push(array(*gone), np.ones((len(gone), 4)))
    assert np.array_equal(table.pull(array(*gone)), fresh.pull(array(*gone)))


def test_removal_gives_memory_back() -> None:
    table = SparseTable(spec())
    table.pull(np.arange(300_000, dtype=np.uint64))
    before = table.nbytes
    last = table.pull(array(299_999))
    table.remove(np.arange(299_000))
    assert table.nbytes < before / 100
    assert np.array_equal(table.pull(array(299_999)), last)
    again = table.pull(np.arange(300_000, dtype=np.uint64))
    assert np.array_equal(again[299_999:], last)
    assert len(table) == 300_000


def test_keys_out_of_range_are_refused_and_make_no_rows() -> None:
    table = SparseTable(spec(bound=10))
    with pytest.raises(Refused, match=r"key 10 is out of range"):
        table.push(array(1, 10), np.ones((2, 4)))
    assert len(table) == 0


def test_what_is_handed_out_is_a_copy() -> None:
    table = SparseTable(spec(rule=Adam()))
    rows, dumped = table.pull(array(1, 2)), table.dump()
    expected = rows.copy()
    for handed_out in (rows, *dumped.values(), table.keys()):
        handed_out[:] = 9
    assert np.array_equal(table.pull(array(1, 2)), expected)
    assert table.keys().tolist() == [1, 2]


def test_empty_questions_are_answered() -> None:
    table = SparseTable(spec())
    assert table.pull(array()).shape == (0, 4)
    assert table.push(array(), np.empty((0, 4))).size == 0
    assert table.dump()["values"].shape == (0, 4)


@given(st.lists(st.integers(0, 3), max_size=90) | st.lists(st.integers(2**31 - 2, 2**31 + 1), max_size=40))
def test_many_pushes_to_one_slot_are_added_up(slots: list[int]) -> None:
    """More than are added layer by layer; slots around the border of 32 bits."""
    pushed = np.arange(2 * len(slots), dtype=np.float64).reshape(-1, 2)
    merged, sums = merge_duplicates(np.array(slots, np.uint64), pushed)
    assert sorted(merged.tolist()) == sorted(set(slots))
    for slot, total in zip(merged.tolist(), sums, strict=True):
        assert np.array_equal(total, pushed[np.array(slots) == slot].sum(axis=0))
