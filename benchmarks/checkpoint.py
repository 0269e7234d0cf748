"""What a checkpoint costs those who go on: the longest gap between two answers of a server, and its push rate.

    python benchmarks/checkpoint.py [--rounds 5] [--rows 1000000 10000000] [--quick] [--no_report]

One server on a unix socket holds rows of 16 float32 with Adagrad's state; its only worker pushes and looks rows up, one
request after the other. Each round does so twice, for as long as the server writes a checkpoint and without one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from report import update_section
from table import DIM, SPEC, Keys, Work, look, server

from flps.message import Cut, Pull, Push
from flps.remote import Servers

FEW = 64
SHORTEST_S = 1.0


class Round(NamedTuple):
    """One stretch of requests."""

    gap_s: float  # longest from one answer to the next
    usual_s: float  # the median
    rows_per_s: float


class Measured(NamedTuple):
    """A round without a checkpoint, one during a checkpoint, and how long that took."""

    without: Round
    during: Round
    seconds: float
    size_bytes: int


def stretch(act: Callable[[int], object], rows: int, is_over: Callable[[float], bool]) -> Round:
    """Call `act(0)`, `act(1)`, ... until it is over; each call handles so many rows."""
    began = before = time.perf_counter()
    gaps: list[float] = []
    while not is_over(before - began):
        act(len(gaps))
        now = time.perf_counter()
        gaps.append(now - before)
        before = now
    return Round(max(gaps), statistics.median(gaps), rows * len(gaps) / (before - began))


def measure(servers: Servers, folder: Path, act: Callable[[int], object], rows: int, number: int) -> Measured:
    """Requests during a checkpoint, and for as long without."""
    part = folder / "checkpoint" / f"0-{number}" / "shared-0-of-1.safetensors"
    done = part.with_name(part.name + ".json")
    began = time.perf_counter()
    servers.cut(Cut(f"{number:016}", 0, number, (0,)))
    took_s = 0.0

    def is_written(now_s: float) -> bool:
        nonlocal took_s
        if not took_s and done.exists():
            took_s = time.perf_counter() - began
        return bool(took_s)

    during = stretch(act, rows, is_written)
    without = stretch(act, rows, lambda now_s: now_s > max(took_s, SHORTEST_S))
    return Measured(without, during, took_s, part.stat().st_size)


def run(rows: int, request: int, rounds: int) -> dict[str, list[Measured]]:
    """Small look-ups and large pushes against one server that holds so many rows."""
    work = Work(rows, request)
    found: dict[str, list[Measured]] = {f"look up {FEW} rows": [], f"push {request:,} rows": []}
    with tempfile.TemporaryDirectory() as folder, server(folder) as servers:
        fill(servers, work.keys)
        few = [keys[:FEW] for keys in work.requests]

        def push(n: int) -> None:
            pushes = [Push(0, work.requests[n % 8], work.gradients)]
            servers.rows(servers.update(0, n, 1, False, pushes, []))

        acts = ((FEW, lambda n: look(servers, few[n % 8])), (request, push))
        for number in range(rounds):
            for at, (what, (size, act)) in enumerate(zip(found, acts, strict=True)):
                found[what].append(measure(servers, Path(folder), act, size, 2 * number + at + 1))
    return found


def fill(servers: Servers, keys: Keys) -> None:
    """Let the server make a row for every key."""
    servers.declare([SPEC], {})
    for part in np.array_split(keys, max(1, keys.size // 65_536)):
        servers.rows(servers.look([Pull(0, part)]))


def report(tables: dict[int, dict[str, list[Measured]]]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "| rows, request | longest gap without (ms) | during a checkpoint (ms) | usual gap without (ms) | during (ms) "
        "| rows/s without | during | checkpoint (s) | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rows, found in tables.items():
        for what, rounds in found.items():
            without, during = ([getattr(one, side) for one in rounds] for side in ("without", "during"))
            gaps = [max(one.gap_s for one in side) * 1e3 for side in (without, during)]
            usual = [statistics.median(one.usual_s for one in side) * 1e3 for side in (without, during)]
            rates = [statistics.median(one.rows_per_s for one in side) for side in (without, during)]
            seconds = statistics.median(one.seconds for one in rounds)
            cells = [
                f"{rows:,}, {what}", *(f"{gap:.1f}" for gap in gaps), *(f"{gap:.2f}" for gap in usual),
                *(f"{rate:,.0f}" for rate in rates), f"{seconds:.2f}", f"{rounds[0].size_bytes / 1e6:,.0f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    count = len(next(iter(next(iter(tables.values())).values())))
    note = f"{count} rounds; gaps are the longest of all rounds, the rest are medians. Rows of {DIM} float32, Adagrad."
    return "\n".join([*lines, "", note])


def main() -> None:
    """Measure, print, and write the section `checkpoint` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    flags.add_argument("--quick", action="store_true", help="a small table, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    if chosen.quick:
        text = report({20_000: run(20_000, 1024, 1)})
    else:
        text = report({rows: run(rows, 16_384, chosen.rounds) for rows in chosen.rows})
    print(text)
    if not chosen.no_report:
        update_section("checkpoint", text)


if __name__ == "__main__":
    main()
