"""How long it takes until every role of a federation is ready, and what memory the whole tree takes.

    python benchmarks/launch.py [--rounds 5] [--quick] [--no_report]

Ready: from the start of the command flrun until the last role has said so (joined, samples open, tables agreed on).
Memory is proportional (PSS of /proc/*/smaps_rollup: a page that n processes share counts 1/n for each), summed over
flrun and everything below it, while the workers train. The baseline are as many separate interpreters that import
torch, started at the same time, and do nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import federation
import psutil
from report import update_section

from flps.data.movielens_like import Shape, ensure

DEADLINE_S = 180.0
WAITS = "import sys, torch; print('ready', flush=True); sys.stdin.read()"


class Measured(NamedTuple):
    """One start."""

    seconds: float
    pss_mib: float
    processes: int


def pss_mib(root: psutil.Process) -> tuple[float, int]:
    """Proportional memory in MiB of a process and all below it, and how many they are."""
    total, count = 0, 0
    for process in [root, *root.children(recursive=True)]:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        count += 1
    return total / 1024, count


def federation_up(folder: Path, shards: Path, shape: Shape, workers: int) -> Measured:
    """Start a federation that would train for long, measure it, end it."""
    began = time.time()
    process = federation.start(
        folder, configuration(shards, shape), f"--worker_num={workers}", "--server_num=1", "--coordinator_num=1"
    )
    try:
        ready: list[dict[str, Any]] = []
        while len(ready) < workers + 2:
            if process.poll() is not None or time.time() - began > DEADLINE_S:
                raise SystemExit(f"flrun did not come up:\n{(folder / 'out.txt').read_text()}")
            time.sleep(0.1)
            ready = [event for event in federation.events(folder) if event["event"] == "ready"]
        memory, count = pss_mib(psutil.Process(process.pid))
    finally:
        federation.stop(process)
    return Measured(max(event["time"] for event in ready) - began, memory, count)


def configuration(shards: Path, shape: Shape) -> dict[str, Any]:
    """A job that does not end by itself soon."""
    return {
        "runner": {
            "train_data_dir": str(shards / "fl_train_data"),
            "test_data_dir": str(shards / "fl_test_data"),
            "local_sparse": ["user_embedding"],
            "epochs": 10_000,
        },
        "hyper_parameters": {"num_users": shape.users, "num_items": shape.items},
    }


def interpreters_up(count: int) -> Measured:
    """Separate interpreters that import torch, all at once."""
    began = time.time()
    waiting = [
        subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for process in waiting:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "an interpreter could not import torch"
        seconds = time.time() - began
        return Measured(seconds, sum(pss_mib(psutil.Process(process.pid))[0] for process in waiting), count)
    finally:
        for process in waiting:
            process.communicate()


def report(runs: dict[str, list[Measured]]) -> str:
    """The section of RESULTS.md."""
    lines = ["| what | s until ready | PSS MiB | processes |", "|---|---|---|---|"]
    for what, measured in runs.items():
        seconds, memory, count = (statistics.median(values) for values in zip(*measured, strict=True))
        lines.append(f"| {what} | {seconds:.2f} | {memory:,.0f} | {count:.0f} |")
    rounds = len(next(iter(runs.values())))
    return "\n".join([*lines, "", f"{rounds} interleaved rounds, medians. Processes: roles, flrun and its forkserver."])


def main() -> None:
    """Measure, print, and write the section `launch` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--quick", action="store_true", help="two workers, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    shape = Shape(users=300, items=200, ratings=12_000) if chosen.quick else Shape()
    rounds, workers = (1, 2) if chosen.quick else (chosen.rounds, 10)
    ours, theirs = f"flrun, {workers} workers, server, coordinator", f"{workers + 2} interpreters that import torch"
    runs: dict[str, list[Measured]] = {ours: [], theirs: []}
    with tempfile.TemporaryDirectory() as scratch:
        shards = ensure(Path(scratch) / "cache", clients=workers, shape=shape)
        for number in range(rounds):
            runs[ours].append(federation_up(Path(scratch) / str(number), shards, shape, workers))
            runs[theirs].append(interpreters_up(workers + 2))
    text = report(runs)
    print(text)
    if not chosen.no_report:
        update_section("launch", text)


if __name__ == "__main__":
    main()
