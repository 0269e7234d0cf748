"""Samples per second of Wide & Deep cut between two parties, against the same nets unsplit in one process.

    python benchmarks/split.py [--rounds 3] [--cases small full] [--quick] [--no_report]

Leader and follower are processes of one thread each, started by flrun, with a unix socket between them; the unsplit
model has all cores: one graph, one backward, FTRL and fused Adam. Generated rows; the first steps are not counted.
Every round measures both sides of a case, one after the other; ratios are of one round, the table has medians. Over a
slow link each message comes late by half the round trip (`flps.faults`); there the yardstick is the same split without
the delay. A batch of several micro-batches is in flight in so many parts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import msgspec
import split_job
import torch
from report import update_section

from flps.models.wide_deep.cut import build_unsplit
from flps.models.wide_deep.dataset import construct_local_dataset
from flps.models.wide_deep.options import PRESETS
from flps.party.pages import keep_freed_pages
from flps.split.optimizers import FTRL

CORES = 2
GOAL, SLOW_GOAL = 0.9, 0.7


class Case(NamedTuple):
    """What is trained, for how long, over which link."""

    name: str
    preset: str
    batch_size: int
    epochs: int
    interval: int  # steps of which speed is measured together
    warm: int  # of these intervals, which do not count
    round_trip_ms: int = 0
    micro_batches: int = 1


CASES = (
    Case("small", "small", 1024, epochs=5, interval=83, warm=1),
    Case("full", "full", 16000, epochs=1, interval=1, warm=1),
    Case("slow_1024", "small", 1024, epochs=2, interval=40, warm=1, round_trip_ms=50, micro_batches=4),
    Case("slow_16000", "small", 16000, epochs=7, interval=5, warm=1, round_trip_ms=50, micro_batches=4),
    Case("slow_32000", "small", 32000, epochs=10, interval=2, warm=2, round_trip_ms=50, micro_batches=4),
)


def split(case: Case, round_trip_ms: int) -> float:
    """Samples/s of leader and follower together, as the leader says."""
    runner = {"print_interval": case.interval}
    if case.micro_batches > 1:
        runner["micro_batches"] = case.micro_batches
    sizes = {"batch_size": case.batch_size, "epochs": case.epochs}
    flags = [f"--faults=delay={round_trip_ms / 2:g}ms"] if round_trip_ms else []
    events = split_job.run(split_job.configuration(case.preset, runner, sizes), *flags)
    return mean([event["samples_per_s"] for event in split_job.of_party(events, "leader", "progress")][case.warm :])


def unsplit(case: Case) -> float:
    """Samples/s of the joined nets in a process of their own, with all cores."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(train_unsplit, case).result()


def train_unsplit(case: Case) -> float:
    """In this process."""
    torch.set_num_threads(CORES)
    keep_freed_pages()  # as a party does
    config = msgspec.structs.replace(PRESETS[case.preset], batch_size=case.batch_size)
    train, _ = construct_local_dataset(config)
    model = build_unsplit(config, [rows.field_size for rows in train.parties])
    optimizers = [
        FTRL(model.parameters_of("wide"), lr=5e-2, l1=1e-8, l2=1e-8, initial_accum=1.0),
        torch.optim.Adam(model.parameters_of("deep", "dense"), lr=3.5e-4, eps=1e-8, fused=True),
    ]
    speeds = []
    for epoch in range(case.epochs):
        began = time.perf_counter()
        for number, batch in enumerate(train.batches(epoch), 1):
            outcome = model([(batch[f"id_hldr{n}"], batch[f"wt_hldr{n}"]) for n in ("", 0)], batch["label"])
            (outcome.loss + outcome.l2_regu).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if number % case.interval == 0:
                speeds.append(case.interval * case.batch_size / (time.perf_counter() - began))
                began = time.perf_counter()
    return mean(speeds[case.warm :])


def mean(speeds: list[float]) -> float:
    """Of speeds over equally many samples."""
    return statistics.harmonic_mean(speeds)


def one_round(case: Case) -> tuple[float, float]:
    """Samples/s of the yardstick, and of the split."""
    yardstick = split(case, 0) if case.round_trip_ms else unsplit(case)
    return yardstick, split(case, case.round_trip_ms)


def report(measured: dict[Case, list[tuple[float, float]]]) -> str:
    """The section of RESULTS.md."""
    lines = [
        "| nets, batch | micro-batches | link | yardstick | its samples/s | split, samples/s | ratio | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    bounds: list[str] = []
    for case, rounds in measured.items():
        yardstick, achieved = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(there / here for here, there in rounds)
        slow = case.round_trip_ms > 0
        link = f"{case.round_trip_ms} ms there and back" if slow else "unix socket"
        against = "split, no delay" if slow else "unsplit, all cores"
        lines.append(
            f"| {case.preset}, {case.batch_size} | {case.micro_batches} | {link} | "
            f"{against} | {yardstick:,.0f} | {achieved:,.0f} | {ratio:.2f} | {SLOW_GOAL if slow else GOAL} |"
        )
        if slow:
            seconds = case.batch_size / yardstick
            bound = seconds / (seconds + case.round_trip_ms / 1e3)
            bounds.append(f"batch {case.batch_size}: {bound:.2f}")
    count = len(next(iter(measured.values())))
    lines += ["", f"{count} interleaved rounds, medians. A party has one thread."]
    if bounds:
        lines.append(
            "Weights move once a batch, so every step waits for a round trip: a batch that computes for t seconds "
            f"without delay reaches about t / (t + 0.05), {', '.join(bounds)}."
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the section `split` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--micro_batches", type=int, help="over slow links, instead of each case's own")
    parser.add_argument("--quick", action="store_true", help="one short round of the small nets, for a test")
    parser.add_argument("--no_report", action="store_true")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.cases = 1, ["small"]
    measured: dict[Case, list[tuple[float, float]]] = {}
    for number, case in itertools.product(range(chosen.rounds), CASES):
        if case.name not in chosen.cases:
            continue
        if chosen.quick:
            case = case._replace(epochs=2)
        if case.round_trip_ms and chosen.micro_batches:
            case = case._replace(micro_batches=chosen.micro_batches)
        measured.setdefault(case, []).append(one_round(case))
        yardstick, achieved = measured[case][-1]
        print(f"round {number} {case.name}: {yardstick:,.0f}, split {achieved:,.0f}, {achieved / yardstick:.2f}")
    text = report(measured)
    print(text)
    if not chosen.no_report:
        update_section("split", text)


if __name__ == "__main__":
    main()
