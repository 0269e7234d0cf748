"""Which checkpoint --resume means, and what is refused before a role starts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.checkpoint.record import MANIFEST, sealed, write_record
from flps.checkpoint.run import FORMAT, Complete, Part, completed, differences, folder_name, settings_of
from flps.config.job import Job
from flps.config.types import Config, Runner
from flps.errors import ConfigError, DataError
from flps.launch.arguments import parse
from flps.launch.plan import Role
from flps.launch.resume import expect_no_earlier_run, find, tidy

CONFIG = Config(runner=Runner(save_checkpoint_interval=5, sync_mode="sync"))
EVERYBODY = (Role("server", 0, "localhost"), Role("worker", 0, "localhost"), Role("worker", 1, "localhost"))
FILES = ("shared-0-of-1.safetensors", "private-0-of-2.safetensors", "private-1-of-2.safetensors")


def job_in(run_dir: Path, config: Config = CONFIG, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "run_id": "run", "run_dir": str(run_dir), "config_dir": str(run_dir), "config": config, "workers": 2,
        "servers": ("ipc://server-0",), "coordinator": "", "coordinators": 0, "security": "unix",
    }  # fmt: skip
    return Job(**settings | changes)


def run(log_dir: Path, name: str, *made: tuple[int, int], at_s: int = 0, **changes: Any) -> Path:
    """A run's folder with complete checkpoints at these positions."""
    run_dir = log_dir / name
    run_dir.mkdir(parents=True)
    (run_dir / "job.json").write_bytes(msgspec.json.encode(job_in(run_dir, **changes)))
    os.utime(run_dir / "job.json", (at_s, at_s))
    for epoch, step in made:
        checkpoint(run_dir / "checkpoint" / folder_name(epoch, step), epoch, step)
    return run_dir


def checkpoint(folder: Path, epoch: int, step: int) -> None:
    folder.mkdir(parents=True)
    identity = f"{folder.parent.parent.name} {folder.name}"
    for file in FILES:
        (folder / file).write_text(file)
        part = Part(
            format=FORMAT, checkpoint=identity, epoch=epoch, step=step, file=file, sha256=f"sha {file}", tables=(),
            state=msgspec.Raw(b"{}"),
        )  # fmt: skip
        write_record(folder / f"{file}.json", part)
    manifest = Complete(
        format=FORMAT, checkpoint=identity, run="run", epoch=epoch, step=step, workers=2, servers=1,
        files={file: f"sha {file}" for file in FILES}, settings=settings_of(CONFIG),
    )  # fmt: skip
    write_record(folder / MANIFEST, manifest)


def found(log_dir: Path, said: str = "", local: tuple[Role, ...] = EVERYBODY, **changes: Any) -> str:
    start = find(said, log_dir, local, job_in(log_dir / "run-new", **changes))
    return str(start.folder.relative_to(log_dir))


# --- finding ---------------------------------------------------------------------------------------------------------


def test_the_newest_complete_one_of_the_newest_run(tmp_path: Path) -> None:
    run(tmp_path, "run-2", (8, 0), at_s=10)
    newest = run(tmp_path, "run-1", (0, 5), (0, 10), (1, 0), at_s=20)
    (newest / "checkpoint" / "1-5").mkdir()  # was being written
    assert found(tmp_path) == "run-1/checkpoint/1-0"


def test_a_run_that_came_to_none_of_its_own_went_on_from_another(tmp_path: Path) -> None:
    first = run(tmp_path, "run-1", (0, 5), at_s=10)
    run(tmp_path, "run-2", at_s=20, resume_from=str(first / "checkpoint" / "0-5"))
    assert found(tmp_path) == "run-1/checkpoint/0-5"
    run(tmp_path, "run-3", at_s=30)
    with pytest.raises(DataError, match=r"run-3 has no complete checkpoint in .*: its first one was due after 5 steps"):
        found(tmp_path)
    run(tmp_path, "run-4", at_s=40, config=Config())
    with pytest.raises(DataError, match=r"runner.save_checkpoint_interval was 0"):
        found(tmp_path)


