"""Two parties in two threads, and who multiplies for them."""

from __future__ import annotations

import queue
import tracemalloc
from collections import deque
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest

from flps.errors import ConfigError, PeerLost, ProtocolError, ResourceError
from flps.psi import curve
from flps.psi.message import Blinded, Greeting, Message, Stop
from flps.psi.protocol import Side, Terms
from flps.psi.run import Here, Pipe, cores_here, pipes, run, together, workers

pytest.importorskip("cryptography")


def side(role: Any, count: int, first: int = 0, **terms: Any) -> Side:
    return Side(Terms(role, **terms), curve.to_points([f"id {n}" for n in range(first, first + count)]))


class Keeping(Pipe):
    """A pipe that keeps what is sent through it."""

    def __init__(self, end: Pipe) -> None:
        super().__init__(end._inbox, end._outbox)
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)
        super().send(message)


class Scripted:
    """A peer that says certain things and then nothing more."""

    def __init__(self, *messages: Message) -> None:
        self._messages = deque(messages)
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def receive(self, timeout_s: float) -> Message | None:
        return self._messages.popleft() if self._messages else None


@pytest.mark.parametrize("reveal", ["both", "leader"])
def test_two_threads_agree(reveal: str) -> None:
    leader, follower = side("leader", 300, reveal=reveal, chunk_rows=17), side("follower", 200, 150, reveal=reveal)
    here, there = together(leader, follower, Here(), timeout_s=20)
    assert here.matched == 150
    assert here.digest == there.digest
    own = here.rows[here.rows >= 0]
    assert np.array_equal(own, there.rows[here.rows >= 0] + 150)


def test_processes_multiply_as_this_one_does() -> None:
    points = curve.to_points(["a", "b", "c"])
    key = curve.new_key()
    with workers(1) as executor:
        assert executor.submit(curve.multiply, key, points.tobytes()).result(30) == curve.multiply(
            key, points.tobytes()
        )


def test_memory_under_way_is_bounded_by_the_chunks_given_out() -> None:
    given: list[int] = []

    class Slow(Executor):
        """Does one chunk when it is asked whether one is done, and counts how many wait."""

        def __init__(self) -> None:
            self.waiting: deque[Any] = deque()

        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Any:
            slow = self

            class Later(Future[bytes]):
                def done(self) -> bool:
                    if not super().done():
                        slow.waiting.remove(self)
                        self.set_result(call(*args, **kwargs))
                    return True

            future = Later()
            self.waiting.append(future)
            given.append(len(self.waiting))
            return future

    leader, follower = side("leader", 200, chunk_rows=4), side("follower", 200, chunk_rows=4)
    here_end, there_end = pipes()
    keeping = Keeping(here_end)
    together(leader, follower, Slow(), 1, 20, lambda: (keeping, there_end))
    assert max(given) <= 2 * 3  # two parties, three chunks a core
    assert max(len(message.points) for message in keeping.sent if isinstance(message, Blinded)) == 4


def test_silence_has_a_deadline() -> None:
    with pytest.raises(PeerLost, match=r"nothing for 0\.05 s .* before the peer's greeting"):
        run(side("leader", 3), Scripted(), Here(), 1, timeout_s=9, start_timeout_s=0.05)
    greeting = Greeting(1, "follower", "both", 5, 4096)
    with pytest.raises(PeerLost, match=r"nothing for 0\.05 s .*3 of 3 own ids blinded, 0 of them back"):
        run(side("leader", 3), Scripted(greeting), Here(), 1, timeout_s=0.05, start_timeout_s=9)


def test_who_refuses_tells_the_peer_why() -> None:
    link = Scripted(Greeting(1, "leader", "both", 5, 4096))
    with pytest.raises(ProtocolError, match="both parties are the leader"):
        run(side("leader", 3), link, Here(), 1)
    assert isinstance(link.sent[-1], Stop)
    with pytest.raises(ProtocolError, match="reveal is"):
        together(side("leader", 3, reveal="both"), side("follower", 3, reveal="leader"), Here(), timeout_s=20)


def test_a_point_of_low_order_is_refused_by_the_worker_too() -> None:
    link = Scripted(Greeting(1, "follower", "both", 1, 9), Blinded(0, np.zeros((1, 32), np.uint8)))
    with pytest.raises(ProtocolError, match="low order"):
        run(side("leader", 3), link, Here(), 1)


def test_a_worker_that_dies_is_not_the_peers_fault() -> None:
    class Broken(Executor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Any:
            future: Future[bytes] = Future()
            future.set_exception(BrokenProcessPool("gone"))
            return future

    with pytest.raises(ResourceError, match="process that multiplies"):
        run(side("leader", 3), Scripted(Greeting(1, "follower", "both", 1, 9)), Broken(), 1)


def test_cores() -> None:
    assert cores_here() >= 1
    with pytest.raises(ConfigError, match="cores"), workers(0):
        pass


def test_a_pipe_waits_only_so_long() -> None:
    box: queue.Queue[Message] = queue.Queue()
    assert Pipe(box, box).receive(0.0) is None


@pytest.mark.parametrize("reveal", ["both", "leader"])
def test_a_row_takes_some_hundred_bytes(reveal: str) -> None:
    """1 M x 1 M within 1 GB a party leaves 1000 bytes a row, of which ids and interpreters want their part."""
    rows = 30_000

    class Adding(Here):
        """In the place of the curve: adding bits is quick and commutes, too."""

        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Any:
            key, points = (np.frombuffer(one, np.uint8).reshape(-1, 32) for one in args)
            return super().submit((points ^ key).tobytes)

    points = np.frombuffer(np.random.default_rng(0).bytes(32 * 2 * rows), np.uint8).reshape(-1, 32) & 0x7F
    keys = [bytes([number] * 31 + [0]) for number in (1, 2)]
    halves = points[:rows], points[rows // 2 : rows // 2 + rows]
    tracemalloc.start()
    try:
        parties = [
            Side(Terms(role, reveal), mine, key)  # type: ignore[arg-type]
            for role, mine, key in zip(("leader", "follower"), halves, keys, strict=True)
        ]
        here, there = together(*parties, Adding(), timeout_s=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert here.matched == rows // 2
    assert here.digest == there.digest
    assert peak / (2 * rows) < 500, f"{peak / (2 * rows):.0f} bytes a row"
