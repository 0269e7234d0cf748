"""How long a worker keeps a core that it shares with other workers.

A worker's parameters fill a core's cache. Turns of a few milliseconds, a system's default, are over when the cache is
warm, so ten workers on two cores lose up to a fifth of their speed to each other. Linux 6.12 and newer take a wish for
longer turns (sched_setattr(2), `sched_runtime`) from everybody. A server that wakes up still gets its core at once: its
own turns are short.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

TURN_S_MAX = 0.1  # what Linux grants at most
_TURNS_A_LEASE = 50  # everybody has had so many turns before anyone could be taken for lost; others use the cores, too
# size, policy, flags, nice, priority, runtime, deadline, period
_ATTRIBUTES = struct.Struct("IIQiIQQQ")
_RESET_ON_FORK = 1  # threads that are started later, such as the heartbeat, do as usual
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}  # number of the system call


def turn_s(workers: int, cores: int, lease_s: float) -> float:
    """Seconds that a worker should keep a core; 0 when it has one of its own."""
    return min(TURN_S_MAX, lease_s / _TURNS_A_LEASE * cores / workers) if workers > cores else 0.0


def take_long_turns(workers: int, lease_s: float) -> float:
    """Let the calling thread keep its core for longer, one of so many workers; seconds, 0 when all is left as it is."""
    number = _SET_ATTRIBUTES.get(platform.machine()) if platform.system() == "Linux" else None
    if number is None:
        return 0.0
    seconds, policy = turn_s(workers, len(os.sched_getaffinity(0)), lease_s), os.sched_getscheduler(0)
    if not seconds or policy not in (os.SCHED_OTHER, os.SCHED_BATCH):  # who chose a real-time one keeps it
        return 0.0
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, _RESET_ON_FORK, nice, 0, int(seconds * 1e9), 0, 0)
    refused = ctypes.CDLL(None).syscall(number, 0, wish, 0)
    return 0.0 if refused else seconds
