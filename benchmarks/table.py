"""Rows per second of a table: in this process, and behind one server on a unix socket.

    python benchmarks/table.py [--rounds 5] [--quick] [--no_report]

A million random 64-bit keys with rows of 16 float32, 16,384 keys a request drawn from them; pushes by Adagrad. Named
baselines: np.take of as many rows from a plain array, and a bare zmq round trip with frames of the same sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray
from report import update_section

from flps.config.job import Job
from flps.config.types import Config, Runner
from flps.launch.role import run_role
from flps.membership import Member
from flps.message import Leave, Pull, Push
from flps.remote import Servers
from flps.table import Adagrad, SparseTable, TableSpec
from flps.transport.beat import Heartbeat
from flps.transport.connection import Connection
from flps.transport.sockets import Carrier

DIM, FEW, UNDER_WAY = 16, 64, 4
SPEC = TableSpec(name="measured", kind="sparse", dim=DIM, rule=Adagrad())
Keys = NDArray[np.uint64]


class Work:
    """Keys of a table, and the requests that are drawn from them."""

    def __init__(self, rows: int, request: int) -> None:
        rng = np.random.default_rng(0)
        self.keys = np.unique(rng.integers(0, 2**64, rows, dtype=np.uint64))
        self.requests = [rng.choice(self.keys, request, replace=False) for _ in range(8)]
        self.gradients = rng.standard_normal((request, DIM), np.float32)
        self.request = request


def per_second(act: Callable[[int], object], seconds: float) -> float:
    """Calls per second of `act(0)`, `act(1)`, ... for about that long; the first one is not counted."""
    act(0)
    began, calls = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        calls += 1
        act(calls)
    return calls / (now - began)


def in_memory(work: Work, seconds: float) -> dict[str, float]:
    """Rows/s of a table in this process, and of np.take."""
    table, array = SparseTable(SPEC), np.ones((work.keys.size, DIM), np.float32)  # zeros would all be one page
    table.pull(work.keys)
    places = [np.searchsorted(work.keys, keys) for keys in work.requests]
    return {
        "np.take from an array (baseline)": work.request
        * per_second(lambda n: array.take(places[n % 8], axis=0), seconds),
        "pull, in this process": work.request * per_second(lambda n: table.pull(work.requests[n % 8]), seconds),
        "push by Adagrad, in this process": work.request
        * per_second(lambda n: table.push(work.requests[n % 8], work.gradients, unique=True), seconds),
    }


def behind_a_server(work: Work, seconds: float) -> dict[str, float]:
    """Rows/s, and small requests/s, of a table behind one server."""
    with server() as servers:
        fill(servers, work)
        few = [keys[:FEW] for keys in work.requests]
        rates = rows_a_second(servers, work, seconds)
        return {
            "pull, one server": rates[0],
            "push by Adagrad, one server": rates[1],
            f"requests of {FEW} keys, one server": per_second(lambda n: look(servers, few[n % 8]), seconds),
            f"requests of {FEW} keys, one server, {UNDER_WAY} under way": UNDER_WAY
            * per_second(lambda n: look_ahead(servers, few), seconds),
        }


def behind_two_servers(work: Work, seconds: float) -> dict[str, float]:
    """Rows/s of a table that is divided over two servers."""
    with server(count=2) as servers:
        fill(servers, work)
        rates = rows_a_second(servers, work, seconds)
        return {"pull, two servers": rates[0], "push by Adagrad, two servers": rates[1]}


def fill(servers: Servers, work: Work) -> None:
    """Let the servers make every row."""
    servers.declare([SPEC], {})
    for keys in np.array_split(work.keys, 16):
        servers.rows(servers.look([Pull(0, keys)]))


def rows_a_second(servers: Servers, work: Work, seconds: float) -> tuple[float, float]:
    """Rows/s of pulls and of pushes."""

    def push(n: int) -> None:
        pushes = [Push(0, work.requests[n % 8], work.gradients)]
        servers.rows(servers.update(0, n, 1, False, pushes, []))

    pulls = per_second(lambda n: look(servers, work.requests[n % 8]), seconds)
    return work.request * pulls, work.request * per_second(push, seconds)


def look(servers: Servers, keys: Keys) -> None:
    """One pull."""
    servers.rows(servers.look([Pull(0, keys)]))


def look_ahead(servers: Servers, questions: Sequence[Keys]) -> None:
    """Several pulls, all asked for before the first is waited for."""
    pending = [servers.look([Pull(0, keys)]) for keys in questions[:UNDER_WAY]]
    for one in pending:
        servers.rows(one)


@contextlib.contextmanager
def server(run_dir: str = "", count: int = 1, **runner: Any) -> Iterator[Servers]:
    """Servers in processes of their own, seen from the only worker of their job. `run_dir`: where the run leaves files;
    "": nowhere for long. `runner`: settings of the runner.
    """
    with tempfile.TemporaryDirectory() as folder:
        endpoints = tuple(f"ipc://{folder}/server-{rank}" for rank in range(count))
        config = Config(runner=Runner(train_data_dir="unused", sync_mode="async", **runner))
        job = Job(
            run_id="measured", run_dir=run_dir or folder, config_dir=folder, config=config, workers=1,
            servers=endpoints, coordinator=endpoints[0], coordinators=0, security="unix",
        )  # fmt: skip
        spawn = multiprocessing.get_context("spawn").Process
        processes = [spawn(target=run_role, args=(job, "server", rank)) for rank in range(count)]
        for process in processes:
            process.start()
        carrier = Carrier(job.terms, Member("worker", 0))
        heartbeat = Heartbeat(carrier, endpoints[0], Member("server", 0))
        connections = [Connection(carrier, at, Member("server", n), heartbeat.check) for n, at in enumerate(endpoints)]
        servers = Servers(connections, 1, config.network.barrier_timeout_s)
        try:
            heartbeat.start()
            heartbeat.wait_joined()
            yield servers
            servers.detach(config.network.request_timeout_s)
            connections[0].ask(Leave())
            for process in processes:
                process.join(20)
        finally:
            heartbeat.stop()
            servers.close()
            for process in processes:
                process.kill()
                process.join()


def bare_zmq(work: Work, seconds: float) -> dict[str, float]:
    """Round trips of frames as large as those of the requests above, with nothing done in between."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        endpoint = f"ipc://{folder}/echo"
        process = multiprocessing.get_context("spawn").Process(target=echo, args=(endpoint,))
        process.start()
        with context.socket(zmq.DEALER) as socket:
            socket.connect(endpoint)

            def trip(keys: int) -> Callable[[int], object]:
                frame, rows = bytes(8 * keys), str(4 * DIM * keys).encode()
                return lambda n: (socket.send_multipart([rows, frame], copy=False), socket.recv_multipart(copy=False))

            answer = {
                "bare zmq, frames of a pull (baseline)": work.request * per_second(trip(work.request), seconds),
                f"bare zmq, frames of {FEW} keys (baseline)": per_second(trip(FEW), seconds),
            }
            socket.send_multipart([b"end", b""])
        process.join(20)
    return answer


