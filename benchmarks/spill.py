"""A table that is larger than the memory it may use: rows per second, memory, and whether each row is right.

    python benchmarks/spill.py [--rows 20000000] [--memory_bytes_max 256000000] [--limit_mb 1200] [--quick]

Rows of 16 float32 and as much of Adagrad's state, for keys that are any 64-bit numbers, 16,384 a request. After every
kind of request 1 row in 64 is compared, bit for bit, with a table in memory that got the same pushes.

Memory: what the process has of its own (anonymous) over what it had before the table; pages of the mapped file are the
system's cache and told apart. `--limit_mb`: the process, its file's pages and all else in the cache that it made get
no more than so much, by a cgroup (needs the right to make one): the measure that nothing can hide from.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import update_section

from flps.table import Adagrad, SparseTable, TableSpec
from flps.table.spill import SpilledStorage

DIM, REQUEST, WATCHED = 16, 16_384, 64
Ranks = NDArray[np.int64]
Draw = Callable[[], Ranks]


def key_of(ranks: Ranks) -> NDArray[np.uint64]:
    """A different key, anywhere in 64 bits, for each rank."""
    keys = ranks.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return keys ^ (keys >> np.uint64(32))


def memory_mb(kind: str) -> float:
    """What /proc says of this process: RssAnon, RssFile, ..."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind + ":"))


class Watch:
    """The most anonymous memory that was seen, over what there was at first."""

    def __init__(self) -> None:
        self._first = memory_mb("RssAnon")
        self.peak_mb = 0.0

    def look(self) -> None:
        """Look now."""
        self.peak_mb = max(self.peak_mb, memory_mb("RssAnon") - self._first)


