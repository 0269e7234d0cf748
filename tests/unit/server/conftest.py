"""A server whose process may be killed at any point, and clients that ask it again until they are answered.

No socket, no thread: messages are bytes in queues. A crash is an exception out of the middle of the server's work; what
it had written stays, what it had in memory is gone, and a new server reads the journal.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flps.config.job import Job
from flps.config.types import Config, Runner
from flps.frames import Limits, decode, encode
from flps.membership import Member
from flps.message import VERSION, Body, Envelope, Refusal
from flps.server.service import TableService
from flps.server.store import Store
from flps.transport.base import Bases
from flps.transport.journal import Durability, Journal
from flps.transport.listener import Listener, carry_out
from flps.transport.recovery import recover
from flps.transport.sockets import Carrier

# Yields requests to make at once and gets their answers; no requests: waits until all have come as far.
Script = Generator[Sequence[Body], list[Body], None]


class Crash(BaseException):
    """kill -9, or the machine's end."""


class Frame(bytes):
    """Bytes as zmq hands them out."""

    @property
    def buffer(self) -> memoryview:
        return memoryview(self)


class CrashingJournal(Journal):
    """A journal that may die while it writes."""

    point: Callable[[str], None]
    synced = 0

    def append(self, kind: int, frames: Sequence[Any]) -> None:
        self.point("before it is written")
        super().append(kind, frames)
        self.point("after it is written")

    def _write(self, pieces: Sequence[Any]) -> None:
        if hasattr(self, "point"):
            whole = b"".join(bytes(piece) for piece in pieces)
            half = random.Random(len(whole)).randrange(len(whole))
            super()._write([whole[:half]])
            self.point("while it is written")
            super()._write([whole[half:]])
        else:
            super()._write(pieces)

    def sync(self) -> None:
        super().sync()
        self.synced = self.bytes


class CrashingListener(Listener):
    """Sends into the clients' queues; may die between two answers."""

    point: Callable[[str], None]

    def flush(self) -> None:
        if not self._outbox:
            return
        self.point("before it is answered")
        if self.journal is not None:
            self.journal.sync()
        for client, frames in self._outbox:
            client.hear([bytes(memoryview(frame)) for frame in frames])
            self.point("after an answer has left")
        self._outbox.clear()


class NoSocket:
    """Nothing listens."""

    def close(self) -> None:
        """Nothing to close."""


class Nowhere(Carrier):
    """Opens nothing."""

    def listen(self, endpoint: str) -> Any:
        return NoSocket(), None


class Client:
    """One worker: plays a script, and asks again for what is not answered."""

    def __init__(self, rank: int, script: Script, run: str) -> None:
        self.member, self.run, self.script = Member("worker", rank), run, script
        self.incarnation, self.sequence = 1, 0
        self.open: dict[int, Body] = {}
        self.answers: dict[int, Body] = {}
        self.asked: list[int] = []
        self.done = False
        self.go_on([])

    def go_on(self, answers: list[Body]) -> None:
        try:
            bodies = self.script.send(answers) if self.sequence else next(self.script)
        except StopIteration:
            self.done = True
            return
        self.asked = [self.ask(body) for body in bodies]

    def ask(self, body: Body) -> int:
        self.sequence += 1
        self.open[self.sequence] = body
        return self.sequence

    def frames(self, number: int) -> list[Frame]:
        settled = min(self.open) - 1
        body = self.open[number]
        envelope = Envelope(VERSION, self.run, str(self.member), self.incarnation, number, body, settled)
        return [Frame(memoryview(frame)) for frame in encode(envelope)]

    def hear(self, frames: list[bytes]) -> None:
        envelope = decode(frames, Limits())
        if envelope.sequence not in self.open:
            return
        del self.open[envelope.sequence]
        assert not isinstance(envelope.body, Refusal), envelope.body
        self.answers[envelope.sequence] = envelope.body
        if all(number in self.answers for number in self.asked):
            self.go_on([self.answers.pop(number) for number in self.asked])


