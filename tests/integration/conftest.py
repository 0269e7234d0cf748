"""Whole federations for tests: small shards, roles as threads over the loopback transport, flrun with real processes.

shards(clients)              folders of small csv files, one per client, with fixed negatives
federate(config, workers=2)  one run in this process; what it saved
flrun(...)                   one run with real processes; nothing of it may be left when the test ends
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import safetensors.numpy
import torch
import yaml
import zmq
from numpy.typing import NDArray

from flps.checkpoint.run import completed, read_complete
from flps.config import load
from flps.config.job import Job
from flps.launch.role import run_role
from flps.metrics import EventReader
from flps.models.catalog import schemas

HERE = Path(__file__).parent
USERS, ITEMS = 60, 40
DEADLINE_S = 60.0


def write_shards(folder: Path, clients: int, users: int = USERS, items: int = ITEMS, seed: int = 3) -> Path:
    """Shards whose users are disjoint (user % clients) and whose sizes differ: client 0 has most samples.

    fl_train_data/<client>.csv: `user,item,label` with negatives; fl_test_data/<client>.csv: per user one positive
    and nine negatives.
    """
    rng = np.random.default_rng(seed)
    for kind in ("fl_train_data", "fl_test_data"):
        (folder / kind).mkdir(parents=True)
    for client in range(clients):
        train, test = [], []
        for user in range(client, users, clients):
            liked = rng.permutation(items)[: 12 - 2 * client // clients]
            others = np.setdiff1d(np.arange(items), liked)
            held_out, *positives = liked.tolist()
            for item in positives:
                train.append((user, item, 1))
                train += [(user, other, 0) for other in rng.choice(others, 2, replace=False).tolist()]
            test += [(user, held_out, 1), *((user, other, 0) for other in rng.permutation(others)[:9].tolist())]
        _write_csv(folder / "fl_train_data" / f"{client}.csv", train)
        _write_csv(folder / "fl_test_data" / f"{client}.csv", test)
    return folder


def _write_csv(path: Path, rows: Sequence[tuple[int, int, int]]) -> None:
    path.write_text("".join(f"{user},{item},{label}\n" for user, item, label in rows))


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `more`, part by part."""
    whole = dict(base)
    for key, value in more.items():
        old = whole.get(key)
        whole[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return whole


def small_job(folder: Path) -> dict[str, Any]:
    """A yaml, as a dict, of NCF on the shards in `folder`."""
    return {
        "seed": 11,
        "runner": {
            "train_data_dir": str(folder / "fl_train_data"),
            "negatives": "fixed",
            "train_batch_size": 24,
            "epochs": 2,
            "save_interval": 0,
            "print_interval": 5,
            "geo_step": 3,
        },
        "hyper_parameters": {
            "num_users": USERS,
            "num_items": ITEMS,
            "mf_dim": 4,
            "mode": "NCF_NeuMF",
            "fc_layers": [8, 6, 4],
            "optimizer": {"class": "adam", "learning_rate": 0.01},
        },
        "network": {"heartbeat_s": 0.1},
    }


@dataclass(frozen=True)
class Saved:
    """What a run left in its folder."""

    run_dir: Path

    def folder(self, epoch: int | None = None) -> Path:
        """The saved model after that many epochs, or the last one."""
        folders = {int(path.parent.name): path.parent for path in self._manifests()}
        return folders[max(folders) if epoch is None else epoch]

    def epochs(self) -> list[int]:
        """The epochs after which a whole model was saved."""
        return sorted(int(path.parent.name) for path in self._manifests())

    def _manifests(self) -> list[Path]:
        return [path for path in self.run_dir.glob("*/*/manifest.json") if path.parent.name.isdecimal()]

    def parameters(self, epoch: int | None = None) -> dict[str, NDArray[Any]]:
        """Every number of the model: `<table>.keys` sorted, `<table>.values` in that order, dense ones as they are."""
        parts: dict[str, list[NDArray[Any]]] = {}
        files = self.folder(epoch).glob("*-of-*.safetensors")
        for path in sorted(files, key=lambda path: (path.name.split("-")[0], int(path.name.split("-")[1]))):
            for name, array in safetensors.numpy.load_file(path).items():
                parts.setdefault(name.replace("/", "."), []).append(array)
        whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        for name in [name for name in whole if name.endswith(".keys")]:
            table = name.removesuffix("keys")
            order = np.argsort(whole[name])
            rows = [part for part in whole if part.startswith(table) and len(whole[part]) == len(order)]
            whole.update({part: whole[part][order] for part in rows})
        return whole

    def checkpoints(self) -> dict[str, Path]:
        """The complete checkpoints, by position."""
        return {path.name: path for path in completed(self.run_dir / "checkpoint")}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of that kind, in order."""
        return [event for event in EventReader(str(self.run_dir / "metrics.jsonl")).poll() if event["event"] == kind]


def play(job: Job) -> None:
    """Every role of the job as a thread; raises what the first that failed raised."""
    failures: list[BaseException] = []

    def become(role: str, rank: int) -> None:
        try:
            run_role(job, role, rank)
        except BaseException as error:
            failures.append(error)

    roles = [("coordinator", 0)] * job.coordinators
    roles += [("server", rank) for rank in range(len(job.servers))]
    roles += [("worker", rank) for rank in range(job.workers - len(job.pairs))]
    roles += [("heter_worker", rank) for rank in range(len(job.pairs))]
    threads = [threading.Thread(target=become, args=role, name=f"{role[0]}.{role[1]}", daemon=True) for role in roles]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a role did not end"


@pytest.fixture(autouse=True)
def one_compute_thread() -> Iterator[None]:
    """Threads of a small matrix product only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def zmq_collector() -> None:
    """pyzmq's thread that frees what was sent without a copy lives as long as this process; it starts here."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://collector")
        other.connect("inproc://collector")
        other.send(bytes(1 << 20), copy=False)
        one.recv()


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Make shards for some clients; returns their folder."""
    return lambda clients, **settings: write_shards(tmp_path / f"shards-{clients}", clients, **settings)


@pytest.fixture
def federate(tmp_path: Path) -> Callable[..., Saved]:
    """Run a federation in this process: `federate(folder, settings, workers=2, servers=1, coordinators=1)`.

    base: in the place of the small job's yaml; pairs: of workers, in a vertical job.
    """

    def run(
        folder: Path,
        settings: Mapping[str, Any],
        workers: int = 2,
        servers: int = 1,
        coordinators: int = 1,
        trainer: str = "",
        resume_from: Path | None = None,
        faults: str = "",
        base: Mapping[str, Any] | None = None,
        pairs: int = 0,
    ) -> Saved:
        number = len(list(tmp_path.glob("run-*")))
        run_dir = tmp_path / f"run-{number}"
        run_dir.mkdir()
        (run_dir / "config.yaml").write_text(yaml.safe_dump(merged(base or small_job(folder), settings)))
        names = tuple(f"loopback://server-{rank}" for rank in range(servers))
        job = Job(
            run_id=f"{os.urandom(4).hex()}",
            run_dir=str(run_dir),
            config_dir=str(folder),
            config=load(run_dir / "config.yaml", (), schemas()),
            workers=2 * pairs or workers,
            pairs=tuple(f"loopback://pair-{rank}" for rank in range(pairs)),
            servers=names,
            coordinator="loopback://coordinator-0" if coordinators else names[0],
            coordinators=coordinators,
            security="loopback",
            trainer=trainer,
            resume_from=str(resume_from or ""),
            checkpoint=read_complete(resume_from).checkpoint if resume_from else "",
            faults=faults,
        )
        (run_dir / "job.json").write_bytes(msgspec.json.encode(job))
        play(job)
        return Saved(run_dir)

    return run


class Flrun:
    """flrun in a folder of its own; its sockets are below a short folder, so that a test can look for what is left.

    The folder stands in the environment of every process of a run, by which a test finds them all.
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder, self.runtime = folder, runtime

    def write(self, settings: Mapping[str, Any], shards: Path, name: str = "x.yaml") -> Path:
        """A yaml of the small job with some settings of its own; the run's yaml when nothing else is said."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(merged(small_job(shards), settings)))
        return path

    def start(
        self, *flags: str, yaml_file: str = "x.yaml", target: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        """Start flrun and return at once. `target`: a function of full_disk_roles.py that plays the roles."""
        program = [str(HERE / "flrun_with.py"), f"full_disk_roles.py:{target}"] if target else ["-m", "flps.cli.flrun"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE", "POD_IP"))}
        own = {"XDG_RUNTIME_DIR": str(self.runtime), "FLPS_TEST_RUN": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *program, "-m", yaml_file, *flags],
            cwd=self.folder,
            env=clean | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
        """Exit code, output and errors of a run, once it has ended."""
        out, err = process.communicate(timeout=timeout_s)
        return process.returncode, out, err

    def __call__(self, *flags: str, **environment: str) -> tuple[int, str, str]:
        return self.finish(self.start(*flags, **environment))

    @property
    def saved(self) -> Saved:
        """The newest run."""
        return Saved(max(self.folder.glob("log/run-*"), key=lambda path: path.stat().st_mtime_ns))

    def logs(self) -> dict[str, str]:
        """Log files of the newest run."""
        return {path.name: path.read_text() for path in self.saved.run_dir.glob("*log.*")}

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = DEADLINE_S / 2) -> None:
        """Look again and again, at most for that long."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def is_training(self, workers: int, epoch: int = 0) -> bool:
        """Whether that many workers have begun that epoch."""
        with contextlib.suppress(ValueError, OSError):
            events = self.saved.events("progress")
            return len({e["rank"] for e in events if e["role"] == "worker" and e.get("epoch", -1) >= epoch}) == workers
        return False

    def pid_of(self, role: str, rank: int) -> int:
        """The process of a role of the newest run."""
        rows = json.loads((self.saved.run_dir / "roles.json").read_text())
        return int(next(row["pid"] for row in rows if (row["role"], row["rank"]) == (role, rank)))

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this test's runs, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLPS_TEST_RUN") == str(self.folder):
                    found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def is_clean(self) -> bool:
        """Whether neither a process nor a socket file or folder is left."""
        return not self.processes() and not list(self.runtime.iterdir())


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short folder for sockets and keys; the test fails when a run leaves a file there."""
    folder = Path(f"/tmp/fl-{os.getpid()}-{time.monotonic_ns() % 10**6}")
    folder.mkdir(mode=0o700)
    yield folder
    files = [str(path) for path in folder.rglob("*")]
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert not files, f"left behind: {files}"


@pytest.fixture
def flrun(tmp_path: Path, runtime: Path) -> Iterator[Flrun]:
    folder = tmp_path / "jobs"
    folder.mkdir()
    run = Flrun(folder, runtime)
    yield run
    left = run.processes()
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"
