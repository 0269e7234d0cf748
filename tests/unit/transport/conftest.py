"""A listener in a thread, and connections to it, over every kind of endpoint."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.config.job import Job, Security
from flps.config.types import Config, Network
from flps.errors import Refused
from flps.membership import Member
from flps.message import Arrive, Body, Done, Look, Pull, Release, Report, Rows, Save, Saved
from flps.transport.connection import Connection
from flps.transport.listener import Listener, Request, Ticket, serve
from flps.transport.security import make_keys
from flps.transport.sockets import Carrier

SERVER = Member("server", 0)
NETWORK = Network(
    retry_s=0.1, request_timeout_s=5.0, heartbeat_s=0.05, lease_s=5.0, start_timeout_s=5.0, frame_bytes_max=1 << 20
)


class Stop(Exception):
    """Ends the loop of a listener."""


class Idle:
    """A service that has nothing to record, nobody to lose and nothing to do when time passes."""

    finished = False

    def handles(self, body: Body) -> bool:
        return not isinstance(body, Saved)

    def records(self, request: Any) -> bool:
        return False

    def losses(self, now: float) -> list[Any]:
        return []

    def lose(self, loss: Any, now: float) -> list[Any]:
        raise NotImplementedError

    def tick(self, now: float) -> list[tuple[Ticket, Body]]:
        return []


class Answering(Idle):
    """A service that says what a function says; nothing, where it gives None."""

    def __init__(self, answer: Callable[[Body], Body | None]) -> None:
        self._answer = answer

    def handle(self, request: Request, now: float) -> list[tuple[Ticket, Body]]:
        said = self._answer(request.body)
        return [] if said is None else [(request.ticket, said)]


class Notebook(Idle):
    """A service that writes down what it carries out. `Save` is refused, `Arrive` waits for an `Arrive` of another."""

    def __init__(self) -> None:
        self.carried_out: list[tuple[Member, Body]] = []
        self._waiting: list[Ticket] = []

    def handle(self, request: Request, now: float) -> list[tuple[Ticket, Body]]:
        ticket, body = request.ticket, request.body
        self.carried_out.append((ticket.member, body))
        match body:
            case Look():
                return [(ticket, Rows(tuple(pull.keys for pull in body.pulls if pull.keys is not None)))]
            case Save():
                raise Refused(f"epoch {body.epoch} is refused " + "x" * body.epoch)
            case Arrive():
                self._waiting.append(ticket)
                waiting, self._waiting = (self._waiting, []) if len(self._waiting) == 2 else ([], self._waiting)
                return [(one, Release(Report(), ())) for one in waiting]
            case _:
                return [(ticket, Done())]


class Wire:
    """One endpoint of one kind, its listener, and who dials it; everything is hung up at the end."""

    def __init__(self, security: Security, folder: Path, network: Network) -> None:
        self.folder = folder
        self.network = network
        make_keys(folder / "keys")
        self.endpoint = {
            "unix": f"ipc://{folder}/server-0",
            "loopback": "loopback://server-0",
            "tls": f"tls://127.0.0.1:{_free_port()}",
        }.get(security, f"tcp://127.0.0.1:{_free_port()}")
        self.job = Job(
            run_id=uuid.uuid4().hex,
            run_dir=str(folder),
            config_dir=str(folder),
            config=Config(network=network),
            workers=100,
            servers=(self.endpoint,),
            coordinator=self.endpoint,
            coordinators=0,
            security=security,
            key_dir=str(folder / "keys") if security == "curve" else "",
        )
        self.notebook = Notebook()
        self.listener: Listener | None = None
        self._closers: list[Callable[[], None]] = []
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, answer: Callable[[Body], Body | None] | None = None, member: Member = SERVER) -> Wire:
        """Serve in a thread from now on; without `answer` it is the notebook that does."""
        service = self.notebook if answer is None else Answering(answer)
        self.listener = Listener(Carrier(self.job.terms, member), self.endpoint)
        self._thread = threading.Thread(target=self._serve, args=(self.listener, service))
        self._thread.start()
        return self

    def dial(self, rank: int = 0, **changes: Any) -> Connection:
        """A worker's connection; `changes` of the job, `member`, `incarnation`, `endpoint`, `peer`, `alarm`."""
        member = changes.pop("member", Member("worker", rank))
        incarnation = changes.pop("incarnation", 1)
        endpoint, peer = changes.pop("endpoint", self.endpoint), changes.pop("peer", SERVER)
        alarm = {"alarm": changes.pop("alarm")} if "alarm" in changes else {}
        carrier = Carrier(msgspec.structs.replace(self.job, **changes).terms, member, incarnation)
        connection = Connection(carrier, endpoint, peer, **alarm)
        self.at_end(connection.close)
        return connection

    def at_end(self, close: Callable[[], None]) -> None:
        self._closers.append(close)

    @property
    def rejected(self) -> int:
        assert self.listener is not None
        return self.listener.rejected

    def is_well(self) -> bool:
        """Whether the listener still answers."""
        return self.echo(self.dial(77)) == [1, 2]

    @staticmethod
    def look(*numbers: int) -> Look:
        """A question that is answered with its keys."""
        return Look((Pull(0, np.array(numbers, np.uint64)),))

    @staticmethod
    def numbers(body: Body) -> list[int]:
        """The numbers in the answer to `look`."""
        assert isinstance(body, Rows)
        return [int(number) for number in body.values[0]]

    def echo(self, connection: Connection) -> list[int]:
        """[1, 2], by way of the listener."""
        return self.numbers(connection.ask(self.look(1, 2)))

    def has_rejected(self, count: int) -> bool:
        """Whether so many messages, and no more, are refused before long."""
        deadline = time.monotonic() + 5
        while self.rejected < count and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.rejected == count

    def close(self) -> None:
        for close in reversed(self._closers):
            close()
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, listener: Listener, service: Notebook | Answering) -> None:
        try:
            serve(listener, [service], self._look_for_the_end)
        except Stop:
            pass
        finally:
            listener.close()

    def _look_for_the_end(self) -> None:
        if self._is_over.is_set():
            raise Stop


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def make_wire() -> Iterator[Callable[..., Wire]]:
    """Makes wires: `make_wire("curve", lease_s=1.0)`; socket paths are short, as unix wants them."""
    made: list[Wire] = []
    with tempfile.TemporaryDirectory() as folder:

        def make(security: Security = "unix", **changes: Any) -> Wire:
            place = Path(folder) / str(len(made))
            place.mkdir()
            made.append(Wire(security, place, msgspec.structs.replace(NETWORK, **changes)))
            return made[-1]

        yield make
        for wire in made:
            wire.close()


@pytest.fixture(params=["unix", "loopback", "plain", "curve"])
def wire(request: pytest.FixtureRequest, make_wire: Callable[..., Wire]) -> Wire:
    """A listener over each kind of endpoint in turn."""
    return make_wire(request.param).listen()