class Measured:
    """The table, and beside it one in memory that holds every 64th row."""

    def __init__(self, rows: int, memory_bytes_max: int) -> None:
        spec = TableSpec(name="measured", kind="sparse", dim=DIM, rule=Adagrad(), memory_bytes_max=memory_bytes_max)
        plain = TableSpec(name="measured", kind="sparse", dim=DIM, rule=Adagrad())
        self.watch = Watch()
        self.table, self.oracle, self.rows = SparseTable(spec), SparseTable(plain), rows
        self._gradients = np.random.default_rng(1).standard_normal((REQUEST, DIM), np.float32)
        self.checked = 0

    def fill(self) -> float:
        """Make every row; returns rows/s."""
        order = np.random.default_rng(0).permutation(self.rows // REQUEST)
        began = time.perf_counter()
        for n, block in enumerate(order):
            self.table.pull(key_of(np.arange(block * REQUEST, (block + 1) * REQUEST)))
            if not n % 16:
                self.watch.look()
        self.rows = len(self.table)
        return self.rows / (time.perf_counter() - began)

    def per_second(self, act: Callable[[Ranks], None], draw: Draw, seconds: float) -> float:
        """Rows/s of `act` on what `draw` draws, drawing not counted; the first half only warms up."""
        spent, done, began = 0.0, 0, time.perf_counter()
        while (now := time.perf_counter()) - began < seconds or not done:
            ranks = draw()
            start = time.perf_counter()
            act(ranks)
            if now - began >= seconds / 2:
                spent, done = spent + time.perf_counter() - start, done + ranks.size
        self.watch.look()
        return done / spent

    def pull(self, ranks: Ranks) -> None:
        """One pull."""
        self.table.pull(key_of(ranks))

    def push(self, ranks: Ranks) -> None:
        """One push, to the oracle too where it has the row."""
        pushed = self._gradients[: ranks.size]
        self.table.push(key_of(ranks), pushed, unique=True)
        watched = ranks % WATCHED == 0
        self.oracle.push(key_of(ranks[watched]), pushed[watched], unique=True)

    def check(self, draw: Draw) -> None:
        """Compare rows with the oracle's; ends the program where they differ."""
        ranks = draw() // WATCHED * WATCHED
        for keys in (key_of(ranks), self.oracle.keys()[-REQUEST:]):
            if not np.array_equal(self.table.pull(keys), self.oracle.pull(keys)):
                raise SystemExit("rows differ from those of the table in memory")
            self.checked += keys.size


def draws(rows: int) -> dict[str, Draw]:
    """The ways in which ranks are drawn, each once a request."""
    rng = np.random.default_rng(2)
    hot = min(rows, 500_000)
    return {
        f"hot: {hot:,} rows": lambda: np.unique(rng.integers(0, hot, REQUEST)),
        "zipf, exponent 1": lambda: np.unique(np.exp(rng.random(REQUEST) * np.log(rows)).astype(np.int64) - 1),
        "uniform": lambda: np.unique(rng.integers(0, rows, REQUEST)),
    }


def measure(measured: Measured, rounds: int, seconds: float) -> Iterator[tuple[str, str]]:
    """What was measured, and how much it was."""
    yield "rows made", f"{measured.fill():,.0f} rows/s"
    for what, draw in draws(measured.rows).items():
        speeds = []
        for _ in range(rounds):
            pulled = measured.per_second(measured.pull, draw, seconds)
            speeds.append((pulled, measured.per_second(measured.push, draw, seconds)))
            measured.check(draw)
        for verb, column in zip(("pull", "push by Adagrad"), zip(*speeds, strict=True), strict=True):
            yield f"{verb}, {what}", f"{statistics.median(column):,.0f} rows/s"
    storage = measured.table.storage
    assert isinstance(storage, SpilledStorage)
    yield "rows compared, all equal", f"{measured.checked:,}"
    yield "memory of its own, most, over what was before", f"{measured.watch.peak_mb:,.0f} MB"
    yield "pages of the file in memory, at the end", f"{memory_mb('RssFile'):,.0f} MB"
    yield "file", f"{storage.cold_nbytes / 2**20:,.0f} MB"


@contextlib.contextmanager
def limited(megabytes: int) -> Iterator[None]:
    """This process and the cache that it makes get no more memory than this."""
    root = Path("/sys/fs/cgroup")
    name = "memory.max" if (root / "cgroup.controllers").exists() else "memory.limit_in_bytes"
    group = (root if name == "memory.max" else root / "memory") / f"spill-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(megabytes << 20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise SystemExit(f"cannot limit the memory of this process by {group}: {error.strerror}") from error
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def main() -> None:
    """Measure, print, and write a section of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", type=int, default=20_000_000)
    flags.add_argument("--memory_bytes_max", type=int, default=256_000_000)
    flags.add_argument("--limit_mb", type=int)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--seconds", type=float, default=4.0)
    flags.add_argument("--quick", action="store_true", help="a small table, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    if chosen.quick:
        chosen.rows, chosen.memory_bytes_max, chosen.rounds, chosen.seconds = 200_000, 6_000_000, 1, 0.1
    with limited(chosen.limit_mb) if chosen.limit_mb else contextlib.nullcontext():
        run(chosen)


def run(chosen: argparse.Namespace) -> None:
    """Measure as the flags say."""
    limit = f"; all memory, the file's cache included, limited to {chosen.limit_mb} MB" if chosen.limit_mb else ""
    measured = Measured(chosen.rows, chosen.memory_bytes_max)
    lines = ["| what | measured |", "|---|---|"]
    print("\n".join(lines))
    for what, value in measure(measured, chosen.rounds, chosen.seconds):
        lines.append(f"| {what} | {value} |")
        print(lines[-1], flush=True)
    lines += ["", f"{measured.rows:,} rows, memory_bytes_max {chosen.memory_bytes_max:,}{limit}; "
              f"medians of {chosen.rounds} interleaved rounds, one thread."]  # fmt: skip
    print(lines[-1])
    if not chosen.no_report:
        update_section("spill, limited" if limit else "spill", "\n".join(lines))
    measured.table.close()


if __name__ == "__main__":
    main()
