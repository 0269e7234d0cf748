"""Each benchmark runs in its quick form, and counts what it says it counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
DEADLINE_S = 110.0


def rows(script: str, *flags: str) -> dict[str, list[str]]:
    """The table that a benchmark prints: first cell -> the others."""
    ran = subprocess.run(
        [sys.executable, str(FOLDER / script), "--quick", "--no_report", *flags],
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = [line.strip("| ").split(" | ") for line in ran.stdout.splitlines() if line.startswith("|")]
    return {what: cells for what, *cells in table[2:]}


def number(cell: str) -> float:
    return float(re.sub(r"[^\d.]", "", cell))


@pytest.mark.slow
def test_ncf() -> None:
    table = rows("ncf.py", "--cases", "1")
    assert list(table) == ["two plain one-thread loops side by side", "geo, 10 workers, equal shards"]
    assert number(table["two plain one-thread loops side by side"][0]) > 1000
    _, _, whole_epoch, bytes_per_sample = table["geo, 10 workers, equal shards"]
    assert number(whole_epoch) > 1000
    assert 1 < number(bytes_per_sample) < 1000


@pytest.mark.slow
def test_table() -> None:
    table = {what: number(cell) for what, (cell,) in rows("table.py").items()}
    assert len(table) == 11
    assert min(table.values()) > 10
    assert table["pull, in this process"] > table["pull, one server"]


@pytest.mark.slow
def test_checkpoint() -> None:
    table = {what: [number(cell) for cell in cells] for what, cells in rows("checkpoint.py").items()}
    assert [what.split(", ")[1].split(" ")[0] for what in table] == ["look", "push"]
    for gap, gap_during, usual, usual_during, *rates, seconds, megabytes in table.values():
        assert gap >= usual > 0
        assert gap_during >= usual_during > 0
        assert min(rates) > 1000
        assert 0 < seconds < 60
        assert megabytes == 3  # 20,000 keys with rows and state of 16 float32


@pytest.mark.slow
def test_spill() -> None:
    table = {what: number(cell) for what, (cell,) in rows("spill.py").items()}
    assert len(table) == 11
    assert table["rows compared, all equal"] > 10_000
    assert table["file"] >= 64
    assert table["memory of its own, most, over what was before"] < 100


@pytest.mark.slow
def test_launch() -> None:
    table = {what: [number(cell) for cell in cells] for what, cells in rows("launch.py").items()}
    ours, theirs = table["flrun, 2 workers, server, coordinator"], table["4 interpreters that import torch"]
    assert ours[1] < theirs[1], "roles that share torch's pages take less memory than as many interpreters"
    assert ours[2] >= 5
    assert theirs[2] == 4


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in ("ncf", "launch", "federation", "report"):
        sys.modules.pop(name, None)


def test_the_steady_state_is_when_all_train(benchmark_of) -> None:  # type: ignore[no-untyped-def]
    ncf = benchmark_of("ncf")

    def told(rank: int, time: float, samples: int, **fields: object) -> dict[str, object]:
        event = {"event": "progress", "state": "training", "epoch": 1, "role": "worker", "rank": rank}
        return {**event, "time": time, "samples": samples, **fields}

    events = [
        told(0, 0.0, 0), told(0, 1.0, 100), told(0, 11.0, 1100),
        told(1, 0.0, 0), told(1, 3.0, 600), told(1, 7.0, 1400), told(1, 8.0, 0, state="waiting"),
        told(0, -5.0, 9999, epoch=0),
    ]  # fmt: skip
    assert ncf.steady(events, 2) == pytest.approx(300.0)  # between 3.0 and 7.0: 100/s and 200/s


def test_proportional_memory_of_a_tree(benchmark_of) -> None:  # type: ignore[no-untyped-def]
    launch = benchmark_of("launch")
    memory, count = launch.pss_mib(psutil.Process(os.getpid()))
    assert count >= 1
    assert 10 < memory < psutil.virtual_memory().total / 2**20


@pytest.mark.slow
def test_scale() -> None:
    """How the cost grows; the parts that start many processes are for the full form."""
    table = rows("scale.py", "--parts", "rows,steps")
    told = table["10,000 rows of dim 16, Adagrad: pulls, pushes, memory a row"][0].split(", ")
    assert [number(one) > 100 for one in told] == [True, True, True]
    grown = [cells for what, cells in table.items() if what.startswith(("server.0", "worker"))]
    assert len(grown) == 3
    for (memory,) in grown:
        early, late = (number(one) for one in memory.split(", "))
        assert late < early + 16


@pytest.mark.slow
def test_journal() -> None:
    table = rows("journal.py")
    assert {"off, beside log", "log", "off, beside log+fsync", "log+fsync"} <= table.keys()
    assert all(number(cells[0]) > 1 for cells in table.values())


@pytest.mark.slow
def test_split() -> None:
    table = rows("split.py")
    ((_, link, against, *speeds, goal),) = table.values()
    assert (list(table), link, against, goal) == (["small, 1024"], "unix socket", "unsplit, all cores", "0.9")
    assert [number(cell) > 0.01 for cell in speeds] == [True] * 3


@pytest.mark.slow
def test_split_quality() -> None:
    table = rows("split_quality.py", "--rows", "centralised", "split", "split, min_max 4 bits")
    auc, _, log_loss, *_ = table["centralised"]
    assert number(auc) > 0.5
    assert number(log_loss) > 0.1
    split, packed = table["split"], table["split, min_max 4 bits"]
    assert number(split[1]) < 5e-4
    to, of = (number(cell) for cell in split[3].split(", ")[:2])
    assert 8192 < to < 10_000
    assert 8192 < of < 10_000
    assert number(packed[3].split(", ")[0]) < to / 4
