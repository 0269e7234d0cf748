"""The yaml of Paddle's FL-PS quick start, word for word, where the quick start puts it: flrun runs it unchanged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# What the original's workers print, with our speed behind it.
PROGRESS = re.compile(
    r"time: \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\], batch: \[(\d+)\], Epoch (\d+) Var Loss\[1\]:\[([\d.e-]+)\], "
    r"Epoch \2 Var Auc\[1\]:\[([\d.e-]+)\], speed: \d+ samples/s$",
    re.M,
)


@pytest.fixture
def quick_start(shards: Callable[..., Path], flrun: Any) -> Path:
    """PaddleRec/models/recall/ncf with the yaml and its two readers, and the data where its paths point."""
    root = flrun.folder / "PaddleRec"
    ncf = root / "models" / "recall" / "ncf"
    ncf.mkdir(parents=True)
    for name in ("config_fl.yaml", "movielens_reader.py", "queuedataset_reader.py"):
        shutil.copy(CONFIGS / name, ncf)
    shutil.copytree(shards(3, users=300), root / "datasets" / "movielens_pinterest_NCF" / "fl_data")
    return ncf


@pytest.mark.parametrize("coordinators", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_quick_starts_yaml_runs_unchanged(quick_start: Path, flrun: Any, coordinators: int) -> None:
    before = sorted(path for path in quick_start.rglob("*"))
    config = quick_start / "config_fl.yaml"
    started = flrun.start("--worker_num=3", f"--coordinator_num={coordinators}", "-o", "runner.print_interval=2",
                          yaml_file=str(config))  # fmt: skip
    code, out, err = flrun.finish(started)
    assert (code, err) == (0, ""), (out, err)
    assert "private rows warm 300/300" in out
    logs = flrun.logs()
    for rank in range(3):
        lines = PROGRESS.findall(logs[f"workerlog.{rank}"])
        steps = -(-len((quick_start / f"../../../datasets/movielens_pinterest_NCF/fl_data/fl_train_data/{rank}.csv")
                       .read_text().splitlines()) // 512)  # fmt: skip
        expected = [(step, epoch) for epoch in (0, 1) for step in [*range(2, steps, 2), steps]]
        assert [(int(step), int(epoch)) for step, epoch, _, _ in lines] == expected
        assert all(0 < float(loss) < 1 and 0 <= float(auc) <= 1 for _, _, loss, auc in lines)
        assert "user_input is private: it is not dumped" in logs[f"workerlog.{rank}"]
    assert flrun.saved.epochs() == [1, 2]
    assert flrun.saved.folder(1).parent.name == "output_model_ncf"
    assert flrun.saved.folder(1).is_relative_to(flrun.saved.run_dir)
    # Nothing is written beside the yaml, nor to the home folder of the yaml's author.
    after = sorted(path for path in quick_start.rglob("*") if "__pycache__" not in path.parts)
    assert after == before
    assert not Path("/home/wangbin").exists()


def test_dumps_are_in_the_originals_format_and_inside_the_run(quick_start: Path, flrun: Any) -> None:
    started = flrun.start("--worker_num=3", "-o", "runner.epochs=1", yaml_file=str(quick_start / "config_fl.yaml"))
    code, _, err = flrun.finish(started)
    assert code == 0, err
    files = sorted(flrun.saved.run_dir.glob("*/epoch_*/part-*"))
    assert [path.name for path in files] == [f"part-{rank:03d}-00000" for rank in range(3)]
    for rank, path in enumerate(files):
        lines = path.read_text().splitlines()
        shard = quick_start / f"../../../datasets/movielens_pinterest_NCF/fl_data/fl_train_data/{rank}.csv"
        items = sorted(int(line.split(",")[1]) for line in shard.read_text().splitlines())
        found = [re.fullmatch(r"\titem_input:1:(\d+)", line) for line in lines]
        assert sorted(int(match[1]) for match in found if match) == items


@pytest.mark.parametrize("path", ["", ".", "..", "/tmp/..", "somewhere/else"])
def test_a_dump_path_never_leads_out_of_the_run(
    shards: Callable[..., Path], federate: Callable[..., Any], path: str
) -> None:
    runner = {"need_dump": True, "dump_fields": ["user_input", "item_input", "label"], "dump_fields_path": path}
    saved = federate(shards(1), {"runner": runner | {"epochs": 1}}, workers=1)
    (file,) = saved.run_dir.parent.rglob("part-*")
    assert file.is_relative_to(saved.run_dir)
    assert re.fullmatch(r"\tuser_input:1:\d+\titem_input:1:\d+\tlabel:1:[01]", file.read_text().splitlines()[0])
