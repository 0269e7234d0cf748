"""flrun with real processes: how a run ends, what it says, and that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
DEADLINE_S = 60.0


class Run:
    """One flrun in a folder of its own; its private folder is below `run/`, so that a test can look for what is left.

    The folder stands in the environment of every process of the run, by which a test finds them all.
    """

    def __init__(self, tmp_path: Path, short_tmp: Path) -> None:
        self.folder, self.runtime = tmp_path, short_tmp
        (tmp_path / "x.yaml").write_text("runner: {train_data_dir: nowhere}\nnetwork: {start_timeout_s: 20}\n")

    def start(self, roles: str, *flags: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "flrun_with.py"), roles, "-m", "x.yaml", *flags]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=clean | {"XDG_RUNTIME_DIR": str(self.runtime), "FLPS_TEST_RUN": str(self.folder)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def __call__(self, roles: str, *flags: str, **environment: str) -> tuple[int, str, str]:
        return self.finish(self.start(roles, *flags, **environment))

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this run, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLPS_TEST_RUN") == str(self.folder):
                    found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S / 2
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def all_ready(self, count: int) -> bool:
        files = list(self.folder.glob("log/run-*/metrics.jsonl"))
        return bool(files) and files[0].read_text().count('"ready"') == count

    def logs(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.glob("log/run-*/*log.*")}

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.runtime.iterdir())


@pytest.fixture
def flrun(tmp_path: Path, runtime: Path) -> Iterator[Run]:
    run = Run(tmp_path, runtime)
    yield run
    left = run.processes()
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"


def test_a_good_run(flrun: Run) -> None:
    code, out, err = flrun("good", "--worker-num=3", "--coordinator_num=1")
    assert (code, err) == (0, "")
    assert "private rows warm 6040/6040" in out
    assert re.search(r"HR@10 +0\.6600 +0\.2000", out)
    (run_dir,) = (flrun.folder / "log").glob("run-*")
    roles = json.loads((run_dir / "roles.json").read_text())
    assert [(row["role"], row["rank"]) for row in roles] == [
        ("server", 0), ("coordinator", 0), ("worker", 0), ("worker", 1), ("worker", 2)
    ]  # fmt: skip
    assert len({row["pid"] for row in roles}) == 5
    for row in roles:
        text = Path(row["log"]).read_text()
        assert re.search(rf"^\d{{4}}-\d\d-\d\d [\d:,]+ {row['role']}\.{row['rank']} INFO hello", text, re.M), text
        assert f"printed by {row['role']}" in text
        assert (flrun.folder / "log" / Path(row["log"]).name).read_text() == text
    assert (run_dir / "config.yaml").read_bytes() == (flrun.folder / "x.yaml").read_bytes()


def test_an_earlier_larger_run_is_kept_and_its_links_go(flrun: Run) -> None:
    assert flrun("good", "--worker_num=2")[0] == 0
    assert flrun("good", "--worker_num=1")[0] == 0
    assert len(list((flrun.folder / "log").glob("run-*"))) == 2
    assert len(list((flrun.folder / "log").glob("run-*/workerlog.*"))) == 3
    assert sorted(path.name for path in (flrun.folder / "log").iterdir() if path.is_symlink()) == [
        "metrics.jsonl", "roles.json", "serverlog.0", "workerlog.0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("roles", "code", "says", "log_says"),
    [
        ("worker_crashes", 3, "worker.1 was lost: ended with exit code 1", "ZeroDivisionError: a bug in worker 1"),
        ("worker_killed", 3, "worker.0 was lost: was killed by SIGKILL", "the end of"),
        ("all_workers_crash", 4, "0 of 2 workers are left", "PeerLost: server.0 was silent for 10 s"),
        ("server_crashes", 4, "server.0 ended with exit code 1", "RuntimeError: a bug in the server"),
        ("bad_config", 2, "server.0 ended with exit code 2", "runner.train_data_dir: no such folder"),
        ("no_port", 6, "server.0 ended with exit code 6", "port 9000 is taken"),
    ],
)
def test_a_role_that_fails(flrun: Run, roles: str, code: int, says: str, log_says: str) -> None:
    result, out, err = flrun(roles, "--worker_num=2")
    assert result == code, (out, err)
    assert says in err
    assert log_says in out


def test_min_workers_stops_the_job(flrun: Run) -> None:
    code, _, err = flrun("worker_crashes", "--worker_num=2", "-o", "network.min_workers=2")
    assert code == 4
    assert "1 of 2 workers are left, network.min_workers is 2" in err


def test_a_role_that_never_comes_up(flrun: Run) -> None:
    code, _, err = flrun("never_ready", "--worker_num=2", "-o", "network.start_timeout_s=1.5")
    assert code == 5
    assert "worker.0 did not come up in time" in err


def test_who_ignores_sigterm_is_killed(flrun: Run) -> None:
    began = time.monotonic()
    code, _, err = flrun("deaf", "--worker_num=2")
    assert code == 2
    assert "worker.1 ended with exit code 2" in err
    assert time.monotonic() - began < 20


def test_a_thread_that_does_not_end_does_not_keep_its_role(flrun: Run) -> None:
    assert flrun("leaves_a_thread", "--worker_num=1")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_group", [False, True])
def test_a_signal_leaves_nothing(flrun: Run, number: signal.Signals, to_group: bool) -> None:
    process = flrun.start("works_on", "--worker_num=3", "--coordinator_num=1")
    flrun.wait_until(lambda: flrun.all_ready(5))
    assert len(flrun.processes()) >= 5 + 5 + 1
    (os.killpg if to_group else os.kill)(process.pid, number)
    code, _, err = flrun.finish(process)
    assert code == 130
    assert f"interrupted by {number.name}" in err
    assert flrun.is_clean()
    assert all("stopped by the launcher" in text for text in flrun.logs().values())


def test_an_early_ctrl_c_leaves_nothing(flrun: Run) -> None:
    process = flrun.start("works_on", "--worker_num=1")
    flrun.wait_until(lambda: any("forkserver" in " ".join(one.cmdline()) for one in flrun.processes()))
    process.send_signal(signal.SIGINT)
    code, _, _ = flrun.finish(process)
    assert code == 130
    assert flrun.is_clean()


def test_nobody_outlives_a_launcher_that_was_killed(flrun: Run) -> None:
    process = flrun.start("works_on", "--worker_num=3")
    flrun.wait_until(lambda: flrun.all_ready(4))
    process.kill()
    flrun.finish(process)
    flrun.wait_until(flrun.is_clean)


def test_the_death_of_the_roles_parent_is_no_hang(flrun: Run) -> None:
    process = flrun.start("works_on", "--worker_num=2")
    flrun.wait_until(lambda: flrun.all_ready(3))
    (parent,) = [one for one in flrun.processes() if one.pid not in _role_pids(flrun) and "forkserver" in _words(one)
                 and one.ppid() == process.pid]  # fmt: skip
    parent.kill()
    code, _, _ = flrun.finish(process)
    assert code == 4
    assert flrun.is_clean()


def _role_pids(flrun: Run) -> set[int]:
    (roles,) = flrun.folder.glob("log/run-*/roles.json")
    return {row["pid"] for row in json.loads(roles.read_text())}


def _words(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def test_a_taken_port_is_named_before_anything_starts(flrun: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = flrun("good", f"--servers=127.0.0.1:{port}", "--worker_num=1")
    assert code == 6
    assert f"port 127.0.0.1:{port} is taken" in err
    assert not (flrun.folder / "log").exists()


def test_in_process_gives_the_same(flrun: Run) -> None:
    code, out, err = flrun("good", "--worker_num=2", "--coordinator_num=1", "--in_process")
    assert code == 0, err
    assert "private rows warm 6040/6040" in out
    assert "worker.1 INFO hello from worker 1" in flrun.logs()["workerlog.1"]
    assert "worker.1 INFO hello from worker 1" in err
    assert flrun("worker_crashes", "--worker_num=2", "--in_process")[0] == 3
    assert flrun("server_crashes", "--worker_num=2", "--in_process")[0] == 4


def test_ctrl_c_ends_threads_too(flrun: Run) -> None:
    process = flrun.start("never_ready", "--worker_num=2", "--in_process")
    flrun.wait_until(lambda: flrun.all_ready(2))
    process.send_signal(signal.SIGINT)
    assert flrun.finish(process)[0] == 130


def test_each_host_starts_its_own_roles(flrun: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    lists = [f"--servers=127.0.0.2:{port}", "--workers=127.0.0.2:1,127.0.0.3:1", "--insecure"]
    runs = [flrun.start("hosts", *lists, POD_IP=host) for host in ("127.0.0.2", "127.0.0.3")]
    results = [flrun.finish(process) for process in runs]
    assert [code for code, _, _ in results] == [0, 0], results
    assert "1 worker, 1 server start here" in results[0][1]
    assert "1 worker start here" in results[1][1]
    assert "host comes from the environment: POD_IP=127.0.0.2" in results[0][1]
    assert "neither encrypted nor authenticated" in results[0][1]
    ids = {re.search(r"run (\w+):", out)[1] for _, out, _ in results}  # type: ignore[index]
    assert len(ids) == 1


def test_a_role_alone_by_the_environment(flrun: Run) -> None:
    environment = {
        "TRAINING_ROLE": "TRAINER",
        "PADDLE_TRAINER_ID": "1",
        "PADDLE_TRAINERS_NUM": "4",
        "PADDLE_PSERVERS_IP_PORT_LIST": "10.0.0.1:8000",
    }
    code, out, err = flrun("alone", "--insecure", **environment)
    assert code == 0, err
    assert "role comes from the environment: TRAINING_ROLE=TRAINER" in out
    assert list(flrun.logs()) == ["workerlog.1"]
    assert "worker 1 of 4, servers ('tcp://10.0.0.1:8000',)" in flrun.logs()["workerlog.1"]


def test_keys_of_a_loopback_run_are_private_and_go(flrun: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code, _, err = flrun("has_keys", f"--servers=127.0.0.1:{port}", "--worker_num=1")
    assert code == 0, err


def test_missing_keys_name_the_command(flrun: Run) -> None:
    code, _, err = flrun("good", "--servers=10.0.0.1:1", "--worker_num=1", "--role=worker", "--key_dir=keys")
    assert code == 2
    assert "flps keys make" in err


def test_a_dry_run_starts_and_makes_nothing(flrun: Run) -> None:
    code, out, err = flrun("good", "--worker_num=2", "--dry_run")
    assert (code, err) == (0, "")
    assert "worker.1" in out
    assert "security  unix" in out
    assert [path.name for path in flrun.folder.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--coordinator_num=2"], "a job has one or none"),
        (["--worker_nun=2"], "did you mean --worker_num?"),
        (["-o", "runner.epoch=2"], "epoch"),
        (["nothing.py"], "there is no such file"),
    ],
)
def test_usage_errors(flrun: Run, flags: list[str], says: str) -> None:
    code, out, err = flrun("good", *flags)
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("flrun: ")
