"""What every test gets: nothing may be left over, and where the real data lie."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from zmq.utils.garbage import GarbageCollectorThread  # pyzmq's servant for zero-copy frames; it lives on, too

# How long one example takes says how busy the machine is; pytest's own deadline ends what hangs.
settings.register_profile("flps", deadline=None)
settings.load_profile("flps")

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 2.0

# Python's own servants: they live as long as the interpreter, whoever called them first.
_SERVANTS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def _is_servant(child: psutil.Process) -> bool:
    try:
        return child.ppid() == os.getpid() and any(name in " ".join(child.cmdline()) for name in _SERVANTS)
    except psutil.Error:
        return True  # gone, or on its way


def _sockets() -> set[str]:
    """The socket file descriptors of this process, as `fd socket:[inode]`; empty where /proc is not."""
    folder = Path("/proc/self/fd")
    found = set()
    for name in os.listdir(folder) if folder.is_dir() else ():
        try:
            target = os.readlink(folder / name)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(f"socket {name} {target}")
    return found


def _children() -> list[psutil.Process]:
    """Every child process and its children; the first look costs microseconds where /proc tells of children."""
    try:
        told = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:  # a thread ended meanwhile
        told = []
    return [] if told and not any(told) else psutil.Process().children(recursive=True)


def _alive() -> set[str]:
    """Every thread, child process and socket of this process, in words."""
    running = [thread for thread in threading.enumerate() if not isinstance(thread, GarbageCollectorThread)]
    threads = {f"thread {thread.name} ({thread.ident})" for thread in running}
    return threads | {f"process {child.pid}" for child in _children() if not _is_servant(child)} | _sockets()


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """Fails a test that leaves a thread, a child process or a socket behind."""
    before = _alive()
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := _alive() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        pytest.fail(f"the test left behind: {', '.join(sorted(left))}", pytrace=False)


def _shared_data(name: str) -> Path:
    folder = Path(os.environ.get("FLPS_DATA_DIR") or ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not here; set FLPS_DATA_DIR to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def ml_1m() -> Path:
    """The folder of MovieLens-1M in the NCF split; the test is skipped where it is absent."""
    return _shared_data("ml-1m")


@pytest.fixture(scope="session")
def criteo_sample() -> Path:
    """The raw lines of the Criteo sample; the test is skipped where it is absent."""
    return _shared_data("criteo") / "train.tsv.xz"
