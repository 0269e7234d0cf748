"""flrun with real roles: every mode comes to its end; whatever is done to a run, it ends clearly and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCHS = 12  # of steps so small that a test is soon in the middle of them
TEN = ("--worker_num=10", "--server_num=2", "--coordinator_num=1")


def endless(folder: Path, mode: str = "sync", **network: Any) -> dict[str, Any]:
    """A job that would train for minutes; steps are small, so that it is soon in the middle of them."""
    return {
        "runner": {"sync_mode": mode, "epochs": 100000, "train_batch_size": 8, "print_interval": 1000},
        "network": {"heartbeat_s": 0.2, "lease_s": 2.0, **network},
        "evaluation": {"interval": 0},
    }


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "mode", [pytest.param("sync", marks=pytest.mark.slow), pytest.param("async", marks=pytest.mark.slow), "geo"]
)
def test_ten_workers_train_and_rank(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    folder = shards(10)
    settings = {
        "runner": {
            "sync_mode": mode,
            "epochs": 2,
            "local_sparse": ["user_embedding"],
            "test_data_dir": str(folder / "fl_test_data"),
        }
    }
    flrun.write(settings, folder)
    code, out, err = flrun(*TEN)
    assert (code, err) == (0, "")
    assert "private rows warm 60/60" in out
    assert re.search(r"HR@10 +[01]\.\d{4} +[01]\.\d{4}", out), out
    assert re.search(r"NDCG@10 +[01]\.\d{4} +[01]\.\d{4}", out), out
    events = flrun.saved.events("epoch")
    lines = sum(len(path.read_text().splitlines()) for path in (folder / "fl_train_data").iterdir())
    assert [event["samples"] for event in events] == [lines, lines]
    assert set(events[0]["client_auc"]) == {str(rank) for rank in range(10)}
    assert flrun.saved.epochs() == [2]
    assert flrun.is_clean()


def start_endless(flrun: Any, shards: Callable[..., Path], mode: str, *flags: str, **network: Any) -> Any:
    folder = shards(3)
    flrun.write(endless(folder, mode, **network), folder)
    started = flrun.start("--worker_num=3", "--coordinator_num=1", *flags)
    flrun.wait_until(lambda: flrun.is_training(3))
    return started


@pytest.mark.parametrize(
    "mode", [pytest.param("sync", marks=pytest.mark.slow), pytest.param("async", marks=pytest.mark.slow), "geo"]
)
def test_a_killed_worker_is_a_loss(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    folder = shards(3)
    flrun.write(
        {
            "runner": {
                "sync_mode": mode,
                "epochs": EPOCHS,
                "train_batch_size": 8,
                "test_data_dir": f"{folder}/fl_test_data",
            },
            "network": {"heartbeat_s": 0.2, "lease_s": 1.0},
            "evaluation": {"interval": 0},
        },
        folder,
    )
    started = flrun.start("--worker_num=3", "--coordinator_num=1")
    flrun.wait_until(lambda: flrun.is_training(3))
    os.kill(flrun.pid_of("worker", 1), signal.SIGKILL)
    code, out, err = flrun.finish(started)
    assert code == 3, (out, err)
    assert "worker.1 was lost: was killed by SIGKILL" in err
    (lost,) = flrun.saved.events("lost")
    assert (lost["lost_role"], lost["lost_rank"]) == ("worker", 1)
    assert "no sign of life for 1 s" in lost["reason"]
    assert set(flrun.saved.events("epoch")[-1]["client_auc"]) == {"0", "2"}
    assert len(flrun.saved.events("epoch")) == EPOCHS
    assert flrun.saved.epochs() == [EPOCHS]
    (told,) = flrun.saved.events("eval")
    assert told["users"] == 40
    assert flrun.is_clean()


@pytest.mark.parametrize("mode", ["sync", pytest.param("geo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("role", ["server", "coordinator"])
def test_a_killed_server_or_coordinator_ends_the_job(
    shards: Callable[..., Path], flrun: Any, role: str, mode: str
) -> None:
    started = start_endless(flrun, shards, mode)
    os.kill(flrun.pid_of(role, 0), signal.SIGKILL)
    began = time.monotonic()
    code, out, err = flrun.finish(started)
    assert code == 4, (out, err)
    assert f"{role}.0 was killed by SIGKILL, so the job was stopped" in err
    assert time.monotonic() - began < 10
    assert flrun.is_clean()


@pytest.mark.parametrize("coordinators", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_nothing(shards: Callable[..., Path], flrun: Any, coordinators: int) -> None:
    started = start_endless(flrun, shards, "sync", f"--coordinator_num={coordinators}")
    os.killpg(started.pid, signal.SIGINT)
    code, _, err = flrun.finish(started)
    assert code == 130
    assert "interrupted by SIGINT" in err
    assert flrun.is_clean()


@pytest.mark.slow  # every day: the same of the state machine, in unit/test_membership.py
@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_a_pause_shorter_than_the_lease_does_no_harm(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    folder = shards(3)
    settings = endless(folder, mode, lease_s=6.0, retry_s=0.3)
    settings["runner"]["epochs"] = EPOCHS
    flrun.write(settings, folder)
    started = flrun.start("--worker_num=3", "--coordinator_num=1")
    flrun.wait_until(lambda: flrun.is_training(3))
    worker = flrun.pid_of("worker", 1)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(worker, signal.SIGCONT)
    code, out, err = flrun.finish(started)
    assert code == 0, (out, err)
    assert flrun.saved.events("lost") == []
    lines = sum(len(path.read_text().splitlines()) for path in (folder / "fl_train_data").iterdir())
    assert {event["samples"] for event in flrun.saved.events("epoch")} == {lines}


@pytest.mark.slow  # the stopped worker is given 15 s to end by itself
def test_a_pause_longer_than_the_lease_is_a_loss(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(3)
    settings = endless(folder, "sync", lease_s=1.0)
    settings["runner"]["epochs"] = EPOCHS
    flrun.write(settings, folder)
    started = flrun.start("--worker_num=3", "--coordinator_num=1")
    flrun.wait_until(lambda: flrun.is_training(3))
    os.kill(flrun.pid_of("worker", 1), signal.SIGSTOP)
    code, out, err = flrun.finish(started)
    assert code == 3, (out, err)
    assert "worker.1 was lost" in err
    assert "no sign of life for 1 s" in err
    assert flrun.is_clean()


@pytest.mark.parametrize(
    "how", ["yaml", "override", "data", *(pytest.param(how, marks=pytest.mark.slow) for how in ("reader", "gpu"))]
)
def test_a_wrong_config_ends_with_2(shards: Callable[..., Path], flrun: Any, how: str) -> None:
    settings, flags, says = {
        "yaml": ({"runner": {"geo_stepp": 3}}, [], "geo_step"),
        "override": ({}, ["-o", "runner.sync_mode=sometimes"], "sync_mode"),
        "data": ({"runner": {"train_data_dir": "no_such_folder"}}, [], "no_such_folder"),
        "reader": ({"runner": {"reader_type": "RecDataset", "train_reader_path": "nobody"}}, [], "nobody"),
        "gpu": ({"runner": {"use_gpu": True}}, [], "no CUDA device"),
    }[how]
    if how == "gpu":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    flrun.write(settings, shards(2))
    code, out, err = flrun("--worker_num=2", *flags)
    assert code == 2, (out, err)
    assert says in out + err
    assert flrun.is_clean()


def test_a_taken_port_ends_with_6(shards: Callable[..., Path], flrun: Any) -> None:
    flrun.write({}, shards(2))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = flrun("--worker_num=2", f"--servers=127.0.0.1:{port}")
    assert code == 6
    assert f"port 127.0.0.1:{port} is taken" in err
    assert flrun.is_clean()


def make_keys(folder: Path) -> None:
    command = [sys.executable, "-m", "flps.cli.flps", "keys", "make", "--key_dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def two_hosts(flrun: Any, shards: Callable[..., Path], *flags: str) -> tuple[list[tuple[int, str, str]], list[int]]:
    """The same command on two hosts: servers and coordinator on the first, workers on both."""
    folder = shards(4)
    flrun.write({"runner": {"sync_mode": "sync", "test_data_dir": str(folder / "fl_test_data")}}, folder)
    ports = [free_port("127.0.0.2") for _ in range(3)]
    lists = [
        f"--servers=127.0.0.2:{ports[0]},127.0.0.2:{ports[1]}",
        f"--coordinators=127.0.0.2:{ports[2]}",
        "--workers=127.0.0.2:1,127.0.0.3:1,127.0.0.2:2,127.0.0.3:2",
    ]
    started = [flrun.start(*lists, *flags, f"--log_dir=log/{host}", POD_IP=host) for host in ("127.0.0.2", "127.0.0.3")]
    return [flrun.finish(one) for one in started], ports


@pytest.mark.parametrize("secure", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_hosts_over_tcp(shards: Callable[..., Path], flrun: Any, secure: bool) -> None:
    keys = flrun.folder / "keys"
    if secure:
        make_keys(keys)
    results, ports = two_hosts(flrun, shards, f"--key_dir={keys}" if secure else "--insecure")
    assert [code for code, _, _ in results] == [0, 0], results
    assert "links are guarded by curve" in results[0][1] if secure else "guarded by plain" in results[0][1]
    logs = {path.name: path.read_text() for path in flrun.folder.glob("log/*/run-*/*log.*")}
    assert len(logs) == 7
    for name, text in logs.items():
        assert ("neither encrypted nor authenticated" in text) is not secure, name
    assert all(free_again(port) for port in ports)
    assert flrun.is_clean()


def flps_keys(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "flps.cli.flps", "keys", *map(str, words)], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("revoked", [False, True])
def test_two_organisations_with_keys_of_their_own(shards: Callable[..., Path], flrun: Any, revoked: bool) -> None:
    """The operator has no worker's secret, the owner none of the operator's; the owner's key is for ranks 0 and 1."""
    operator, owner = flrun.folder / "operator", flrun.folder / "owner"
    flps_keys("make", "--role", "server", "--role", "coordinator", "--key_dir", operator)
    flps_keys("make", "--role", "worker", "--name", "hospital", "--key_dir", owner)
    flps_keys("allow", owner / "hospital.public", "--role", "worker", "--rank", "0,1", "--key_dir", operator)
    if revoked:
        flps_keys("allow", operator / "server.public", "--role", "worker", "--name", "x", "--key_dir", operator)
        flps_keys("revoke", "hospital", "--key_dir", operator)
    for role in ("server", "coordinator"):
        (owner / f"{role}.public").write_bytes((operator / f"{role}.public").read_bytes())
    flrun.write({"runner": {"sync_mode": "sync"}, "network": {"start_timeout_s": 4.0 if revoked else 60.0}}, shards(2))
    ports = [free_port("127.0.0.2"), free_port("127.0.0.2")]
    lists = [f"--servers=127.0.0.2:{ports[0]}", f"--coordinators=127.0.0.2:{ports[1]}"]
    lists.append("--workers=127.0.0.3:1,127.0.0.3:2")
    started = [
        flrun.start(*lists, f"--key_dir={keys}", f"--log_dir=log/{host}", POD_IP=host)
        for host, keys in (("127.0.0.2", operator), ("127.0.0.3", owner))
    ]
    results = [flrun.finish(one) for one in started]
    assert [code for code, _, _ in results] == ([5, 5] if revoked else [0, 0]), results
    assert flrun.is_clean()


