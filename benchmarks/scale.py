"""How far one machine goes, and how the cost grows with workers, servers and rows.

    python benchmarks/scale.py [--parts crowd,steps,rows,workers,servers] [--quick] [--no_report]

crowd    200 workers connected to one server, training: time until all are ready, memory of the tree, samples/s
steps    10,000 steps of sync with 2 workers: memory of server and workers at the beginning and at the end
rows     tables of 10 k to 10 M rows behind one server: rows/s of pulls and pushes, bytes a row
workers  geo with 1 to 50 workers: samples/s of all together
servers  geo with 1 to 4 servers: samples/s of all together

Memory of a tree is proportional (PSS), of one role resident (RSS). The curves are drawn into docs/pictures/scale.svg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import federation
import numpy as np
import psutil
import table
from ncf import steady
from report import update_section

from flps.data.movielens_like import Shape, ensure
from flps.message import Pull, Push
from launch import pss_mib

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "scale.svg"
QUICK_SHAPE = Shape(users=300, items=200, ratings=12_000)
DEADLINE_S = 900.0
Curve = dict[int, float]


class Scratch:
    """A folder for runs and shards, and how large everything is to be."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.shape = QUICK_SHAPE if quick else Shape()
        self._runs = 0

    def configuration(self, workers: int, **runner: Any) -> dict[str, Any]:
        """NCF_MLP over equal shards, two epochs unless said otherwise."""
        shards = ensure(self.folder / "cache", clients=workers, shape=self.shape, by="equal")
        said = {"train_data_dir": str(shards / "fl_train_data"), "geo_step": 100, "epochs": 2, "save_interval": 0,
                "local_sparse": ["user_embedding"], "print_interval": 20}  # fmt: skip
        return {
            "runner": {**said, **runner},
            "network": {"start_timeout_s": 300.0, "lease_s": 60.0},
            "hyper_parameters": {
                "num_users": self.shape.users, "num_items": self.shape.items, "mode": "NCF_MLP",
                "fc_layers": [64, 32, 16, 8],
            },
        }  # fmt: skip

    def run_folder(self) -> Path:
        """A new one."""
        self._runs += 1
        return self.folder / f"run-{self._runs}"


def geo(scratch: Scratch, workers: int, servers: int) -> float:
    """Samples/s of all workers together in the second epoch."""
    events = federation.run(
        scratch.run_folder(), scratch.configuration(workers),
        f"--worker_num={workers}", f"--server_num={servers}", "--coordinator_num=1",
    )  # fmt: skip
    rate = steady(events, workers)
    if rate == rate:
        return rate
    return float(next(e["samples_per_s"] for e in events if e["event"] == "epoch" and e["epoch"] == 1))


def crowd(scratch: Scratch) -> list[str]:
    """Very many workers on one server."""
    workers = 12 if scratch.quick else 200
    folder, began = scratch.run_folder(), time.time()
    flags = (f"--worker_num={workers}", "--server_num=1", "--coordinator_num=1")
    process = federation.start(folder, scratch.configuration(workers, epochs=2), *flags)
    memory = 0.0
    try:
        while process.poll() is None and time.time() - began < DEADLINE_S:
            time.sleep(2.0 if not scratch.quick else 0.2)
            if federation.events(folder):
                memory = max(memory, pss_mib(psutil.Process(process.pid))[0])
    finally:
        federation.stop(process)
    events = federation.events(folder)
    if process.returncode != 0:
        raise SystemExit(f"flrun ended with {process.returncode}:\n{(folder / 'out.txt').read_text()[-2000:]}")
    ready = max(e["time"] for e in events if e["event"] == "ready") - began
    epochs = [e for e in events if e["event"] == "epoch"]
    return [
        f"| {workers} workers, 1 server: until all are ready | {ready:.1f} s |",
        f"| {workers} workers, 1 server: PSS of the whole tree | {memory / 1024:.1f} GiB |",
        f"| {workers} workers, 1 server: samples/s of the last epoch | {epochs[-1]['samples_per_s']:,.0f} |",
    ]


