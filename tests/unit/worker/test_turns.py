"""Long turns on a core: how long, that the system grants them, and to whom."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import pytest

from flps.worker import turns
from flps.worker.turns import TURN_S_MAX, take_long_turns, turn_s

GET_ATTRIBUTES = {"x86_64": 315, "aarch64": 275}


@pytest.mark.parametrize(
    ("workers", "cores", "lease_s", "expected"),
    [(1, 2, 10.0, 0.0), (2, 2, 10.0, 0.0), (3, 2, 10.0, TURN_S_MAX), (10, 2, 10.0, 0.04), (10, 2, 1.0, 0.004)],
)
def test_everybody_has_fifty_turns_within_a_lease(workers: int, cores: int, lease_s: float, expected: float) -> None:
    assert turn_s(workers, cores, lease_s) == pytest.approx(expected)


def granted_s() -> float:
    """What the system has noted for the calling thread."""
    held = ctypes.create_string_buffer(turns._ATTRIBUTES.size)
    libc = ctypes.CDLL(None)
    assert libc.syscall(GET_ATTRIBUTES[platform.machine()], 0, held, turns._ATTRIBUTES.size, 0) == 0
    return float(turns._ATTRIBUTES.unpack(held.raw)[5]) / 1e9


def in_a_thread(*acts: object) -> list[float]:
    """What each act gives, called one after another in a thread of its own: the test's own is left as it is."""
    results: list[float] = []
    thread = threading.Thread(target=lambda: results.extend(act() for act in acts))  # type: ignore[operator]
    thread.start()
    thread.join(10)
    return results


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


takes_wishes = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in GET_ATTRIBUTES or kernel() < (6, 12),
    reason="turns of a wished length came with Linux 6.12",
)


@takes_wishes
def test_the_system_grants_them_to_the_thread_alone() -> None:
    many = 5 * len(os.sched_getaffinity(0))
    seconds, own, later = in_a_thread(lambda: take_long_turns(many, 5.0), granted_s, lambda: in_a_thread(granted_s)[0])
    assert (seconds, own) == (pytest.approx(0.02), pytest.approx(0.02))
    assert later != pytest.approx(0.02)  # such as the heartbeat's


@takes_wishes
def test_whoever_has_a_core_of_its_own_is_left_alone() -> None:
    before, seconds, after = in_a_thread(granted_s, lambda: take_long_turns(1, 10.0), granted_s)
    assert seconds == 0.0
    assert before == after


def test_a_machine_without_that_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert take_long_turns(1000, 10.0) == 0.0
