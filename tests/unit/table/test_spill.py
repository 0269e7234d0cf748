"""Rows of which most lie on disk, against rows in memory: bit for bit the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import ResourceError
from flps.table import Adam, Sgd, SparseTable, TableSpec, cold
from flps.table.cold import ColdFile
from flps.table.files import read_tables
from flps.table.snapshot import Content, Snapshot
from flps.table.spill import SpilledStorage
from flps.table.storage import Column, MemoryStorage

COLUMNS = (Column("values", 3, "float32"), Column("state.0", 1, "float32"), Column("empty", 0, "float32"))
FEW = 1  # bytes of memory: as few frames as there can be
SLOTS = st.lists(st.integers(0, 119), max_size=40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), SLOTS),
        st.tuples(st.just("read"), st.integers(0, 2), SLOTS),
        st.tuples(st.just("slice"), st.integers(0, 2), st.tuples(st.integers(0, 60), st.integers(0, 130))),
        st.tuples(st.just("keep"), st.just(0), st.sets(st.integers(0, 119), min_size=100)),
    ),
    max_size=14,
)


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "_EXTENT_BYTES", 4096)


def rows_of(column: Column, slots: Any, step: int) -> Any:
    return (np.asarray(slots)[:, None] * 10 + np.arange(column.width) + step / 8).astype(column.dtype)


def refill(storages: tuple[Any, ...], rows: int, step: int) -> None:
    """Make room for slots 0..119 again, and write those that are new."""
    for storage in storages:
        storage.reserve(120)
        for n, column in enumerate(COLUMNS):
            storage.write(n, np.arange(rows, 120), rows_of(column, np.arange(rows, 120), step))


@given(STEPS, st.sampled_from([FEW, 22 * 60, 10_000]))
@settings(max_examples=100, deadline=None)
def test_rows_are_those_of_memory(steps: list[Any], memory_bytes_max: int) -> None:
    spilled, plain = SpilledStorage(COLUMNS, memory_bytes_max, None), MemoryStorage(COLUMNS)
    refill((spilled, plain), 0, 0)
    for step, (verb, n, what) in enumerate(steps):
        if verb == "write":
            for storage in (spilled, plain):
                storage.write(n, np.array(what, np.int64), rows_of(COLUMNS[n], what, step))
        elif verb == "read":
            slots = np.array(what, np.int64)
            assert np.array_equal(spilled.read(n, slots), plain.read(n, slots))
        elif verb == "slice":
            assert np.array_equal(spilled.slice(n, what[0], min(what[1], 120)), plain.slice(n, what[0], what[1])[:120])
        else:
            for storage in (spilled, plain):
                storage.keep(np.array(sorted(what), np.int64))
            refill((spilled, plain), len(what), step)
    for n in range(len(COLUMNS)):
        assert np.array_equal(spilled.slice(n, 0, 120), plain.slice(n, 0, 120))
        assert np.array_equal(spilled.read(n, np.arange(120)), plain.read(n, np.arange(120)))
    spilled.close()


@pytest.fixture
def filled() -> Iterator[SpilledStorage]:
    """A thousand rows of which a hundred may be in memory; each was written once, in the order of the slots."""
    storage = SpilledStorage(COLUMNS, 100 * 22, None)
    storage.reserve(1000)
    for start in range(0, 1000, 50):
        storage.write(0, np.arange(start, start + 50), rows_of(COLUMNS[0], np.arange(start, start + 50), 0))
    yield storage
    storage.close()


def hot(storage: SpilledStorage) -> set[int]:
    return set(np.flatnonzero(storage._frame_of.lines[: storage._rows] >= 0).tolist())


def test_memory_ends_at_the_bound(filled: SpilledStorage) -> None:
    assert len(hot(filled)) == 100
    assert filled.nbytes == 100 * 22 + 4 * 1000
    assert filled.cold_nbytes == 16_384


def test_cold_rows_leave_first(filled: SpilledStorage) -> None:
    popular = np.arange(500, 530)
    rng = np.random.default_rng(0)
    for _ in range(60):
        filled.read(0, popular)
        filled.read(0, rng.choice(1000, 15, replace=False))
    assert set(popular.tolist()) <= hot(filled)


def test_a_dump_leaves_the_hot_rows_where_they_are(filled: SpilledStorage) -> None:
    before = hot(filled)
    filled.slice(0, 0, 1000)
    assert hot(filled) == before


def test_rows_that_did_not_change_are_not_written_again(
    filled: SpilledStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.read(0, np.arange(900))  # whatever was changed has been put away since
    written: list[int] = []
    monkeypatch.setattr(ColdFile, "write", lambda _, slots, records: written.extend(slots))
    filled.read(0, np.arange(900))
    assert written == []
    filled.write(0, np.array([3]), np.zeros((1, 3), np.float32))
    filled.read(0, np.arange(100, 900))
    assert written == [3]


def test_without_more_rows_than_memory_holds_there_is_no_file(tmp_path: Path) -> None:
    storage = SpilledStorage(COLUMNS, 100 * 22, tmp_path / "missing")
    storage.reserve(100)
    assert storage.cold_nbytes == 0
    with pytest.raises(ResourceError, match=r"cannot keep rows on disk in .*missing: No such file.*memory_bytes_max"):
        storage.reserve(101)


def test_the_file_has_no_name(tmp_path: Path) -> None:
    storage = SpilledStorage(COLUMNS, FEW, tmp_path)
    storage.reserve(1000)
    assert storage.cold_nbytes
    assert list(tmp_path.iterdir()) == []
    storage.close()


def test_the_hook_of_a_snapshot_sees_rows_before_they_change(filled: SpilledStorage) -> None:
    seen: list[Any] = []
    filled.before_write = lambda slots: seen.append(filled.read(0, slots))
    filled.write(0, np.array([7, 990]), np.zeros((2, 3), np.float32))
    assert np.array_equal(seen[0], rows_of(COLUMNS[0], [7, 990], 0))


def test_reads_are_announced_while_the_disk_is_waited_for(
    filled: SpilledStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter(range(0, 10**6, 1000))
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(cold.resource, "getrusage", lambda _: type("Usage", (), {"ru_majflt": next(faults)}))
    monkeypatch.setattr(cold.os, "posix_fadvise", lambda _, start, size, advice: told.append((start, size)))
    for _ in range(2):
        rows = filled.read(0, np.arange(0, 1000, 13))
        assert np.array_equal(rows, rows_of(COLUMNS[0], np.arange(0, 1000, 13), 0))
    assert set(told) <= {(page * 4096, 4096) for page in range(4)}
    assert told


def spec(**changes: Any) -> TableSpec:
    settings: dict[str, Any] = {"name": "items", "kind": "sparse", "dim": 3, "rule": Adam()}
    return TableSpec(**{**settings, **changes})


@given(
    st.lists(st.tuples(st.sampled_from(["push", "pull", "load", "remove"]), SLOTS), max_size=10),
    st.sampled_from([None, 120]),
)
@settings(max_examples=60, deadline=None)
def test_a_table_is_the_same_with_and_without_a_bound(steps: list[Any], bound: int | None) -> None:
    plain, spilled = SparseTable(spec(bound=bound)), SparseTable(spec(bound=bound, memory_bytes_max=FEW))
    assert isinstance(spilled.storage, SpilledStorage)
    both = (plain, spilled)
    for step, (verb, listed) in enumerate(steps):
        keys = np.array(listed, np.uint64) * (1 if bound else 2**50)
        if verb == "push":
            pushed = np.random.default_rng(step).standard_normal((keys.size, 3)).astype(np.float32)
            assert np.array_equal(*(table.push(keys, pushed) for table in both))
        elif verb == "pull":
            assert np.array_equal(*(table.pull(keys) for table in both))
        elif verb == "load":
            dumped = {name: part[::2] for name, part in plain.dump().items()}
            assert np.array_equal(*(table.load(dumped) for table in both))
        else:
            for table in both:
                table.remove(table.slots(keys))
    one, other = plain.dump(), spilled.dump()
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert all(np.array_equal(one[name][3:9], spilled.part(name, 3, 9)) for name in one)
    spilled.close()


def test_a_snapshot_of_a_spilled_table_is_its_dump(tmp_path: Path) -> None:
    table = SparseTable(spec(memory_bytes_max=20_000))
    keys = np.arange(3000, dtype=np.uint64)
    table.push(keys, np.ones((3000, 3), np.float32))
    expected = table.dump()
    sums: list[Any] = []
    snapshot = Snapshot(tmp_path / "t.safetensors", Content({"items": table}, {}), sums.append)
    snapshot.advance(0.0)
    for start in range(0, 3000, 100):
        table.push(keys[start::7], np.ones((keys[start::7].size, 3), np.float32))
        snapshot.advance(0.0)
    snapshot.finish()
    snapshot.wait(20)
    assert len(sums) == 1
    saved = read_tables(tmp_path / "t.safetensors")["items"]
    assert all(np.array_equal(saved[name], part) for name, part in expected.items())
    assert not np.array_equal(table.dump()["values"], expected["values"])
    table.close()


def test_a_table_whose_rows_find_no_room_on_disk_is_as_before(tmp_path: Path) -> None:
    table = SparseTable(spec(memory_bytes_max=FEW), tmp_path / "missing")
    table.push(np.arange(10, dtype=np.uint64), np.ones((10, 3), np.float32))
    before = table.dump()
    with pytest.raises(ResourceError, match="make room"):
        table.pull(np.arange(50, dtype=np.uint64))
    assert len(table) == 10
    assert all(np.array_equal(part, before[name]) for name, part in table.dump().items())
    assert table.pull(np.arange(10, dtype=np.uint64)).shape == (10, 3)


def test_a_table_without_numbers_needs_no_disk() -> None:
    table = SparseTable(spec(dim=0, rule=Sgd(), memory_bytes_max=FEW))
    assert table.pull(np.arange(100, dtype=np.uint64)).shape == (100, 0)


FULL_DISK = """
import resource, sys
import numpy as np
from flps.errors import ResourceError
from flps.table.files import read_tables
from flps.table.snapshot import Content, Snapshot
from flps.table.spill import SpilledStorage
from flps.table.storage import Column

storage = SpilledStorage((Column("values", 16, "float32"),), 1_000_000, None)
storage.reserve(100_000)
slots = np.arange(100_000)
storage.write(0, slots, np.repeat(slots, 16).reshape(-1, 16))
resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        storage.reserve(2_000_000)
    except ResourceError as error:
        print(error)
    assert (storage.slice(0, 0, 100_000)[:, 5] == slots).all()
    assert (storage.read(0, slots)[:, 7] == slots).all()
storage.reserve(500_000)
storage.write(0, slots, np.zeros((100_000, 16), np.float32))
assert not storage.read(0, slots).any()
"""


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"cannot keep rows on disk in {tmp_path}: File too large; 128 MB are needed there: make")
    assert list(tmp_path.iterdir()) == []