def echo(endpoint: str) -> None:
    """Answer each message by as many bytes as its first frame says."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        while (message := socket.recv_multipart())[1] != b"end":
            socket.send_multipart([message[0], bytes(int(message[1]))], copy=False)


def report(runs: list[dict[str, float]]) -> str:
    """The section of RESULTS.md."""
    lines = ["| what | a second |", "|---|---|"]
    for what in runs[0]:
        unit = "requests" if f"{FEW} keys" in what else "rows"
        lines.append(f"| {what} | {statistics.median(run[what] for run in runs):,.0f} {unit} |")
    return "\n".join([*lines, "", f"{len(runs)} interleaved rounds, medians; one worker, one thread."])


def main() -> None:
    """Measure, print, and write the section `table` of RESULTS.md."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--quick", action="store_true", help="a small table, one round: shows that it runs")
    flags.add_argument("--no_report", action="store_true")
    chosen = flags.parse_args()
    work = Work(20_000, 1024) if chosen.quick else Work(1_000_000, 16_384)
    rounds, seconds = (1, 0.05) if chosen.quick else (chosen.rounds, 1.0)
    runs = [
        {
            **in_memory(work, seconds),
            **bare_zmq(work, seconds),
            **behind_a_server(work, seconds),
            **behind_two_servers(work, seconds),
        }
        for _ in range(rounds)
    ]
    text = report(runs)
    print(text)
    if not chosen.no_report:
        update_section("table", text)


if __name__ == "__main__":
    main()
