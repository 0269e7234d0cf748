"""The same job in another shape gives the same numbers, bit for bit: servers, seeds, readers, threads or processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flps.data.columns import write_columns

ROOT = Path(__file__).resolve().parents[2]
MODES = ("sync", "async", "geo")


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every number of two models is the same, rule state included."""
    assert one.keys() == other.keys()
    different = [name for name in one if not np.array_equal(one[name], other[name])]
    assert not different


def joined(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without the per-server step count of a dense table, of which every server has its own."""
    return {name: value for name, value in parameters.items() if name != "dense.state.2"}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
def test_one_server_is_three_servers(
    shards: Callable[..., Path], federate: Callable[..., Any], rule: str, private: bool
) -> None:
    settings: dict[str, Any] = {
        "runner": {"sync_mode": "sync", "epochs": 1} | ({"local_sparse": ["user_embedding"]} if private else {}),
        "hyper_parameters": {"optimizer": {"class": rule}},
    }
    folder = shards(2)
    one, three = (federate(folder, settings, servers=count).parameters() for count in (1, 3))
    assert_same(joined(one), joined(three))


@pytest.mark.parametrize("mode", MODES)
def test_a_job_of_one_worker_does_not_depend_on_the_servers(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str
) -> None:
    folder = shards(2)
    settings = {"runner": {"sync_mode": mode, "epochs": 1}}
    one, three = (federate(folder, settings, workers=1, servers=count).parameters() for count in (1, 3))
    assert_same(joined(one), joined(three))


def test_without_a_coordinator_server_0_does_the_same(
    shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    folder = shards(2)
    settings = {"runner": {"sync_mode": "sync", "test_data_dir": str(folder / "fl_test_data")}}
    with_one, without = (federate(folder, settings, servers=2, coordinators=count) for count in (1, 0))
    assert_same(with_one.parameters(), without.parameters())
    for kind, volatile in (("eval", {"time", "role"}), ("epoch", {"time", "role", "seconds", "samples_per_s"})):
        told = [[{k: v for k, v in e.items() if k not in volatile} for e in run.events(kind)]
                for run in (with_one, without)]  # fmt: skip
        assert told[0] == told[1]
        assert len(told[0]) == 2


@pytest.mark.parametrize("fresh", [False, True])
def test_a_seed_gives_one_result(shards: Callable[..., Path], federate: Callable[..., Any], fresh: bool) -> None:
    folder = shards(3)
    settings = {"runner": {"sync_mode": "sync", "negatives": "fresh" if fresh else "fixed"}}
    one, again = (federate(folder, settings, workers=3).parameters() for _ in range(2))
    assert_same(one, again)
    other = federate(folder, settings | {"seed": 12}, workers=3).parameters()
    assert not np.array_equal(one["dense.values"], other["dense.values"])


@pytest.mark.parametrize("private", [pytest.param(False, marks=pytest.mark.slow), True])
def test_threads_are_processes(shards: Callable[..., Path], flrun: Any, private: bool) -> None:
    folder = shards(2)
    runner = {"sync_mode": "sync", "epochs": 1, "test_data_dir": str(folder / "fl_test_data")}
    flrun.write({"runner": runner | ({"local_sparse": ["user_embedding"]} if private else {})}, folder)
    results = []
    for flags in ((), ("--in_process",)):
        code, _, err = flrun("--worker_num=2", "--coordinator_num=1", *flags)
        assert code == 0, err
        scores = [
            {k: event[k] for k in ("hr", "ndcg", "hr_full", "auc", "warm")} for event in flrun.saved.events("eval")
        ]
        results.append((flrun.saved.parameters(), scores))
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][1][0]["warm"] == 60


def with_columns(folder: Path) -> Path:
    """The shards of a folder in columnar form only."""
    for path in (folder / "fl_train_data").glob("*.csv"):
        table = np.loadtxt(path, delimiter=",", dtype=np.int64)
        columns = {"user": table[:, 0], "item": table[:, 1], "label": table[:, 2].astype(np.float32)}
        write_columns(path.with_suffix(".flps"), columns, {})
        path.unlink()
    return folder


def test_a_reader_does_not_matter(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    folder = shards(2)
    for name in ("movielens_reader.py", "queuedataset_reader.py"):
        shutil.copy(ROOT / "configs" / name, folder)
    readers = [
        {"reader_type": "columnar"},
        {"reader_type": "QueueDataset", "pipe_command": "python queuedataset_reader.py"},
        {"reader_type": "DataLoader", "train_reader_path": "movielens_reader"},
        {"reader_type": "RecDataset", "train_reader_path": "movielens_reader"},
    ]
    settings = {"runner": {"sync_mode": "sync", "epochs": 1}}
    results = [federate(folder, {"runner": settings["runner"] | reader}).parameters() for reader in readers]
    with_columns(folder)
    results.append(federate(folder, settings).parameters())
    for other in results[1:]:
        assert_same(results[0], other)
