"""What a message between two parties costs: sent by one process and received by another, half of a there and back.

python benchmarks/boundary.py [--rounds 200] [--wire unix curve plain]
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch

from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig
from flps.transport.security import make_keys

SHAPES = {"pair of (16000, 1)": ((16000, 1), 2, 1.0), "(2, 1024, 1280)": ((2, 1024, 1280), 1, 0.2)}
GOALS_MS = {"pair of (16000, 1)": {"unix": 0.5}, "(2, 1024, 1280)": {"unix": 8.0, "curve": 30.0}}


def party(name: str, address: str, keys: str, insecure: bool) -> VerticalFederatedCommunicator:
    """Leader or follower of the measured pair."""
    other = "follower" if name == "leader" else "leader"
    return VerticalFederatedCommunicator(
        ServerConfig(name, address), ServerConfig(other, address), key_dir=Path(keys), insecure=insecure
    )


def echo(address: str, keys: str, insecure: bool, rounds: int) -> None:
    """The follower: says back what it hears."""
    torch.set_num_threads(1)
    with party("follower", address, keys, insecure) as follower:
        for _ in range(rounds):
            follower.send_tensors("leader", follower.receive("leader"))


def measure(wire: str, name: str, rounds: int) -> list[float]:
    """Milliseconds of each message, one way."""
    shape, count, share = SHAPES[name]
    rounds = max(10, int(rounds * share))
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        address = f"ipc://{folder}/leader" if wire == "unix" else f"tcp://127.0.0.1:{free.getsockname()[1]}"
        free.close()
        make_keys(Path(folder) / "keys", ["leader", "follower"])
        arguments = (address, f"{folder}/keys", wire == "plain")
        other = multiprocessing.get_context("spawn").Process(target=echo, args=(*arguments, rounds + 5))
        other.start()
        tensors = {f"x{n}": torch.randn(shape) for n in range(count)}
        times = []
        with party("leader", *arguments) as leader:
            for _ in range(rounds + 5):
                began = time.perf_counter()
                leader.send_tensors("follower", tensors)
                leader.receive("follower")
                times.append((time.perf_counter() - began) * 1e3 / 2)
        other.join()
    return times[5:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--wire", nargs="+", choices=("unix", "curve", "plain"), default=["unix", "curve"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for wire in arguments.wire:
        for name in SHAPES:
            times = measure(wire, name, arguments.rounds)
            goal = GOALS_MS[name].get(wire)
            print(
                f"{name:<20} {wire:<6} median {statistics.median(times):7.3f} ms, least {min(times):7.3f} ms"
                + (f", goal {goal:g} ms" if goal else "")
            )


if __name__ == "__main__":
    main()
