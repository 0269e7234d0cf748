"""What a message between two parties costs: sent by one process and received by another, half of a there and back.

python benchmarks/boundary.py [--rounds 200] [--wire unix curve plain tls floor]

`floor` is what TLS costs without flps: two sockets of Python's `ssl`, the same bytes there and back, nothing else.
"""

from __future__ import annotations

import argparse
import ipaddress
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

from flps.config.tls import TlsFiles
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig
from flps.transport.security import make_keys

SHAPES = {"pair of (16000, 1)": ((16000, 1), 2, 1.0), "(2, 1024, 1280)": ((2, 1024, 1280), 1, 0.2)}
GOALS_MS = {"pair of (16000, 1)": {"unix": 0.5}, "(2, 1024, 1280)": {"unix": 8.0, "tls": 15.0, "curve": 30.0}}


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--wire",
        nargs="+",
        choices=("unix", "curve", "plain", "tls", "floor"),
        default=["unix", "curve", "tls", "floor"],
    )
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
