"""flrun with the parties of a split job as real processes that train nothing: how they start, end and go on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEADLINE_S = 60.0
TWO_FOLLOWERS = "-oparties.followers=[{name: a, nets: [follower_bottom.yaml]}, {name: b, nets: [follower_bottom.yaml]}]"


class Run:
    """A split job in a folder of its own; processes of it are found by the folder in their environment."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder, self.runtime = folder, runtime
        shutil.copytree(ROOT / "configs" / "wide_deep", folder, dirs_exist_ok=True)
        text = (folder / "job.yaml").read_text() + "\nnetwork: {start_timeout_s: 20}\n"
        (folder / "job.yaml").write_text(text)
        (folder / "rows").mkdir()

    def start(self, roles: str, *flags: str, log_dir: str = "log") -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "flrun_with.py"), f"dummy_parties.py:{roles}", "-m", "job.yaml",
                   "--data_path=rows", f"--log_dir={log_dir}", *flags]  # fmt: skip
        environment = {"XDG_RUNTIME_DIR": str(self.runtime), "FLPS_TEST_RUN": str(self.folder)}
        return subprocess.Popen(
            command, cwd=self.folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def __call__(self, roles: str, *flags: str) -> tuple[int, str, str]:
        return self.finish(self.start(roles, *flags))

    def log(self, name: str, log_dir: str = "log") -> str:
        return (self.folder / log_dir / name).read_text()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLPS_TEST_RUN") == str(self.folder):
                    found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def flrun(tmp_path: Path, runtime: Path) -> Iterator[Run]:
    run = Run(tmp_path, runtime)
    yield run
    left = run.processes()
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_leader_and_followers_on_one_machine(flrun: Run) -> None:
    code, out, err = flrun("good", TWO_FOLLOWERS, "-oparties.leader.columns=''", "--batch_size=64")
    assert (code, err) == (0, "")
    for words in (
        "1 leader, 2 followers start here, links are guarded by unix",
        "log loss",
        "0.7500",
        "2.0 kB, 1.0 kB",
    ):
        assert words in out, out
    roles = json.loads((flrun.folder / "log" / "roles.json").read_text())
    assert [(row["role"], row["rank"]) for row in roles] == [("leader", 0), ("follower", 0), ("follower", 1)]
    assert len({row["pid"] for row in roles}) == 3
    assert "hello from b of leader, a, b" in flrun.log("followerlog.1")
    assert "batch 64" in flrun.log("leaderlog.0")
    assert f"('{flrun.folder}/leader_bottom.yaml', '{flrun.folder}/leader_top.yaml')" in flrun.log("leaderlog.0")
    assert f"rows {flrun.folder}/rows" in flrun.log("followerlog.0")
    assert not list(flrun.runtime.iterdir())


def test_a_party_that_is_killed_is_started_again(flrun: Run) -> None:
    code, out, err = flrun("follower_dies_once", "--max_restarts=1")
    assert (code, err) == (0, ""), out + err
    assert "follower.0 was killed by SIGKILL and was started again; 0 restarts are left" in out
    assert "life 2" in flrun.log("followerlog.0")


@pytest.mark.parametrize(
    ("roles", "flags", "code", "says"),
    [
        ("leader_crashes", (), 4, "leader.0 ended with exit code 4, so the job was stopped"),
        ("follower_dies_once", (), 4, "follower.0 was killed by SIGKILL, so the job was stopped"),
        ("bad_rows", (), 2, "follower.0 ended with exit code 2, so the job was stopped"),
        ("never_ready", ("-onetwork.start_timeout_s=1",), 5, "leader.0 did not come up in time"),
    ],
)
def test_how_a_failure_ends(flrun: Run, roles: str, flags: tuple[str, ...], code: int, says: str) -> None:
    done = flrun(roles, *flags)
    assert done[0] == code
    assert says in done[2]
    assert not list(flrun.runtime.iterdir())


def test_a_run_goes_on_from_the_one_before(flrun: Run) -> None:
    assert flrun("good")[0] == 0
    first = (flrun.folder / "log" / "leaderlog.0").resolve().parent
    code, out, _ = flrun("good", "--resume", "--epochs=16")
    assert code == 0
    assert f"goes on from {first}/checkpoint" in out
    assert f"from {first}/checkpoint/follower" in flrun.log("followerlog.0")
    code, _, err = flrun("good", f"--resume={first}", "--batch_size=7")
    assert code == 2
    assert "hyper_parameters.batch_size was 16000, now it is 7" in err


def test_each_party_by_its_own_command_on_loopback(flrun: Run) -> None:
    """As the seed's two scripts do it: keys are made by the first and shared, the leader's port is the same."""
    port = free_port()
    leader = flrun.start("has_keys", "--role", "leader", f"--http_server_address=127.0.0.1:{port}", log_dir="l")
    follower = flrun.start("has_keys", "--role", "follower", f"--remote_server_address=127.0.0.1:{port}", log_dir="f")
    for process in (leader, follower):
        assert flrun.finish(process)[::2] == (0, "")
    for log in (flrun.log("leaderlog.0", "l"), flrun.log("followerlog.0", "f")):
        assert f"the leader listens at tcp://127.0.0.1:{port} (curve)" in log
    (kept,) = flrun.runtime.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(kept)
    assert not (flrun.folder / "l" / "followerlog.0").exists()


def test_parties_as_threads(flrun: Run) -> None:
    code, out, err = flrun("good", "--in_process")
    assert code == 0, out + err
    assert "leader.0 INFO hello from leader" in err
    assert "loopback://leader-0" in flrun.log("followerlog.0")


def test_a_port_that_is_taken(flrun: Run) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        code, _, err = flrun("good", f"--leader=127.0.0.1:{holder.getsockname()[1]}")
    assert code == 6
    assert "is taken by process" in err


def test_what_is_wrong_is_said_before_anything_starts(flrun: Run) -> None:
    began = time.monotonic()
    code, _, err = flrun("good", "--worker_num=2")
    assert code == 2
    assert "to which these do not belong: --worker_num (federation jobs)" in err
    (flrun.folder / "leader_top.yaml").unlink()
    code, _, err = flrun("good")
    assert code == 2
    assert "parties.leader.nets: there is no file" in err
    assert not (flrun.folder / "log").exists()
    assert time.monotonic() - began < DEADLINE_S
