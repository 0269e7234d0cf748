"""How long two parties take to align their rows, and what memory each of them needs.

    python benchmarks/psi.py [--rows 100000] [--rounds 3] [--long] [--quick] [--no_report]

Both parties are `flps psi` commands with half of their ids in common, as processes of their own on this machine: over a
unix socket, from a csv each to a csv each. Wall time: from the start of both commands to the end of both, with reading,
writing and interpreters; "aligning" is what the commands say of the protocol alone. Memory is proportional (PSS), of a
command and its workers, at its highest. `--long` adds 1 M x 1 M.

The floor: the multiplications that any run of this protocol must do, at the speed of one core with nothing else to do,
over the cores that there are. On a machine that others use, too, CPU seconds over cores say what it would be alone.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
from report import update_section

from flps.psi import curve
from flps.psi.run import cores_here, workers

DEADLINE_S = 1800.0
GOAL_ROWS, GOAL_S, GOAL_MIB = 100_000, 12.0, 1024.0
_SAMPLE = 4096


class Measured(NamedTuple):
    """One alignment."""

    wall_s: float
    aligning_s: float
    cpu_s: float  # of both parties together, on all cores
    mib: float  # of the party that needs more


def write_rows(path: Path, first: int, count: int) -> None:
    """A csv of ids and a value."""
    with path.open("w") as file:
        file.write("id,value\n")
        file.writelines(f"customer-{number:09}@example.org,{number % 97}\n" for number in range(first, first + count))


def pss_mib(root: psutil.Process) -> float:
    """Proportional memory of a process and all below it, in MiB."""
    total = 0
    try:
        for process in [root, *root.children(recursive=True)]:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    except (OSError, psutil.Error):  # one of them has just ended
        pass
    return total / 1024


def align(rows: int, reveal: str) -> Measured:
    """Two commands, from their start to their end."""
    with tempfile.TemporaryDirectory() as scratch:  # mode 700, as a unix socket's folder must be
        folder = Path(scratch)
        began, cpu_s = None, cpu_of_children()
        parties = []
        for role, first in (("leader", 0), ("follower", rows // 2)):
            write_rows(folder / f"{role}.csv", first, rows)
        for role in ("leader", "follower"):
            began = began or time.monotonic()
            command = [
                *(sys.executable, "-m", "flps.cli.flps", "psi", "--role", role, "--id_column", "id"),
                *("--input", str(folder / f"{role}.csv"), "--output", str(folder / f"{role}.aligned.csv")),
                *("--address", f"ipc://{folder}/leader", "--reveal", reveal),
            ]
            parties.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        try:
            return _watch(parties, began or 0.0, cpu_s)
        finally:
            for party in parties:
                party.kill()
                party.communicate()


def cpu_of_children() -> float:
    """Seconds that all children that have ended, and theirs, have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(parties: list[subprocess.Popen[str]], began: float, cpu_s: float) -> Measured:
    highest = [0.0 for _ in parties]
    roots = [psutil.Process(party.pid) for party in parties]
    while any(party.poll() is None for party in parties):
        if time.monotonic() - began > DEADLINE_S:
            raise TimeoutError(f"the parties did not end within {DEADLINE_S:g} s")
        highest = [max(was, pss_mib(root)) for was, root in zip(highest, roots, strict=True)]
        time.sleep(0.25)
    wall_s = time.monotonic() - began
    said = [party.stdout.read() if party.stdout else "" for party in parties]
    if any(party.returncode for party in parties):
        raise RuntimeError(f"a party failed: {said}")
    digests = {match[1] for text in said if (match := re.search(r"digest (\w+)", text))}
    if len(digests) != 1:
        raise RuntimeError(f"the parties do not agree: {said}")
    aligning = [float(match[1]) for text in said if (match := re.search(r"aligned in ([\d.]+) s", text))]
    return Measured(wall_s, max(aligning), cpu_of_children() - cpu_s, max(highest))


def one_core_speed() -> float:
    """Multiplications a second of one core: the quickest of five looks."""
    points = os.urandom(32 * _SAMPLE)
    return max(_speed_of(lambda: curve.multiply(bytes(32), points), 1) for _ in range(5))


def side_by_side() -> tuple[float, float]:
    """Multiplications a second of as many threads, and as many processes, as there are cores."""
    points, cores = os.urandom(32 * _SAMPLE), cores_here()
    with ThreadPoolExecutor(cores) as threads:
        in_threads = _speed_of(lambda: list(threads.map(curve.multiply, [bytes(32)] * 8, [points] * 8)), 8)
    with workers(cores) as processes:
        list(processes.map(curve.multiply, [bytes(32)] * cores, [points] * cores))  # they come up
        return in_threads, _speed_of(lambda: list(processes.map(curve.multiply, [bytes(32)] * 8, [points] * 8)), 8)


def _speed_of(act: object, chunks: int) -> float:
    began = time.perf_counter()
    act()  # type: ignore[operator]
    return chunks * _SAMPLE / (time.perf_counter() - began)


def report(runs: dict[tuple[int, str], list[Measured]], speed: float, threads: float, processes: float) -> str:
    """The section of RESULTS.md."""
    cores = cores_here()
    titles = ("rows a party", "reveal", "wall s", "aligning s", "CPU s / cores", "floor s", "MiB a party", "goal")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for (rows, reveal), measured in runs.items():
        wall, aligning, cpu, mib = (statistics.median(values) for values in zip(*measured, strict=True))
        floor = 4 * rows / speed / cores
        times = f"{wall:.1f} | {aligning:.1f} | {cpu / cores:.1f} | {floor:.1f}"
        lines.append(f"| {rows:,} | {reveal} | {times} | {mib:,.0f} | {_goal(rows, wall, mib)} |")
    return "\n".join([
        *lines, "",
        f"Rounds: {len(next(iter(runs.values())))}, medians; a million rows: once. "
        f"One core multiplies {speed:,.0f} points a second; {cores} threads together {threads:,.0f}, {cores} processes "
        f"{processes:,.0f}. Both parties share the {cores} cores. "
        f"Waiting for a core at the end, on average of five minutes: {os.getloadavg()[1]:.1f}.",
    ])  # fmt: skip


def _goal(rows: int, wall_s: float, mib: float) -> str:
    if rows == GOAL_ROWS and cores_here() == 2:
        held = "held" if wall_s <= GOAL_S else "missed"
        return f"{held}: {wall_s / GOAL_S:.2f} of {GOAL_S:g} s"
    if rows == 10 * GOAL_ROWS:
        held = "held" if mib <= GOAL_MIB else "missed"
        return f"{held}: {mib / GOAL_MIB:.2f} of {GOAL_MIB:,.0f} MiB"
    return ""


def main() -> None:
    """Measure, print, and write the section `psi` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", type=int, default=GOAL_ROWS)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--long", action="store_true", help="also 1 M x 1 M, once: minutes")
    flags.add_argument("--quick", action="store_true", help="2000 rows, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    rows, rounds = (2000, 1) if chosen.quick else (chosen.rows, chosen.rounds)
    speed, (threads, processes) = one_core_speed(), side_by_side()
    runs: dict[tuple[int, str], list[Measured]] = {(rows, "both"): [], (rows, "leader"): []}
    for _ in range(rounds):
        for size, reveal in runs:
            runs[size, reveal].append(align(size, reveal))
    if chosen.long:
        runs[10 * GOAL_ROWS, "both"] = [align(10 * GOAL_ROWS, "both")]
    text = report(runs, speed, threads, processes)
    print(text)
    if not chosen.no_report:
        update_section("psi", text)


if __name__ == "__main__":
    main()