class World:
    """One server that crashes at given points, and its clients."""

    def __init__(
        self, folder: Path, scripts: Sequence[Script], mode: Any, durability: Durability = "log",
        bytes_max: int = 2**40, **runner: Any,
    ) -> None:  # fmt: skip
        """`bytes_max`: a longer journal gets a new base."""
        config = Config(runner=Runner(sync_mode=mode, train_data_dir="x", **runner))
        endpoint = "loopback://server-0"
        self.job = Job(
            run_id="run", run_dir=str(folder), config_dir=str(folder), config=config, workers=len(scripts),
            servers=(endpoint,), coordinator=endpoint, coordinators=0, security="loopback",
        )  # fmt: skip
        self.folder, self.durability, self.bytes_max = folder, durability, bytes_max
        self.bases_taken = 0
        self.clients = [Client(rank, script, "run") for rank, script in enumerate(scripts)]
        self.life = 0
        self.crashes = 0
        self.passed = 0
        self._crash_at: deque[int] = deque()
        self.start()

    def start(self) -> None:
        """A server comes up, from its journal if there is one."""
        self.life += 1
        carrier = Nowhere(self.job.terms, Member("server", 0), self.life)
        journal = CrashingJournal(self.folder / "journal", self.durability)
        self.listener = CrashingListener(carrier, "", journal)
        self.store = Store(0, 1, 10_000)
        self.service = TableService(self.store, self.job.config, self.job.workers, self.folder, frozenset)
        self.bases = Bases(journal, self.listener.ledger, [self.service], "run", self.bytes_max, self.store)
        if self.life > 1:
            recover(self.listener, [self.service], Limits(), first=self.bases.restore())
        journal.synced = journal.bytes  # opening it brings what an earlier life left to the disk
        journal.point = self.listener.point = self._point
        self.journal = journal

    def play(self, seed: int, crash_at: Sequence[int] = (), power_fails: bool = False) -> None:
        """Let clients talk in a seeded order, with repeats, until all are done; die at the points of these numbers."""
        rng = random.Random(seed)
        self._crash_at = deque(sorted(set(crash_at)))
        for _ in range(100_000):
            waiting = [client for client in self.clients if client.open]
            if not waiting:
                if all(client.done for client in self.clients):
                    if self.store._snapshot is not None:
                        self.store._snapshot.finish()
                        self.store._snapshot.wait(10.0)
                    return
                for client in self.clients:
                    if not client.done:
                        client.go_on([])
                continue
            try:
                self._turn(rng, waiting)
            except Crash:
                self.die(rng, power_fails)
        raise AssertionError("the clients were not done")

    def _turn(self, rng: random.Random, waiting: list[Client]) -> None:
        for client in rng.sample(waiting, rng.randint(1, len(waiting))):
            for number in sorted(client.open):
                if number not in client.open or rng.random() < 0.1:
                    continue  # lost on the way, or answered meanwhile
                frames = client.frames(number)
                request = self.listener.take(client, frames, len(frames))
                if request is not None:
                    carry_out(self.listener, [self.service], request, 0.0)
                    self._point("after it is applied")
                if not self.journal.syncs or rng.random() < 0.5:
                    self.listener.flush()
        self.listener.flush()
        self._shorten(rng)

    def _shorten(self, rng: random.Random) -> None:
        before = self.journal.segment
        self.bases.work()
        self.bases_taken += self.journal.segment > before
        self._point("after a base may have begun")
        snapshot = self.store._snapshot
        if snapshot is not None:
            snapshot.advance(0.0)
            if rng.random() < 0.5:
                snapshot.finish()
                snapshot.wait(10.0)
                self._point("when a base has come to the disk")

    def tables(self) -> dict[str, Any]:
        """Every number that the server holds: `<table>.keys` ascending, and the rows in that order."""
        held: dict[str, Any] = {}
        for table in self.store.tables:
            parts = {name: np.array(array) for name, array in table.dump().items()}
            order = np.argsort(parts["keys"]) if "keys" in parts else slice(None)
            held |= {f"{table.spec.name}.{name}": array[order] for name, array in parts.items()}
        return held

    def _point(self, name: str) -> None:
        self.passed += 1
        if self._crash_at and self.passed >= self._crash_at[0]:
            self._crash_at.popleft()
            raise Crash(name)

    def die(self, rng: random.Random | None = None, power_fails: bool = False) -> None:
        """The process ends, and another begins."""
        self.crashes += 1
        self.journal.close()
        if self.store._snapshot is not None:
            self.store._snapshot.give_up()
            self.store._snapshot.wait(10.0)
        if rng is not None and power_fails:  # of what was not brought to the disk any part may be there
            newest = max((self.folder / "journal").glob("segment-*"))
            size = newest.stat().st_size
            kept = rng.randint(min(self.journal.synced, size), size)
            with newest.open("r+b") as file:
                file.truncate(kept)
        self.start()


@pytest.fixture(scope="session")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """Makes worlds: `new_world(scripts, mode, durability="log", **runner)`, each in a folder of its own."""
    return lambda *what, **runner: World(tmp_path_factory.mktemp("world"), *what, **runner)
