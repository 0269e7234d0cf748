"""What a worker remembers comes back: at a checkpoint, and alone from its newest own part."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flps.checkpoint.record import MANIFEST, write_record
from flps.checkpoint.run import FORMAT, Complete
from flps.config.job import Job
from flps.config.types import Config, Runner
from flps.errors import DataError
from flps.message import Cut, Wrote
from flps.metrics import AucHistogram
from flps.nn import DensePack, Embedding
from flps.table import Adam, TableSpec
from flps.worker.checkpoint import Memory, Standing
from flps.worker.homes import LocalHome
from flps.worker.parameters import DenseParameter, SparseParameter
from flps.worker.train import Totals

USERS = TableSpec(name="users", kind="sparse", dim=2, rule=Adam(0.1), bound=50)
DENSE = TableSpec(name="dense_private", kind="dense", dim=3, rule=Adam(0.1))
SPECS = [USERS, DENSE]
SAMPLES = (100, 7)


class News:
    """What was told to the coordinator."""

    def __init__(self) -> None:
        self.told: list[Wrote] = []
        self._is_told = threading.Event()

    def __call__(self, wrote: Wrote) -> None:
        self.told.append(wrote)
        self._is_told.set()

    def wait(self) -> Wrote:
        assert self._is_told.wait(20)
        self._is_told.clear()
        return self.told[-1]


def job_in(folder: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "run_id": "run", "run_dir": str(folder), "config_dir": str(folder), "config": Config(runner=Runner()),
        "workers": 2, "servers": (), "coordinator": "", "coordinators": 1, "security": "loopback",
    }  # fmt: skip
    return Job(**settings | changes)


def home() -> LocalHome:
    embedding = Embedding("users", 2, rows=50, feature="user_input")
    layer = torch.nn.Linear(2, 1)
    return LocalHome(
        [SparseParameter(embedding, USERS), DenseParameter(DensePack(layer, ["weight", "bias"]), DENSE)], private=True
    )


def train(one: LocalHome, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, dense = one.tables["users"], one.tables["dense_private"]
    for _ in range(5):
        users.push(rng.integers(0, 50, 4).astype(np.uint64), rng.normal(size=(4, 2)).astype(np.float32))  # type: ignore
        dense.push(rng.normal(size=3).astype(np.float32))  # type: ignore


def holding(one: LocalHome) -> dict[str, Any]:
    """Every number, rows in the order of their keys."""
    dump = {name: {part: np.array(array) for part, array in parts.items()} for name, parts in one.dump().items()}
    order = np.argsort(dump["users"]["keys"])
    dump["users"] = {part: array[order] for part, array in dump["users"].items()}
    return dump


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(array, other[name][part]) for name, parts in one.items() for part, array in parts.items())


def totals() -> Totals:
    auc = AucHistogram()
    auc.add([0.2, 0.7], [0, 1])
    return Totals(12, 3.0000000000000004, auc, (10, 2.5))


def test_it_stands_where_it_stood(tmp_path: Path) -> None:
    news, one = News(), home()
    train(one, 1)
    then = holding(one)
    memory = Memory(job_in(tmp_path), 0, news)
    torch.manual_seed(5)
    memory.write(Cut("id", 1, 4), Standing(1, 4, False, totals()), [one], SPECS, SAMPLES)
    drawn = torch.rand(3)
    train(one, 2)  # it goes on while the part is written
    memory.advance()
    memory.finish()
    wrote = news.wait()
    assert (wrote.checkpoint, wrote.file, wrote.failure) == ("id", "private-0-of-2.safetensors", "")
    assert memory.last_cut == "id"

    again = home()
    job = job_in(tmp_path / "other", resume_from=str(tmp_path / "checkpoint" / "1-4"), checkpoint="id")
    standing = Memory(job, 0, news).take_up([again], SPECS, SAMPLES)
    assert standing is not None
    assert (standing.epoch, standing.step, standing.is_trained) == (1, 4, False)
    assert (standing.totals.samples, standing.totals.loss, standing.totals.reported) == (
        12,
        3.0000000000000004,
        (10, 2.5),
    )
    assert np.array_equal(standing.totals.auc.counts, totals().auc.counts)
    assert torch.equal(torch.rand(3), drawn)
    assert same(then, holding(again))
    train(again, 2)
    assert same(holding(one), holding(again))


@pytest.mark.parametrize(
    ("specs", "samples", "checkpoint", "reason"),
    [
        (SPECS, (100, 8), "id", "100 samples of 7 users an epoch, here are 100 of 8: go on with the same"),
        (SPECS, SAMPLES, "x", r"belongs to checkpoint id .*, not to x"),
        ([USERS], SAMPLES, "id", "table dense_private was .*, is not there"),
    ],
)
def test_what_is_of_another_job_is_refused(
    tmp_path: Path, specs: list[TableSpec], samples: tuple[int, int], checkpoint: str, reason: str
) -> None:
    news = News()
    memory = Memory(job_in(tmp_path), 0, news)
    memory.write(Cut("id", 1, 4), Standing(1, 4, False, Totals()), [home()], SPECS, SAMPLES)
    memory.finish()
    news.wait()
    job = job_in(tmp_path / "other", resume_from=str(tmp_path / "checkpoint" / "1-4"), checkpoint=checkpoint)
    with pytest.raises(DataError, match=reason):
        Memory(job, 0, news).take_up([home()], specs, samples)


def test_who_was_lost_before_has_no_part(tmp_path: Path) -> None:
    news, folder = News(), tmp_path / "checkpoint" / "1-4"
    memory = Memory(job_in(tmp_path), 0, news)
    memory.write(Cut("id", 1, 4), Standing(1, 4, False, Totals()), [home()], SPECS, SAMPLES)
    memory.finish()
    wrote = news.wait()
    job = job_in(tmp_path / "other", resume_from=str(folder), checkpoint="id")
    with pytest.raises(DataError, match=r"private-1-of-2.safetensors.json is missing"):
        Memory(job, 1, news).take_up([home()], SPECS, SAMPLES)
    files = {wrote.file: wrote.sha256}
    manifest = Complete(
        format=FORMAT, checkpoint="id", run="run", epoch=1, step=4, workers=2, servers=0, files=files, settings={}
    )
    write_record(folder / MANIFEST, manifest)
    assert Memory(job, 1, news).take_up([home()], SPECS, SAMPLES) is None


def test_alone_it_takes_its_newest_own_part_that_can_be_read(tmp_path: Path) -> None:
    news, one = News(), home()
    memory = Memory(job_in(tmp_path), 0, news)
    assert not memory.restore_private(home(), SPECS)
    states = {}
    for step in (4, 8, 12):
        train(one, step)
        states[step] = holding(one)
        kept = tuple(f"1-{earlier}" for earlier in states)
        memory.write(Cut(f"id {step}", 1, step, (0,), kept), Standing(1, step, False, Totals()), [one], SPECS, SAMPLES)
        memory.finish()
        news.wait()
    place = tmp_path / "checkpoint"
    for spoilt, expected in ((None, 12), (place / "1-12", 8)):
        if spoilt is not None:
            path = spoilt / "private-0-of-2.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"\1")
        again = home()
        assert Memory(job_in(tmp_path), 0, news).restore_private(again, SPECS)
        assert same(states[expected], holding(again))


def test_own_parts_that_nobody_wants_any_more_are_removed(tmp_path: Path) -> None:
    news = News()
    memory = Memory(job_in(tmp_path), 0, news)
    place = tmp_path / "checkpoint"
    (place / "1-4").mkdir(parents=True)
    (place / "1-4" / "private-1-of-2.safetensors").write_text("of another role")
    for step, kept in ((4, ()), (8, ("1-4",)), (12, ("1-8",))):
        memory.write(Cut(f"{step}", 1, step, (0,), kept), Standing(1, step, False, Totals()), [home()], SPECS, SAMPLES)
        memory.finish()
        news.wait()
    found = sorted(f"{path.parent.name}/{path.name}" for path in place.rglob("*safetensors"))
    own = "private-0-of-2.safetensors"
    assert found == ["1-12/" + own, "1-4/private-1-of-2.safetensors", "1-8/" + own]
