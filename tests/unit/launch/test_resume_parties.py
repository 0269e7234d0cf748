"""Which folder of checkpoints --resume means for the parties of a split job, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.config.split import Follower, Leader, Parties, Psi, SplitConfig, SplitRunner
from flps.config.split_job import SplitJob
from flps.errors import ConfigError, DataError
from flps.launch.plan import Role
from flps.launch.resume_parties import expect_no_earlier_run, find

LEADER, FOLLOWER = Role("leader", 0, "h"), Role("follower", 0, "h")
BOTH = (LEADER, FOLLOWER)
VALUES: dict[str, Any] = {"batch_size": 4, "epochs": 1, "data_path": "d", "leader_top_yaml_path": "a"}


def job_in(run_dir: Path, **changes: Any) -> SplitJob:
    config = SplitConfig(runner=SplitRunner(save_checkpoint_interval=5), hyper_parameters=VALUES)
    base = SplitJob(run_id="r", run_dir=str(run_dir), config_dir="/c", config=config, leader="x", security="unix")
    return msgspec.structs.replace(base, **changes)


def run(log_dir: Path, name: str, *parties: str, at_s: int = 0, **changes: Any) -> Path:
    """A run's folder in which these parties have a checkpoint."""
    run_dir = log_dir / name
    run_dir.mkdir(parents=True)
    (run_dir / "job.json").write_bytes(msgspec.json.encode(job_in(run_dir, **changes)))
    os.utime(run_dir / "job.json", (at_s, at_s))
    for party in parties:
        (run_dir / "checkpoint" / party).mkdir(parents=True)
        (run_dir / "checkpoint" / party / f"{party}-net-x_step_5.json").write_text("{}")
    return run_dir


def test_the_newest_run(tmp_path: Path) -> None:
    run(tmp_path, "run-1", "leader", "follower", at_s=1)
    newest = run(tmp_path, "run-2", "leader", "follower", at_s=2)
    assert find("", tmp_path, BOTH, job_in(tmp_path)) == newest / "checkpoint"


def test_a_run_or_a_folder_by_name(tmp_path: Path) -> None:
    older = run(tmp_path, "run-1", "leader", "follower", at_s=1)
    run(tmp_path, "run-2", at_s=2)
    for said in (older, older / "checkpoint"):
        assert find(str(said), tmp_path, BOTH, job_in(tmp_path)) == older / "checkpoint"


def test_a_run_without_checkpoints_went_on_from_another(tmp_path: Path) -> None:
    first = run(tmp_path, "run-1", "leader", "follower", at_s=1)
    run(tmp_path, "run-2", at_s=2, resume_from=str(first / "checkpoint"))
    assert find("", tmp_path, BOTH, job_in(tmp_path)) == first / "checkpoint"


def test_each_host_has_the_checkpoints_of_its_own_parties(tmp_path: Path) -> None:
    place = run(tmp_path, "run-1", "leader") / "checkpoint"
    assert find("", tmp_path, (LEADER,), job_in(tmp_path)) == place
    with pytest.raises(DataError, match="there is no checkpoint of follower in it"):
        find(str(place), tmp_path, BOTH, job_in(tmp_path))


@pytest.mark.parametrize("interval", [0, 7])
def test_no_checkpoint(interval: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no run in"):
        find("", tmp_path, BOTH, job_in(tmp_path))
    config = SplitConfig(runner=SplitRunner(save_checkpoint_interval=interval), hyper_parameters=VALUES)
    run(tmp_path, "run-1", config=config)
    says = "its first one was due after 7 steps" if interval else "save_checkpoint_interval was 0"
    with pytest.raises(DataError, match=says):
        find("", tmp_path, BOTH, job_in(tmp_path))


def test_what_may_change_and_what_may_not(tmp_path: Path) -> None:
    run(tmp_path, "run-1", "leader", "follower")
    more = {**VALUES, "epochs": 9, "data_path": "e", "leader_top_yaml_path": "b"}
    free = SplitConfig(hyper_parameters=more, runner=SplitRunner(print_interval=1))
    find("", tmp_path, BOTH, job_in(tmp_path, config=free))
    parties = Parties(leader=Leader(columns="0-1"), followers=(Follower(name="follower", columns="2"),))
    other = SplitConfig(hyper_parameters={**VALUES, "batch_size": 8}, seed=3, parties=parties)
    with pytest.raises(ConfigError) as caught:
        find("", tmp_path, BOTH, job_in(tmp_path, config=other))
    for words in ("hyper_parameters.batch_size was 4, now it is 8", "seed was 0, now it is 3",
                  "parties.leader.columns was '', now it is '0-1'"):  # fmt: skip
        assert words in str(caught.value)


def test_aligned_rows_are_those_of_the_earlier_run(tmp_path: Path) -> None:
    """So what they were made of must be said as before; not so how many cores did it."""

    def job(**psi: Any) -> SplitJob:
        made = job_in(tmp_path)
        config = msgspec.structs.replace(made.config, psi=Psi(id_column="id", **psi) if psi else None)
        return msgspec.structs.replace(made, config=config)

    place = run(tmp_path, "run-1", "leader", "follower", config=job(order="leader").config) / "checkpoint"
    later = msgspec.structs.replace(job(order="leader", cores=3), resume_from=str(place))
    assert find("", tmp_path, BOTH, later) == place
    assert later.earlier_aligned("leader", 0) == tmp_path / "run-1" / "aligned" / "leader"
    with pytest.raises(ConfigError, match=r"psi\.order was 'leader', now it is 'chance'"):
        find("", tmp_path, BOTH, job(order="chance"))
    with pytest.raises(ConfigError, match=r"psi\.id_column was 'id', now it is None"):
        find("", tmp_path, BOTH, job())


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "run-1", "leader", "follower")
    (run_dir / "job.json").write_text('{"config": {"job": "federation"}}')
    with pytest.raises(ConfigError, match="cannot read"):
        find("", tmp_path, BOTH, job_in(tmp_path))
    whole = (
        '{"run_id":"r","run_dir":"","config_dir":"","config":{"job":"federation"},"workers":1,"servers":["s"],'
        '"coordinator":"s","coordinators":0,"security":"unix"}'
    )
    (run_dir / "job.json").write_text(whole)
    with pytest.raises(ConfigError, match="is a run of a federation"):
        find("", tmp_path, BOTH, job_in(tmp_path))


def test_a_new_run_does_not_write_among_old_checkpoints(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "run-1", "leader", "follower")
    with pytest.raises(ConfigError, match="holds checkpoints of an earlier run"):
        expect_no_earlier_run(BOTH, job_in(run_dir))
    expect_no_earlier_run(BOTH, job_in(run_dir, resume_from="x"))
    expect_no_earlier_run(BOTH, job_in(tmp_path / "new"))