def steps(scratch: Scratch) -> list[str]:
    """Ten thousand steps of sync: does anything grow?"""
    wanted = 200 if scratch.quick else 10_000
    configuration = scratch.configuration(2, sync_mode="sync", train_batch_size=64, epochs=1)
    folder = scratch.run_folder()
    configuration["runner"]["epochs"] = -(-wanted * 64 // (scratch.shape.ratings * 5 // 2))
    process = federation.start(folder, configuration, "--worker_num=2", "--server_num=1", "--coordinator_num=1")
    seen: dict[str, list[tuple[int, float]]] = {}
    try:
        while process.poll() is None:
            time.sleep(0.1 if scratch.quick else 1.0)
            done = steps_done(folder)
            for name, pid in roles(folder).items():
                try:
                    seen.setdefault(name, []).append((done, psutil.Process(pid).memory_info().rss / 2**20))
                except psutil.NoSuchProcess:
                    continue
            if done >= wanted:
                break
    finally:
        federation.stop(process)
    lines = []
    for name, points in sorted(seen.items()):
        training = [(done, rss) for done, rss in points if done > 0]
        if name.startswith("coordinator") or len(training) < 2:
            continue
        early = [rss for done, rss in training if done <= training[-1][0] / 4] or [training[0][1]]
        lines.append(
            f"| {name}: RSS at step {training[0][0]:,} to {training[-1][0] // 4:,}, and at step {training[-1][0]:,} "
            f"| {np.median(early):.1f} MiB, {training[-1][1]:.1f} MiB |"
        )
    return lines


def steps_done(folder: Path) -> int:
    """Steps of worker 0 over all epochs, as it last told."""
    own = [e for e in federation.events(folder) if (e["event"], e["role"], e["rank"]) == ("progress", "worker", 0)]
    told = [e for e in own if "epoch" in e]  # before its first epoch it tells of loading only
    if not told:
        return 0
    return int(told[-1]["epoch"]) * int(told[-1]["steps"]) + int(told[-1]["step"])


def roles(folder: Path) -> dict[str, int]:
    """Role -> pid, once they have been started."""
    listed = list(folder.glob("log/run-*/roles.json"))
    rows = json.loads(listed[0].read_text()) if listed else []
    return {f"{row['role']}.{row['rank']}": row["pid"] for row in (rows["roles"] if isinstance(rows, dict) else rows)}


class Behind(NamedTuple):
    """A table behind one server."""

    pulled: float  # rows/s
    pushed: float
    row_bytes: float  # resident memory of the server for each row


def rows(scratch: Scratch) -> dict[int, Behind]:
    """Tables of many rows behind one server."""
    counts = (10_000, 50_000) if scratch.quick else (10_000, 100_000, 1_000_000, 10_000_000)
    return {count: behind(count, 0.1 if scratch.quick else 2.0) for count in counts}


def behind(count: int, seconds: float) -> Behind:
    """Make so many rows at a server, then pull and push 16 k of them at once."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    asked = [rng.choice(keys, min(16_384, count), replace=False) for _ in range(8)]
    gradients = np.ones((asked[0].size, table.DIM), np.float32)
    with table.server() as servers:
        servers.declare([table.SPEC], {})
        process = max(psutil.Process().children(), key=lambda child: child.memory_info().rss)
        before = process.memory_info().rss
        for part in np.array_split(keys, max(1, count // 100_000)):
            servers.rows(servers.look([Pull(0, part)]))
        held = process.memory_info().rss - before

        def push(n: int) -> None:
            servers.rows(servers.update(0, n, 1, False, [Push(0, asked[n % 8], gradients)], []))

        pulls = table.per_second(lambda n: table.look(servers, asked[n % 8]), seconds)
        return Behind(asked[0].size * pulls, asked[0].size * table.per_second(push, seconds), held / count)


def told(curve: Curve, what: str) -> list[str]:
    """Lines of the table."""
    return [f"| {count} {what} | {value:,.0f} samples/s |" for count, value in curve.items()]


def draw(curves: dict[str, Curve]) -> None:
    """One panel a curve."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(3.6 * len(curves), 3.0), squeeze=False)
    for panel, (title, points) in zip(panels[0], curves.items(), strict=True):
        panel.plot(list(points), [value / 1e6 for value in points.values()], "o-", color="#3b6ea5", markersize=4)
        panel.set_title(title, fontsize=9)
        panel.set_xscale("log" if max(points) > 100 * min(points) else "linear")
        panel.set_ylim(bottom=0)
        panel.set_ylabel("millions a second", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw, and write the section `scale` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--parts", default="crowd,steps,rows,workers,servers")
    flags.add_argument("--quick", action="store_true", help="everything small: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    parts = chosen.parts.split(",")
    lines = ["| what | measured |", "|---|---|"]
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder), chosen.quick)
        if "crowd" in parts:
            lines += crowd(scratch)
        if "steps" in parts:
            lines += steps(scratch)
        if "rows" in parts:
            tables = rows(scratch)
            lines += [
                f"| {count:,} rows of dim {table.DIM}, Adagrad: pulls, pushes, memory a row "
                f"| {seen.pulled:,.0f} rows/s, {seen.pushed:,.0f} rows/s, {seen.row_bytes:.0f} bytes |"
                for count, seen in tables.items()
            ]
            curves["rows/s pulled, by rows"] = {count: seen.pulled for count, seen in tables.items()}
            curves["rows/s pushed, by rows"] = {count: seen.pushed for count, seen in tables.items()}
        if "workers" in parts:
            counts = (1, 2) if chosen.quick else (1, 2, 5, 10, 20, 50)
            curves["samples/s, by workers"] = {count: geo(scratch, count, 1) for count in counts}
            lines += told(curves["samples/s, by workers"], "workers, 1 server, geo")
        if "servers" in parts:
            counts = (1, 2) if chosen.quick else (1, 2, 3, 4)
            curves["samples/s, by servers"] = {count: geo(scratch, 4, count) for count in counts}
            lines += told(curves["samples/s, by servers"], "servers, 4 workers, geo")
    print("\n".join(lines))
    if not chosen.no_report:
        if curves:
            draw(curves)
        update_section("scale", "\n".join(lines))


if __name__ == "__main__":
    main()