def test_what_is_named(tmp_path: Path) -> None:
    first = run(tmp_path, "run-1", (0, 5), (1, 0), at_s=10)
    run(tmp_path, "run-2", (3, 0), at_s=20)
    for said in (first, first / "checkpoint", first / "checkpoint" / "1-0"):
        assert found(tmp_path, str(said)) == "run-1/checkpoint/1-0"
    assert found(tmp_path, str(first / "checkpoint" / "0-5")) == "run-1/checkpoint/0-5"
    with pytest.raises(DataError, match=r"neither a run's folder \(job.json\), nor one complete checkpoint"):
        found(tmp_path, str(tmp_path))
    with pytest.raises(DataError, match="there is no run in"):
        found(tmp_path / "nowhere")


def test_a_host_without_the_manifest_looks_at_its_own_parts(tmp_path: Path) -> None:
    newest = run(tmp_path, "run-1", (0, 5), (1, 0))
    for folder in completed(newest / "checkpoint"):
        (folder / MANIFEST).unlink()
    alone = (EVERYBODY[2],)
    (newest / "checkpoint" / "1-0" / f"{FILES[2]}.json").unlink()
    assert found(tmp_path, local=alone) == "run-1/checkpoint/0-5"
    start = find("", tmp_path, alone, job_in(tmp_path))
    assert (start.checkpoint, start.epoch, start.step) == ("run-1 0-5", 0, 5)
    tidy(start)  # which of them are complete is not known here
    assert len(list((newest / "checkpoint").iterdir())) == 2
    with pytest.raises(DataError, match=r"private-1-of-2.safetensors.json is missing"):
        found(tmp_path, str(newest / "checkpoint" / "1-0"), alone)
    coordinator = (Role("coordinator", 0, "localhost"), EVERYBODY[2])
    for local, coordinators in ((coordinator, 1), (EVERYBODY, 0)):
        with pytest.raises(DataError, match=r"0-5 is no complete checkpoint: it has no manifest.json"):
            found(tmp_path, str(newest / "checkpoint" / "0-5"), local, coordinators=coordinators)
        with pytest.raises(DataError, match="has no complete checkpoint"):
            found(tmp_path, "", local, coordinators=coordinators)


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    newest = run(tmp_path, "run-1", (0, 5), (1, 0))
    (newest / "checkpoint" / "1-5").mkdir()
    (newest / "checkpoint" / "1-5" / FILES[0]).write_text("half")
    tidy(find("", tmp_path, EVERYBODY, job_in(tmp_path)))
    assert sorted(path.name for path in (newest / "checkpoint").iterdir()) == ["0-5", "1-0"]


