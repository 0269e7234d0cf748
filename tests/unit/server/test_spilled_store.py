"""A server whose tables may hold hardly a row in memory gives what one without a bound gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.errors import ResourceError
from flps.message import Pull, Push
from flps.server.store import Store
from flps.table import Adam, SparseTable, TableSpec
from flps.table.spill import SpilledStorage

WORDS = TableSpec(name="words", kind="sparse", dim=8, rule=Adam())
BOUNDED = msgspec.structs.replace(WORDS, memory_bytes_max=5000)


def store(spec: TableSpec, spill_in: Path | None = None) -> Store:
    made = Store(0, 1, keys_max=500, spill_in=spill_in)
    made.declare([msgspec.to_builtins(spec)])
    return made


def keys(rng: np.random.Generator) -> Any:
    return np.unique(rng.integers(0, 1000, 300, np.uint64)) * np.uint64(2**45)


def test_it_gives_what_one_without_a_bound_gives(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rng, free, bounded = np.random.default_rng(0), store(WORDS), store(BOUNDED, tmp_path / "rows")
    for _ in range(20):
        pushed, pulled = keys(rng), keys(rng)
        push = Push(0, pushed, rng.standard_normal((pushed.size, 8)).astype(np.float32))
        for one in (free, bounded):
            one.accept([push])
        assert np.array_equal(free.apply(push), bounded.apply(push))
        assert np.array_equal(free.pull([Pull(0, pulled)])[0], bounded.pull([Pull(0, pulled)])[0])
    assert free.save(tmp_path / "free") == bounded.save(tmp_path / "bounded")
    table = bounded.tables[0]
    assert isinstance(table, SparseTable)
    assert isinstance(table.storage, SpilledStorage)
    assert table.storage.cold_nbytes > 0
    assert list((tmp_path / "rows").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    one = store(BOUNDED, tmp_path / "missing")
    with pytest.raises(ResourceError, match=r"cannot keep rows on disk in .*missing.*memory_bytes_max"):
        one.pull([Pull(0, np.arange(400, dtype=np.uint64))])