def free_again(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.2", port))
    return True


@pytest.mark.slow  # every day: unit/transport/test_border.py, test_security.py
def test_a_stranger_gets_no_answer_over_curve(shards: Callable[..., Path], flrun: Any) -> None:
    """Keys of another folder: the workers are not let in, and say so."""
    folder = shards(2)
    flrun.write({"network": {"start_timeout_s": 4.0}}, folder)
    ports = [free_port("127.0.0.2"), free_port("127.0.0.2")]
    for name in ("ours", "theirs"):
        make_keys(flrun.folder / name)
    # A stranger who knows the public keys of those he dials, but has no key that they know.
    for role in ("server", "coordinator"):
        (flrun.folder / "theirs" / f"{role}.public").write_bytes(
            (flrun.folder / "ours" / f"{role}.public").read_bytes()
        )
    lists = [f"--servers=127.0.0.2:{ports[0]}", f"--coordinators=127.0.0.2:{ports[1]}", "--workers=127.0.0.3:1"]
    started = [
        flrun.start(*lists, f"--key_dir={flrun.folder / key}", f"--log_dir=log/{host}", POD_IP=host)
        for host, key in (("127.0.0.2", "ours"), ("127.0.0.3", "theirs"))
    ]
    assert [flrun.finish(one)[0] for one in started] == [5, 5]
    assert flrun.is_clean()