# --- refusing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"workers": 3}, "there were 2 workers, now there are 3"),
        ({"config": msgspec.structs.replace(CONFIG, seed=1)}, "seed was 42, is 1"),
        ({"config": msgspec.structs.replace(CONFIG, model="x:y")}, "model was 'ncf', is 'x:y'"),
        (
            {"config": msgspec.structs.replace(CONFIG, hyper_parameters={"mf_dim": 4})},
            r"hyper_parameters was {}, is {'mf_dim': 4}",
        ),
        (
            {"config": Config(runner=Runner(train_batch_size=3, sync_mode="async"))},
            "runner.sync_mode was 'sync', is 'async'; runner.train_batch_size was 512, is 3",
        ),
    ],
)
def test_another_job_is_refused_with_all_that_differs(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    run(tmp_path, "run-1", (0, 5))
    with pytest.raises(ConfigError, match=f"this job cannot go on from .*run-1/checkpoint/0-5: {reason}") as caught:
        found(tmp_path, **changes)
    assert caught.value.exit_code == 2


def test_a_difference_within_a_part_is_named_by_its_own_key() -> None:
    saved = {"hyper_parameters": {"mf_dim": 4, "optimizer": {"class": "adam", "beta1": None}}}
    now = {"hyper_parameters": {"mf_dim": 4, "optimizer": {"class": "sgd", "beta1": None}}}
    assert differences(saved, now) == ["hyper_parameters.optimizer.class was 'adam', is 'sgd'"]


def test_what_may_change(tmp_path: Path) -> None:
    run(tmp_path, "run-1", (0, 5))
    runner = Runner(
        sync_mode="sync", epochs=9, save_interval=0, save_checkpoint_interval=0, keep_checkpoint_max=1,
        checkpoint_path="elsewhere", print_interval=3, train_data_dir="moved",
    )  # fmt: skip
    assert found(tmp_path, config=Config(runner=runner), servers=("a", "b", "c")) == "run-1/checkpoint/0-5"


def _break(what: str, folder: Path) -> str:
    path = folder / FILES[1]
    if what == "a part":
        path.unlink()
        return "private-0-of-2.safetensors is missing"
    if what == "a record":
        path.with_name(f"{path.name}.json").unlink()
        return "private-0-of-2.safetensors.json is missing"
    if what == "the manifest's sum":
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_bytes(sealed(json.loads(text.replace(f"sha {FILES[1]}", "another"))))
        return "names another sha256 than"
    if what == "the format":
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_bytes(sealed(json.loads(text.replace('"format": 1', '"format": 7'))))
        return "has format 7, this version reads 1"
    if what == "a name":
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_bytes(sealed(json.loads(text.replace(f'"{FILES[1]}":', '"../../x":'))))
        return r"names a file '../../x', expected"
    (folder / MANIFEST).write_text("{")
    return "cannot read"


@pytest.mark.parametrize(
    "what", ["a part", "a record", "the manifest's sum", "the format", "a name", "the manifest's text"]
)
def test_a_broken_one_is_refused(tmp_path: Path, what: str) -> None:
    newest = run(tmp_path, "run-1", (0, 5))
    reason = _break(what, newest / "checkpoint" / "0-5")
    with pytest.raises(DataError, match=reason):
        found(tmp_path)


def test_a_new_run_does_not_write_among_old_checkpoints(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    config = Config(runner=Runner(save_checkpoint_interval=5, checkpoint_path=str(shared)))
    expect_no_earlier_run(job_in(tmp_path, config))
    checkpoint(shared / "0-5", 0, 5)
    with pytest.raises(ConfigError, match=r"holds checkpoints of an earlier run, up to 0-5; go on .* by --resume="):
        expect_no_earlier_run(job_in(tmp_path, config))
    expect_no_earlier_run(job_in(tmp_path, config, resume_from=str(shared / "0-5")))
    expect_no_earlier_run(job_in(tmp_path, Config(runner=Runner(checkpoint_path=str(shared)))))


def test_the_end_of_a_run(tmp_path: Path) -> None:
    run(tmp_path, "run-1", (2, 0))
    start = find("", tmp_path, EVERYBODY, job_in(tmp_path))
    assert start.is_end(2)
    assert not start.is_end(3)
    assert str(start).endswith("run-1/checkpoint/2-0, after 2 epochs and 0 steps")


# --- the flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "resume", "trainer"),
    [
        ((), None, None),
        (("--resume",), "", None),
        (("--resume=log/run-1",), "log/run-1", None),
        (("--resume", "log/run-1"), "log/run-1", None),
        (("--resume", "trainer.py"), "", "trainer.py"),
        (("trainer.py", "--resume"), "", "trainer.py"),
        (("--resume", "--in_process"), "", None),
    ],
)
def test_the_flag(words: tuple[str, ...], resume: str | None, trainer: str | None) -> None:
    arguments = parse([*words, "-m", "x.yaml"])
    assert (arguments.resume, arguments.trainer) == (resume, trainer)
