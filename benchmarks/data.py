"""How long it takes to divide ML-1M, to open a shard and to prepare an epoch; each measured in a process of its own.

python benchmarks/data.py [--ml_1m DIR] [--runs 5] [--no_report]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import update_section

ROOT = Path(__file__).resolve().parent.parent
BIGGEST = 9  # the client with 1,243,905 samples

MEASURED = """
import json, resource, sys, time
from pathlib import Path
import numpy, pandas
what, folder = sys.argv[1:3]
cpu = time.process_time()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
cpu = time.process_time() - cpu
print(json.dumps({{"seconds": seconds, "cpu": cpu, "peak_mib": peak}}))
"""

DIVIDE = """
from flps.data.generate import Division, generate
start = time.perf_counter()
generate(Division(Path(sys.argv[3]), out=Path(folder), negatives=what, num_neg=4))
seconds = time.perf_counter() - start
"""

OPEN = """
from flps.data.train import Sampling, open_train
kind, negatives = what.split()
if kind == "csv":
    for twin in Path(folder).rglob("*.flps"):
        twin.unlink()
start = time.perf_counter()
train = open_train(Path(folder) / "fl_train_data", int(sys.argv[3]), 10, sampling=Sampling(negatives=negatives))
seconds = time.perf_counter() - start
assert train.samples == 1243905
"""

EPOCH = """
from flps.data.train import Sampling, open_train
train = open_train(Path(folder) / "fl_train_data", int(sys.argv[3]), 10, sampling=Sampling(negatives=what))
start = time.perf_counter()
first = next(train.epoch(0))
prepared = time.perf_counter() - start
count = sum(len(batch.label) for batch in train.epoch(1))
assert count == 1243905
seconds = {"prepared": prepared, "whole": time.perf_counter() - start - prepared}[sys.argv[4]]
"""

GENERATE = """
from flps.data.movielens_like import ensure
start = time.perf_counter()
ensure(folder)
seconds = time.perf_counter() - start
"""


def measure(body: str, *arguments: str) -> tuple[float, float, float]:
    """Seconds, seconds of CPU (with the imports) and peak MiB of one run in a fresh, one-threaded interpreter."""
    script = MEASURED.format(body=body)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=env, timeout=600
    )
    if ran.returncode != 0:
        raise SystemExit(f"a measured run failed:\n{ran.stderr}")
    told = json.loads(ran.stdout.splitlines()[-1])
    return told["seconds"], told["cpu"], told["peak_mib"]


def median(runs: list[tuple[float, float, float]]) -> tuple[float, float, float, float]:
    """Median seconds, the slowest run, median CPU seconds, and the greatest peak."""
    seconds, cpu, peaks = zip(*runs, strict=True)
    return statistics.median(seconds), max(seconds), statistics.median(cpu), max(peaks)


def main() -> None:
    """Measure, print, and write the section `data` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("FLPS_DATA_DIR") or ROOT.parent / "shared" / "data") / "ml-1m"
    flags.add_argument("--ml_1m", type=Path, default=default)
    flags.add_argument("--runs", type=int, default=5)
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    if not chosen.ml_1m.is_dir():
        raise SystemExit(f"{chosen.ml_1m}: no ML-1M here; name its folder with --ml_1m")
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory() as folder:
            one_round(rows, Path(folder), chosen.ml_1m)
    table = ["| what | median s | slowest s | CPU s | peak MiB | goal |", "|---|---|---|---|---|---|"]
    for (what, goal), runs in rows.items():
        middle, slowest, cpu, peak = median(runs)
        table.append(f"| {what} | {middle:.3f} | {slowest:.3f} | {cpu:.3f} | {peak:.0f} | {goal} |")
    text = "\n".join(
        [
            *table,
            "",
            f"{chosen.runs} interleaved runs, each in a one-threaded process of its own; CPU counts imports too.",
        ]
    )
    print(text)
    if not chosen.no_report:
        update_section("data", text)


def one_round(rows: dict[tuple[str, str], list[tuple[float, float, float]]], folder: Path, ml_1m: Path) -> None:
    """Every measurement once, so that a slow minute of the machine touches all of them."""

    def note(what: str, goal: str, measured: tuple[float, float, float]) -> None:
        rows.setdefault((what, goal), []).append(measured)

    fixed, fresh, client = str(folder / "fixed"), str(folder / "fresh"), str(BIGGEST)
    goal = "10 s, 1536 MiB"
    note("ML-1M to ten shards, csv + columnar, 4 fixed negatives", goal, measure(DIVIDE, "fixed", fixed, str(ml_1m)))
    note("ML-1M to ten shards, csv + columnar, positives only", goal, measure(DIVIDE, "fresh", fresh, str(ml_1m)))
    note("the embedded default, made from nothing", "", measure(GENERATE, "", str(folder / "cache")))
    note("open 1,243,905 samples, columnar, fixed", "0.5 s", measure(OPEN, "columnar fixed", fixed, client))
    note("open 248,781 positives, columnar, fresh", "0.5 s", measure(OPEN, "columnar fresh", fresh, client))
    for kind, place in (("fixed", fixed), ("fresh", fresh)):
        note(f"prepare an epoch of 1,243,905 samples, {kind}", "1 s", measure(EPOCH, kind, place, client, "prepared"))
        note(f"prepare and walk it in batches of 512, {kind}", "", measure(EPOCH, kind, place, client, "whole"))
    note("open 1,243,905 samples, csv, fixed", "0.5 s", measure(OPEN, "csv fixed", fixed, client))


if __name__ == "__main__":
    main()
