"""What a message between two parties costs: sent by one process and received by another, half of a there and back.

    python benchmarks/boundary.py [--passes 5] [--wire unix curve plain tls floor] [--no_report]

`floor` is what TLS costs without flps: two sockets of Python's `ssl`, the same bytes there and back, nothing else.
"""

from __future__ import annotations

import argparse
import ipaddress
import itertools
import math
import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import torch
from report import update_section

from flps.config.tls import TlsFiles
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig
from flps.transport.security import make_keys

SHAPES = {"pair of (16000, 1)": ((16000, 1), 2, 1.0), "(2, 1024, 1280)": ((2, 1024, 1280), 1, 0.2)}
GOALS_MS = {"pair of (16000, 1)": {"unix": 0.5}, "(2, 1024, 1280)": {"unix": 8.0, "tls": 15.0, "curve": 30.0}}

NAMES = {
    "unix": "unix socket",
    "curve": "CURVE over TCP",
    "plain": "plain TCP",
    "tls": "TLS over TCP",
    "floor": "two bare `ssl` sockets",
}


def party(name: str, address: str, keys: str, insecure: bool) -> VerticalFederatedCommunicator:
    """Leader or follower of the measured pair."""
    other = "follower" if name == "leader" else "leader"
    own = str(Path(keys) / "own.pem")
    tls = TlsFiles(ca=own, certificate=own, expiry_warning_days=0) if address.startswith("tls") else None
    return VerticalFederatedCommunicator(
        ServerConfig(name, address), ServerConfig(other, address), ssl_config=tls, key_dir=Path(keys), insecure=insecure
    )


def write_certificate(path: Path) -> None:
    """One certificate for both parties, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "boundary")])
    names = [x509.DNSName("leader"), x509.DNSName("follower"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path.touch(mode=0o600)
    no_lock = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_lock)
    path.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def echo(address: str, keys: str, insecure: bool, rounds: int) -> None:
    """The follower: says back what it hears."""
    torch.set_num_threads(1)
    with party("follower", address, keys, insecure) as follower:
        for _ in range(rounds):
            follower.send_tensors("leader", follower.receive("leader"))


def bare_echo(port: int, own: str, size: int, rounds: int) -> None:
    """The other end of the floor."""
    context = ssl.create_default_context(cafile=own)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as link:
            buffer = memoryview(bytearray(size))
            for _ in range(rounds):
                fill(link, buffer)
                link.sendall(buffer)


def fill(link: ssl.SSLSocket, buffer: memoryview) -> None:
    """Receive so much."""
    done = 0
    while done < buffer.nbytes:
        done += link.recv_into(buffer[done:])


def measure_floor(name: str, rounds: int) -> list[float]:
    """As `measure`, by two sockets and nothing else."""
    shape, count, share = SHAPES[name]
    rounds, size = max(10, int(rounds * share)), 4 * count * math.prod(shape)
    times = []
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as door:
        own = Path(folder) / "own.pem"
        write_certificate(own)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        arguments = (door.getsockname()[1], str(own), size, rounds + 5)
        other = multiprocessing.get_context("spawn").Process(target=bare_echo, args=arguments)
        other.start()
        plain, _ = door.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_side=True) as link:
            sent, back = memoryview(os.urandom(size)), memoryview(bytearray(size))
            for _ in range(rounds + 5):
                began = time.perf_counter()
                link.sendall(sent)
                fill(link, back)
                times.append((time.perf_counter() - began) * 1e3 / 2)
        other.join()
    return times[5:]


def measure(wire: str, name: str, rounds: int) -> list[float]:
    """Milliseconds of each message, one way."""
    if wire == "floor":
        return measure_floor(name, rounds)
    shape, count, share = SHAPES[name]
    rounds = max(10, int(rounds * share))
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        address = f"ipc://{folder}/leader" if wire == "unix" else f"tcp://127.0.0.1:{free.getsockname()[1]}"
        address = address.replace("tcp", "tls") if wire == "tls" else address
        free.close()
        make_keys(Path(folder) / "keys", ["leader", "follower"])
        write_certificate(Path(folder) / "keys" / "own.pem")
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


def report(measured: dict[tuple[str, str], list[float]]) -> str:
    """The section of RESULTS.md."""
    lines = ["| tensors, float32 | wire | ms one way | least of the passes | goal |", "|---|---|---|---|---|"]
    for (name, wire), medians in measured.items():
        goal = GOALS_MS[name].get(wire)
        shown = f"{goal:g}" if goal else ""
        lines.append(f"| {name} | {NAMES[wire]} | {statistics.median(medians):.2f} | {min(medians):.2f} | {shown} |")
    count = len(next(iter(measured.values())))
    return "\n".join([*lines, "", f"Medians of {count} interleaved passes, each the median of its messages."])


def main() -> None:
    """Measure, print, and write the section `boundary` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=60, help="messages there and back of a pass")
    parser.add_argument("--wire", nargs="+", choices=list(NAMES), default=[wire for wire in NAMES if wire != "plain"])
    parser.add_argument("--no_report", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[tuple[str, str], list[float]] = {}
    for _, name, wire in itertools.product(range(arguments.passes), SHAPES, arguments.wire):
        measured.setdefault((name, wire), []).append(statistics.median(measure(wire, name, arguments.rounds)))
    text = report(measured)
    print(text)
    if not arguments.no_report:
        update_section("boundary", text)


if __name__ == "__main__":
    main()
