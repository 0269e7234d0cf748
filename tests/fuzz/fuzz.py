"""Random and mutated messages against a server or a coordinator: `python tests/fuzz/fuzz.py [SEED] [FRAMES]`.

Law: whatever comes, nothing but a refusal comes out; who behaves is answered; tables change by accepted pushes alone.

`Target` is a whole role in this process, from the listener down; `feed` hands it a message as zmq would. What a
run does is drawn from its seed.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import zmq

from flps import message as m
from flps.config.job import Job
from flps.config.types import Config, Network, Runner
from flps.coordinator.service import MembershipService
from flps.frames import Limits, encode
from flps.membership import Member
from flps.metrics import EventLog
from flps.server.service import TableService
from flps.server.store import Store
from flps.table import Adam, Sgd, TableSpec
from flps.transport.connection import Connection
from flps.transport.listener import Listener, Service, carry_out
from flps.transport.sockets import Carrier

WORKERS = 4  # rank 0 behaves
GOOD_LIFE = 2**52  # a life that nobody else comes upon by chance
ROWS = TableSpec(name="rows", kind="sparse", dim=3, rule=Adam(), bound=500)
TENSOR = TableSpec(name="tensor", kind="dense", dim=5, rule=Sgd())
NETWORK = Network(frame_bytes_max=1 << 20, message_bytes_max=4 << 20, lease_s=1e6, start_timeout_s=1e6, keys_max=4096)
LIMITS = Limits(NETWORK.frames_max, NETWORK.frame_bytes_max, NETWORK.message_bytes_max)
ODD = [0, 1, -1, 2, 7, 127, 128, 255, 2**31, 2**32, 2**53 - 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e308,
       float("nan"), None, True, "", "x", "worker:1", "\0", "declare", b"\xff", [], [[]], {}, {"a": 1}]  # fmt: skip


def corpus(run: str) -> list[list[bytes]]:
    """Valid messages of every kind from some senders, as frames."""
    rng = np.random.default_rng(5)
    keys = np.arange(6, dtype=np.uint64) * 7
    values = rng.normal(size=(6, 3)).astype(np.float32)
    pushes = (m.Push(0, keys, values), m.Push(1, None, np.ones(5, np.float32)))
    pulls = (m.Pull(0, keys), m.Pull(1, None))
    counts = {"samples": np.array([3]), "loss": np.array([1.5]), "auc": np.ones((2, 8), np.int64)}
    report = m.Report(counts, {"f": "00"})
    specs = tuple(msgspec.to_builtins(spec) for spec in (ROWS, TENSOR))
    bodies: list[Any] = [
        m.Declare(specs), m.Start((pushes[1],)), m.Look(pulls), m.Update(0, 0, 4, False, pushes, pulls),
        m.Update(0, 1, 4, True, pushes, pulls), m.Window(0, 4, False, pushes, {0: 0, 1: 0}),
        m.Window(1, 0, True, (), {0: 1}), m.Save(1), m.Cut("c", 0, 1, ("d",)), m.Detach(), m.Hello(), m.Beat(),
        m.Beat(m.Wrote("c", "f", "00")), m.Arrive("begin 0", m.Report()), m.Arrive("trained 0", report),
        m.Arrive("checkpoint 0 1", report), m.Arrive("evaluated 0", m.Report({"sampled": np.ones(11, np.int64)})),
        m.Leave(), m.Declared(()), m.Rows((values,)), m.Changes(0.5, pushes, {0: 1}), m.Saved({"a": "b"}),
        m.Pulse(("worker:1",), "stop"), m.Release(report, (0, 1)), m.Done(), m.Refusal("no"),
    ]  # fmt: skip
    return [
        frames_of(m.Envelope(m.VERSION, run, sender, 1, sequence, body))
        for body in bodies
        for sender, sequence in (("worker:1", 1), ("worker:2", 2), ("worker:3", 0), ("server:0", 1))
    ]


def frames_of(envelope: m.Envelope) -> list[bytes]:
    """A message as bytes."""
    return [np.ascontiguousarray(frame).tobytes() if isinstance(frame, np.ndarray) else bytes(frame)
            for frame in encode(envelope)]  # fmt: skip


class Mutator:
    """Makes messages that nobody would send."""

    def __init__(self, seed: int, valid: Sequence[list[bytes]]) -> None:
        self._chance = random.Random(seed)
        self._valid = valid
        self._lives = 1

    def next(self) -> list[bytes]:
        """The next message."""
        chance = self._chance
        frames = list(chance.choice(self._valid))
        kind = chance.random()
        if kind < 0.05:
            return [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 5))]
        if kind < 0.9:
            frames[0] = self._other_header(frames[0])
        for _ in range(chance.choice((0, 0, 0, 0, 1, 1, 2, 4))):
            frames = chance.choice((self._flip, self._cut, self._stretch, self._shuffle, self._splice))(frames)
        return frames

    def _other_header(self, header: bytes) -> bytes:
        """The same kind of message with other values in it; numbered so that it is carried out, as a rule."""
        chance = self._chance
        said = msgspec.msgpack.decode(header)
        if chance.random() < 0.8:  # a new life each time: its first request is new
            self._lives += 1
            said[3], said[4] = self._lives, chance.choice((1, 1, 1, 1, 0))
            role = chance.choice(("worker", "worker", "worker", "server"))
            is_end = said[5].get("type") in ("detach", "leave")  # who has left is refused whatever it says
            said[2] = "worker:3" if is_end else f"{role}:{chance.choice((1, 1, 2, 2, 3, 3, 3, 9))}"
        for _ in range(chance.choice((0, 0, 0, 1, 1, 3))):
            life = self._lives
            self._replace(said[5] if chance.random() < 0.8 else said)
            if isinstance(said[3], int) and said[3] > life:
                said[3] = life  # after a very late life everything of that sender is refused: little is tried then
        try:
            return msgspec.msgpack.encode(said)
        except (OverflowError, msgspec.MsgspecError, RecursionError):
            return header

    def _replace(self, tree: Any) -> None:
        """Put something odd in some place of a tree."""
        chance = self._chance
        while isinstance(tree, list | dict):
            places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
            if not places:
                return
            place = chance.choice(places)
            if isinstance(tree[place], list | dict) and chance.random() < 0.7:
                tree = tree[place]
                continue
            if isinstance(tree[place], int) and chance.random() < 0.4:
                tree[place] += chance.choice((-1, 1, 2))
            else:
                tree[place] = copy.copy(chance.choice(ODD))
            return

    def _flip(self, frames: list[bytes]) -> list[bytes]:
        place = self._chance.randrange(len(frames))
        frame = bytearray(frames[place])
        for _ in range(self._chance.choice((1, 1, 2, 8)) if frame else 0):
            frame[self._chance.randrange(len(frame))] ^= 1 << self._chance.randrange(8)
        return [*frames[:place], bytes(frame), *frames[place + 1 :]]

    def _cut(self, frames: list[bytes]) -> list[bytes]:
        place = self._chance.randrange(len(frames))
        if self._chance.random() < 0.3 and len(frames) > 1:
            return frames[:place] + frames[place + 1 :]
        frame = frames[place]
        return [*frames[:place], frame[: self._chance.randrange(len(frame) + 1)], *frames[place + 1 :]]

    def _stretch(self, frames: list[bytes]) -> list[bytes]:
        place = self._chance.randrange(len(frames))
        more = self._chance.randbytes(self._chance.choice((1, 4, 8, 64)))
        if self._chance.random() < 0.3:
            return [*frames[: place + 1], more, *frames[place + 1 :]]
        return [*frames[:place], frames[place] + more, *frames[place + 1 :]]

    def _shuffle(self, frames: list[bytes]) -> list[bytes]:
        return self._chance.sample(frames, len(frames))

    def _splice(self, frames: list[bytes]) -> list[bytes]:
        return [frames[0], *self._chance.choice(self._valid)[1:]]


class Target:
    """A server (of a mode) or a coordinator, with one worker that behaves."""

    def __init__(self, role: str, mode: str = "async", security: str = "loopback", endpoint: str = "") -> None:
        self.folder = tempfile.TemporaryDirectory()
        own = endpoint or f"loopback://{role}-0"
        config = Config(network=NETWORK, runner=Runner(sync_mode=mode))  # type: ignore[arg-type]
        self.job = Job(
            run_id=os.urandom(4).hex(), run_dir=self.folder.name, config_dir=self.folder.name, config=config,
            workers=WORKERS, servers=(own if role == "server" else "loopback://other",), coordinator=own,
            coordinators=int(role == "coordinator"), security=security,  # type: ignore[arg-type]
        )  # fmt: skip
        self.role = role
        self.events = EventLog(str(Path(self.folder.name) / "metrics.jsonl"), role, 0)
        self.listener = Listener(Carrier(self.job.terms, Member(role, 0)), own)
        self.store = Store(0, 1, NETWORK.keys_max, limits=LIMITS)
        if role == "server":
            models = Path(self.folder.name) / "models"
            service: Service = TableService(self.store, config, WORKERS, models, frozenset)
        else:
            service = MembershipService(WORKERS, 1, NETWORK, self.events, time.monotonic())
        self.services = [service]
        self.good = Connection(Carrier(self.job.terms, Member("worker", 0), GOOD_LIFE), own, Member(role, 0))
        if role == "server":
            self.ask(m.Declare(tuple(msgspec.to_builtins(spec) for spec in (ROWS, TENSOR))))
            self.ask(m.Start((m.Push(1, None, np.ones(5, np.float32)),)))
        else:
            self.ask(m.Hello())

    def feed(self, frames: Sequence[bytes]) -> None:
        """A message comes from somewhere."""
        request = self.listener.take(b"nowhere", [zmq.Frame(frame) for frame in frames], len(frames))
        if request is not None:
            carry_out(self.listener, self.services, request, time.monotonic())
        self.listener.flush()

    def step(self, timeout_s: float) -> None:
        """Receive what comes over the socket."""
        request = self.listener.receive(timeout_s)
        if request is not None:
            carry_out(self.listener, self.services, request, time.monotonic())
        self.listener.flush()

    def ask(self, body: m.Body, timeout_s: float = 60.0) -> m.Body:
        """What the worker that behaves is answered."""
        number = self.good.send(body)
        request = self.good._open[number]
        deadline = time.monotonic() + timeout_s
        while request.answer is None:
            assert time.monotonic() < deadline, f"{self.role} does not answer {type(body).__name__} any more"
            self.step(0.01)
            self.good._receive(0.0)
        return self.good.wait(number)

    def is_well(self) -> bool:
        """Whether the worker that behaves is answered, and rightly."""
        if self.role == "coordinator":
            return isinstance(self.ask(m.Hello()), m.Done)
        answer = self.ask(m.Look((m.Pull(0, np.array([7], np.uint64)), m.Pull(1, None))))
        return isinstance(answer, m.Rows) and [value.shape for value in answer.values] == [(1, 3), (5,)]

    def holding(self) -> bytes:
        """Everything that the tables hold."""
        dumps = [table.dump() for table in self.store.tables]
        return b"".join(np.ascontiguousarray(array).tobytes() for dump in dumps for array in dump.values())

    def close(self) -> None:
        self.good.close()
        self.listener.close()
        self.events.close()
        self.folder.cleanup()


def fuzz(target: Target, seed: int, count: int, look_every: int = 50) -> dict[str, int]:
    """Feed that many messages; figures. Raises AssertionError, or whatever came out that should not."""
    mutator = Mutator(seed, corpus(target.job.run_id))
    memory = []
    rejected = target.listener.rejected
    for number in range(count):
        message = mutator.next()
        looks = number % look_every == 0
        before, refused_before = (target.holding(), target.listener.rejected) if looks else (b"", 0)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # huge gradients are finite, what they give is not
                target.feed(message)
        except Exception as error:
            raise AssertionError(f"seed {seed}, message {number} of {target.role}: {error!r}: {message}") from error
        if looks and target.listener.rejected > refused_before:
            assert target.holding() == before, f"a refused message changed a table: {message}"
        if number % max(1, count // 10) == count // 20:
            assert target.is_well()
            memory.append(psutil.Process().memory_info().rss)
    assert target.is_well()
    grown = memory[-1] - min(memory[1:3] or memory)
    return {"messages": count, "rejected": target.listener.rejected - rejected, "grown_bytes": grown}


def main() -> None:
    seed, count = (int(text) for text in [*sys.argv[1:], "1", "100000"][:2])
    logging.disable(logging.CRITICAL)
    for role, mode in (("server", "async"), ("server", "geo"), ("server", "sync"), ("coordinator", "async")):
        target = Target(role, mode)
        began = time.monotonic()
        print(role, mode, fuzz(target, seed, count), f"{time.monotonic() - began:.1f} s", flush=True)
        target.close()


if __name__ == "__main__":
    main()
