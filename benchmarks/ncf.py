"""Samples per second of a whole federation, against two plain one-thread torch loops that run side by side.

    python benchmarks/ncf.py [--rounds 5] [--quick] [--no_report]

Steady state: from the moment when the last worker is at work in the second epoch until the first one is done with it,
counted from what the workers say about themselves. NCF_MLP [64, 32, 16, 8], batch 512, Adam, private user rows, four
fresh negatives; the plain loop (plain.py) trains the same model with fused Adam on samples that lie ready in memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import federation
import numpy as np
from report import update_section

from flps.data.movielens_like import Shape, ensure

HERE = Path(__file__).resolve().parent
EPOCHS = 2
MEASURED_EPOCH = 1  # the one before makes rows and fills caches
Event = dict[str, Any]


class Case(NamedTuple):
    """One form of federation."""

    name: str
    sync_mode: str
    workers: int
    by: str  # how the samples are divided
    row_type: str = "float32"  # how rows and deltas travel


CASES = (
    Case("geo, 10 workers, equal shards", "geo", 10, "equal"),
    Case("geo, 10 workers, zip code shards", "geo", 10, "zipcode"),
    Case("async, 2 workers, equal shards", "async", 2, "equal"),
    Case("sync, 2 workers, equal shards", "sync", 2, "equal"),
    Case("geo, 10 workers, equal shards, float16", "geo", 10, "equal", "float16"),
    Case("geo, 10 workers, equal shards, int8", "geo", 10, "equal", "int8"),
)


class Measured(NamedTuple):
    """One run of one case."""

    steady: float  # samples/s while every worker trains
    epoch: float  # samples/s of the whole epoch, from the first begin to the last end
    bytes_per_sample: float  # in and out of the workers, over all epochs


def configuration(case: Case, folder: Path, shape: Shape) -> dict[str, Any]:
    """The job of one case on the shards in `folder`."""
    return {
        "runner": {
            "sync_mode": case.sync_mode,
            "geo_step": 100,
            "row_type": case.row_type,
            "train_data_dir": str(folder / "fl_train_data"),
            "train_batch_size": 512,
            "epochs": EPOCHS,
            "num_neg": 4,
            "print_interval": 50,
            "save_interval": 0,
            "local_sparse": ["user_embedding"],
            "remote_sparse": ["item_embedding"],
        },
        "hyper_parameters": {
            "optimizer": {"class": "adam", "learning_rate": 0.001},
            "num_users": shape.users,
            "num_items": shape.items,
            "mode": "NCF_MLP",
            "fc_layers": [64, 32, 16, 8],
        },
    }


def measure(case: Case, cache: Path, shape: Shape, folder: Path) -> Measured:
    """Run one case in a fresh folder."""
    shards = ensure(cache, clients=case.workers, shape=shape, by=case.by)
    flags = (f"--worker_num={case.workers}", "--server_num=1", "--coordinator_num=1")
    events = federation.run(folder, configuration(case, shards, shape), *flags)
    epochs = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    samples = sum(event["samples"] for event in epochs.values())
    return Measured(
        steady(events, case.workers), epochs[MEASURED_EPOCH]["samples_per_s"], bytes_of_workers(events) / samples
    )


def steady(events: list[Event], workers: int) -> float:
    """Samples/s of all workers together, while every one of them is training the measured epoch."""
    told: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for event in events:
        if (event["event"], event.get("epoch"), event.get("state")) == ("progress", MEASURED_EPOCH, "training"):
            told[event["rank"]].append((event["time"], event["samples"]))
    curves = [np.array(points).T for points in told.values()]
    assert len(curves) == workers, f"{len(curves)} of {workers} workers have told of their progress"
    begin = max(next(time for time, samples in points if samples) for points in told.values())
    end = min(points[-1][0] for points in told.values())
    if end <= begin:  # too short to have a steady state, as in the quick form
        return float("nan")
    return sum(float(np.diff(np.interp((begin, end), *curve))[0]) for curve in curves) / (end - begin)


def bytes_of_workers(events: list[Event]) -> int:
    """What the workers sent and received."""
    last = {event["rank"]: event for event in events if event["role"] == "worker" and "bytes_in" in event}
    return sum(event["bytes_in"] + event["bytes_out"] for event in last.values())


def plain(seconds: float) -> float:
    """Samples/s of two plain loops side by side."""
    command = [sys.executable, str(HERE / "plain.py"), "--speed", f"--seconds={seconds}", "--batch_size=512"]
    loops = [subprocess.Popen([*command, "--mode=NCF_MLP"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [loop.communicate(timeout=seconds + 120)[0] for loop in loops]
    return sum(float(answer.split()[0]) for answer in answers)


def report(yardstick: list[float], runs: dict[Case, list[Measured]]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "| what | samples/s, steady | against plain, by round | samples/s, whole epoch | bytes per sample |",
        "|---|---|---|---|---|",
        f"| two plain one-thread loops side by side | {statistics.median(yardstick):,.0f} | 1 | | |",
    ]
    for case, measured in runs.items():
        ratio = statistics.median(m.steady / p for m, p in zip(measured, yardstick, strict=False))
        middle = Measured(*(statistics.median(values) for values in zip(*measured, strict=True)))
        figures = f"{middle.steady:,.0f} | {ratio:.2f} | {middle.epoch:,.0f} | {middle.bytes_per_sample:.1f}"
        lines.append(f"| {case.name} | {figures} |")
    lines += [
        "",
        f"{len(yardstick)} interleaved rounds, medians. 1 server, 1 coordinator, unix sockets. "
        "Goals: geo 1.0, sync and async 0.5.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the section `ncf` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    flags.add_argument("--quick", action="store_true", help="a small data set, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    shape = Shape(users=300, items=200, ratings=12_000) if chosen.quick else Shape()
    rounds, seconds = (1, 0.5) if chosen.quick else (chosen.rounds, 8.0)
    load = os.getloadavg()[0]  # on a busy machine ten workers get a larger share of it than two loops
    yardstick: list[float] = []
    runs: dict[Case, list[Measured]] = {case: [] for case in CASES[: chosen.cases]}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            yardstick.append(plain(seconds))
            for at, case in enumerate(runs):
                runs[case].append(measure(case, Path(scratch) / "cache", shape, Path(scratch) / f"{number}-{at}"))
                print(f"round {number + 1}: {case.name}: {runs[case][-1]}; plain {yardstick[-1]:.0f}", flush=True)
    text = f"{report(yardstick, runs)} Load average before: {load:.1f}."
    print(text)
    if not chosen.no_report:
        update_section("ncf", text)


if __name__ == "__main__":
    main()
