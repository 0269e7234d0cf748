"""Hosts and ports: how they are written, which of them are this machine, and who holds a port that is taken.

Law 1: an endpoint is read here once; everywhere else it is an Endpoint or a finished address.
Law 2: nothing stays open: a probe binds and lets go.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flps.errors import ConfigError, ResourceError


class Endpoint(NamedTuple):
    """A host and a port; port 0 where none was given."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def parse_endpoint(text: str, *, flag: str, port_needed: bool) -> Endpoint:
    """`host:port`, `[ipv6]:port`, or `host` alone where no port is needed.

    Raises ConfigError that names `flag` and the text.
    """
    host, _, port_text = text.rpartition(":") if _has_port(text) else (text, "", "")
    host = host.strip("[]")
    if not host:
        raise ConfigError(f"{flag}: {text!r} names no host; expected host:port")
    if not port_text and port_needed:
        raise ConfigError(f"{flag}: {text!r} names no port; expected host:port")
    if port_text and not (port_text.isascii() and port_text.isdigit() and int(port_text) < 65536):
        raise ConfigError(f"{flag}: {text!r} has port {port_text!r}; expected a number from 1 to 65535")
    port = int(port_text or 0)
    if port_needed and port == 0:
        raise ConfigError(f"{flag}: {text!r} asks for port 0; others must know the port, expected 1 to 65535")
    return Endpoint(host, port)


def _has_port(text: str) -> bool:
    return "]:" in text if text.startswith("[") else text.count(":") == 1


def is_loopback(host: str) -> bool:
    """Whether a host as written can only be this machine: localhost, 127.x.x.x or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_mine(host: str) -> bool:
    """Whether this machine answers at `host`: a socket can be bound to one of its addresses."""
    for family, address in _resolve(host, 0):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
            return True
    return False


def _resolve(host: str, port: int) -> Iterator[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return
    for family, _, _, _, address in answers:
        yield family, (str(address[0]), int(address[1]))


def check_ports(endpoints: Sequence[Endpoint]) -> None:
    """Bind every endpoint for a moment.

    Raises ResourceError that lists each endpoint that cannot be bound and, where the system tells, the holder's pid.
    """
    complaints = [text for text in map(_complaint, endpoints) if text]
    if complaints:
        raise ResourceError("; ".join(complaints))


def _complaint(endpoint: Endpoint) -> str:
    answers = list(_resolve(*endpoint))
    if not answers:
        return f"host {endpoint.host} cannot be resolved"
    family, address = answers[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the transport does it: a connection in TIME_WAIT does not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return _why(endpoint, error)
    return ""


def _why(endpoint: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        pid = holder(endpoint.port)
        return (
            f"port {endpoint} is taken" + (f" by process {pid}" if pid else "") + "; end that process or take another"
        )
    if error.errno == errno.EACCES:
        return f"port {endpoint} may not be bound: {error.strerror}; take a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{endpoint.host} is no address of this machine, so {endpoint} cannot be bound"
    return f"port {endpoint} cannot be bound: {error.strerror}"


def holder(port: int) -> int | None:
    """The pid that listens on a TCP port of this machine, when Linux tells; None otherwise."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            inodes |= _listening_inodes(Path(table).read_text(), port)
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return next((pid for pid in _pids() if wanted & _open_files(pid)), None) if wanted else None


def _listening_inodes(table: str, port: int) -> set[str]:
    rows = [line.split() for line in table.splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def _pids() -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def _open_files(pid: int) -> set[str]:
    links = set()
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                links.add(os.readlink(f"{folder}/{name}"))
    return links
