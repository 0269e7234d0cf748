"""A snapshot is what stood there when it began, bit for bit, whatever happens to the table meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.errors import DataError, ResourceError
from flps.table import Adagrad, Adam, DenseTable, Initializer, SparseTable, Sum, TableSpec, files
from flps.table import snapshot as snapshots
from flps.table.files import sha256_of
from flps.table.rules import AnyRule
from flps.table.snapshot import Content, Snapshot

Dump = dict[str, Any]


class Outcome:
    """What a snapshot came to."""

    def __init__(self) -> None:
        self.value: str | ResourceError | None = None
        self._is_there = threading.Event()

    def __call__(self, value: str | ResourceError) -> None:
        self.value = value
        self._is_there.set()

    def wait(self) -> str | ResourceError | None:
        assert self._is_there.wait(20)
        return self.value


@pytest.fixture(autouse=True)
def small_slices() -> Iterator[None]:
    before, snapshots._SLICE_BYTES = snapshots._SLICE_BYTES, 64
    yield
    snapshots._SLICE_BYTES = before


def spec(rule: AnyRule, bound: int | None = 4000, name: str = "rows") -> TableSpec:
    return TableSpec(name=name, kind="sparse", dim=3, rule=rule, bound=bound, init=Initializer("normal", 1.0))


def grown(table: SparseTable, rows: int, seed: int = 0) -> SparseTable:
    keys = np.random.default_rng(seed).permutation(4000)[:rows].astype(np.uint64)
    table.push(keys, np.ones((rows, 3), np.float32))
    return table


def same(path: Path, dumps: dict[str, Dump]) -> bool:
    held = safetensors.numpy.load_file(path)
    wanted = {f"{name}/{part}": array for name, dump in dumps.items() for part, array in dump.items()}
    return held.keys() == wanted.keys() and all(
        held[name].dtype == array.dtype and np.array_equal(held[name], array) for name, array in wanted.items()
    )


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.lists(st.integers(0, 3999), max_size=40)),
        st.tuples(st.just("write"), st.lists(st.integers(0, 199), max_size=40, unique=True)),
        st.tuples(st.just("pull"), st.lists(st.integers(0, 3999), max_size=300)),
        st.tuples(st.just("slice"), st.just([])),
    ),
    max_size=30,
)


@given(ACTS, st.sampled_from([Adam(), Adagrad(), Sum()]), st.sampled_from([None, 4000]), st.integers(0, 300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_it_holds_what_stood_there_when_it_began(
    tmp_path: Path, acts: list[tuple[str, list[int]]], rule: AnyRule, bound: int | None, rows: int
) -> None:
    table, other = grown(SparseTable(spec(rule, bound)), rows), grown(SparseTable(spec(rule, name="other")), 70)
    dense = DenseTable(TableSpec(name="dense", kind="dense", dim=5, rule=Adam()))
    dense.start_with(np.arange(5, dtype=np.float32))
    dumps = {"rows": table.dump(), "other": other.dump(), "dense": dense.dump()}
    outcome = Outcome()
    taken = Snapshot(tmp_path / "s", Content({"rows": table, "other": other}, {"dense": dense.dump()}), outcome)
    for number, (act, numbers) in enumerate(acts):
        keys = np.array(numbers, np.uint64)
        if act == "push":
            values = np.random.default_rng(number).normal(size=(keys.size, 3)).astype(np.float32)
            table.push(keys, values)
            other.push(keys, values)
            dense.push(np.ones(5, np.float32))
        elif act == "write":
            slots = keys.astype(np.int64)[keys < len(table)]
            table.write(slots, np.zeros((slots.size, 3), np.float32))
        elif act == "pull":
            table.pull(keys)
        else:
            taken.advance(0)
    while taken.advance(0):
        pass
    digest = outcome.wait()
    assert same(tmp_path / "s", dumps)
    assert digest == sha256_of(tmp_path / "s")
    assert table.storage.before_write is None
    assert other.storage.before_write is None
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_only_the_rows_that_are_wanted(tmp_path: Path) -> None:
    table = grown(SparseTable(spec(Adagrad())), 500)
    only = np.random.default_rng(1).random(700) < 0.3  # longer than the table: it may have been made ahead
    wanted = {part: array[only[:500]] for part, array in table.dump().items()}
    outcome = Outcome()
    taken = Snapshot(tmp_path / "s", Content({"rows": table}, {}, {"rows": only}), outcome)
    only[:] = True
    grown(table, 2000, seed=2)
    taken.finish()
    assert isinstance(outcome.wait(), str)
    assert same(tmp_path / "s", {"rows": wanted})


def test_nothing_at_all_is_a_file_too(tmp_path: Path) -> None:
    outcome = Outcome()
    Snapshot(tmp_path / "s", Content({"rows": SparseTable(spec(Adam()))}, {}), outcome).finish()
    assert isinstance(outcome.wait(), str)
    assert safetensors.numpy.load_file(tmp_path / "s")["rows/values"].shape == (0, 3)


def test_a_snapshot_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    table, outcome = grown(SparseTable(spec(Adam())), 500), Outcome()
    taken = Snapshot(tmp_path / "s", Content({"rows": table}, {}), outcome)
    taken.advance(0)
    taken.give_up()
    taken.wait(20)
    assert not list(tmp_path.iterdir())
    assert outcome.value is None
    assert table.storage.before_write is None
    assert not taken.advance(1)


def test_what_cannot_be_read_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise DataError(f"cannot read {path}")

    monkeypatch.setattr(files, "sha256_of", refuse)
    outcome = Outcome()
    Snapshot(tmp_path / "s", Content({"rows": grown(SparseTable(spec(Adam())), 500)}, {}), outcome).finish()
    value = outcome.wait()
    assert isinstance(value, ResourceError)
    assert "cannot read" in str(value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table, outcome = grown(SparseTable(spec(Adam())), 500), Outcome()
    taken = Snapshot(tmp_path / "file" / "s", Content({"rows": table}, {}), outcome)
    taken.finish()
    value = outcome.wait()
    assert isinstance(value, ResourceError)
    assert "cannot write" in str(value)
    assert table.storage.before_write is None
