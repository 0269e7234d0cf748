"""What a journal costs: pushes per second of one server with durability off, log, log+fsync.

    python benchmarks/journal.py [--rounds 9] [--quick] [--no_report]

16,384 keys of 16 float32 a push, by Adagrad, into a table of a million rows, through one server on a unix socket; a
server without a journal and one with it stand side by side and take turns, first `log`, then `log+fsync`, since what
one brings to the disk slows down whoever writes beside it. Named baselines: a bare write of as many bytes to a file,
and with fdatasync.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from report import update_section
from table import SPEC, Work, per_second, server

from flps.message import Pull, Push
from flps.remote import Servers

OFF, LOG, FSYNC = "off", "log", "log+fsync"
WRITE, SYNC = "bare write (baseline)", "bare write and fdatasync (baseline)"


def pusher(servers: Servers, work: Work) -> None:
    """Make the table and its rows."""
    servers.declare([SPEC], {})
    for keys in np.array_split(work.keys, 16):
        servers.rows(servers.look([Pull(0, keys)]))


def push(servers: Servers, work: Work, number: int) -> None:
    """One push, acknowledged."""
    keys = work.requests[number % len(work.requests)]
    servers.rows(servers.update(0, number, 1, False, [Push(0, keys, work.gradients)], []))


def bare(folder: Path, work: Work, seconds: float, *, syncs: bool) -> float:
    """Writes a second of as many bytes as a push has."""
    path = folder / "bare"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    content = [bytes(200), work.requests[0].tobytes(), work.gradients.tobytes()]

    def write(number: int) -> None:
        os.writev(descriptor, content)
        if syncs:
            os.fdatasync(descriptor)

    rate = per_second(write, seconds)
    os.close(descriptor)
    path.unlink()
    return rate


def measure(work: Work, rounds: int, seconds: float, durability: str) -> list[dict[str, float]]:
    """Pushes and bare writes a second, round by round, without a journal and with it."""
    runs = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        standing = {}
        for name in (OFF, durability):
            place = folder / name
            place.mkdir()
            standing[name] = stack.enter_context(server(str(place), durability=name))
            pusher(standing[name], work)
        for turn in range(rounds):
            run = {}
            for name in [OFF, durability] if turn % 2 else [durability, OFF]:
                servers = standing[name]
                run[name] = per_second(lambda n, servers=servers: push(servers, work, n), seconds)
            baseline = WRITE if durability == LOG else SYNC
            run[baseline] = bare(folder, work, seconds / 4, syncs=durability == FSYNC)
            runs.append(run)
    return runs


def report(series: dict[str, list[dict[str, float]]], keys: int) -> str:
    """The section of RESULTS.md."""
    lines = ["| what | a second | rows/s | of `off` beside it |", "|---|---|---|---|"]
    for kind, runs in series.items():
        for name in sorted(runs[0], key=[OFF, LOG, FSYNC, WRITE, SYNC].index):
            median = statistics.median(run[name] for run in runs)
            share = statistics.median(run[name] / run[OFF] for run in runs)
            label = f"off, beside {kind}" if name == OFF else name
            lines.append(f"| {label} | {median:,.0f} | {median * keys:,.0f} | {share:.0%} |")
    runs = series[LOG]
    share = statistics.median(run[LOG] / run[OFF] for run in runs)
    verdict = "holds" if share >= 0.85 else "fails"
    goal = f"Goal: `log` costs at most 15 %; it costs {1 - share:.0%}: it {verdict}."
    return "\n".join([*lines, "", f"{len(runs)} interleaved rounds, medians. {goal}"])


def main() -> None:
    """Measure, print, and write the section `journal` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=11)
    flags.add_argument("--quick", action="store_true", help="a small table, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    work = Work(20_000, 1024) if chosen.quick else Work(1_000_000, 16_384)
    rounds, seconds = (2, 0.05) if chosen.quick else (chosen.rounds, 0.5)
    text = report({name: measure(work, rounds, seconds, name) for name in (LOG, FSYNC)}, work.request)
    print(text)
    if not chosen.no_report:
        update_section("journal", text)


if __name__ == "__main__":
    main()
