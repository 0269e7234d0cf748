"""Any number of servers is one server, bit for bit; refusals are counted and survived.

Servers are real table services behind a connection that encodes and decodes every message but has no socket.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.config.types import Config, Runner
from flps.errors import FlpsError, PeerLost, Refused
from flps.frames import Limits, decode, encode
from flps.membership import Member
from flps.message import VERSION, Body, Detach, Envelope, Pull, Push, Refusal
from flps.remote import Servers
from flps.server.service import TableService
from flps.server.store import Store
from flps.table import Adagrad, Adam, Initializer, Sgd, Sum, TableSpec
from flps.table.replica import DenseReplica, SparseReplica, servers_spec
from flps.transport.listener import Request, Ticket

ITEMS = TableSpec(name="items", kind="sparse", dim=2, rule=Adam(0.05), bound=40, seed=7)
ANY = TableSpec(name="any", kind="sparse", dim=3, rule=Adagrad(0.1), seed=8, init=Initializer("uniform", 0.5))
DENSE = TableSpec(name="dense", kind="dense", dim=7, rule=Adam(0.05))
FIRST = np.linspace(-1, 1, 7, dtype=np.float32)


class Wire:
    """One server, and the answers that have come from it."""

    def __init__(self, service: TableService) -> None:
        self.service = service
        self.answers: dict[Ticket, Body] = {}

    def carry_out(self, ticket: Ticket, body: Body) -> None:
        try:
            for other, answer in self.service.handle(Request(ticket, _through(body)), 0.0):
                self.answers[other] = _through(answer)
        except Refused as error:
            self.answers[ticket] = Refusal(str(error))


def _through(body: Body) -> Body:
    """As it arrives at the other end."""
    frames = [bytes(np.ascontiguousarray(f)) if isinstance(f, np.ndarray) else f for f in encode(Envelope(VERSION, "r", "w:0", 1, 1, body))]  # fmt: skip  # noqa: E501
    return decode(frames, Limits()).body


class Direct:
    """A connection without a socket."""

    def __init__(self, wire: Wire, rank: int) -> None:
        self.bytes_in = self.bytes_out = 0
        self._wire = wire
        self._member = Member("worker", rank)
        self._sequence = 0

    def send(self, body: Body) -> int:
        self._sequence += 1
        self._wire.carry_out(Ticket(self._member, 1, self._sequence), body)
        return self._sequence

    def wait(self, number: int, timeout_s: float | None = None) -> Body:
        answer = self._wire.answers.pop(Ticket(self._member, 1, number))
        if isinstance(answer, Refusal):
            raise Refused(answer.reason)
        return answer

    def ask(self, body: Body, timeout_s: float | None = None) -> Body:
        return self.wait(self.send(body), timeout_s)

    def close(self) -> None:
        """Nothing to hang up."""


def federation(servers: int, workers: int = 1, mode: Any = "async", folder: Path = Path("unused")) -> list[Servers]:
    """What each worker sees of fresh servers with the three tables."""
    config = Config(runner=Runner(sync_mode=mode))
    wires = [
        Wire(TableService(Store(rank, servers, 1000), config, workers, folder, frozenset)) for rank in range(servers)
    ]
    seen = [Servers([Direct(wire, rank) for wire in wires], 3, 1.0) for rank in range(workers)]  # type: ignore[misc]
    for worker in seen:
        tables = [ITEMS, ANY, DENSE]
        worker.declare([servers_spec(spec) for spec in tables] if mode == "geo" else tables, {2: FIRST})
    return seen


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def everything(worker: Servers) -> list[Any]:
    asked = [Pull(0, np.arange(40, dtype=np.uint64)), Pull(1, keys(3, 2**64 - 1, 0, 3, 2**63)), Pull(2, None)]
    return worker.rows(worker.look(asked))


def some_keys(rng: np.random.Generator, bound: int | None) -> Any:
    picked = rng.permutation(40)[: rng.integers(0, 20)].astype(np.uint64)
    return picked if bound else np.concatenate([picked, keys(2**64 - 1, 2**63)])


def some_pushes(rng: np.random.Generator) -> list[Push]:
    pushes = []
    for number, spec in enumerate((ITEMS, ANY)):
        picked = some_keys(rng, spec.bound)
        pushes.append(Push(number, picked, rng.normal(size=(picked.size, spec.dim)).astype(np.float32)))
    return [*pushes, Push(2, None, rng.normal(size=7).astype(np.float32))]


def equal(one: list[Any], two: list[Any]) -> bool:
    return len(one) == len(two) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, two, strict=True))  # fmt: skip  # noqa: E501


@given(st.integers(0, 2**31), st.sampled_from([2, 3, 8]))
@settings(max_examples=12, deadline=None)
def test_steps_with_one_server_or_several_are_equal_bit_for_bit(seed: int, servers: int) -> None:
    (one,), (several,) = federation(1), federation(servers)
    assert equal(everything(one), everything(several))
    rng = np.random.default_rng(seed)
    for step in range(5):
        pushes = some_pushes(rng)
        asked = [Pull(2, None), Pull(0, some_keys(rng, 40)), Pull(1, some_keys(rng, None))]
        rows = [worker.rows(worker.update(0, step, 4, False, pushes, asked)) for worker in (one, several)]
        assert equal(*rows)
    assert equal(everything(one), everything(several))


@given(st.integers(0, 2**31), st.sampled_from([2, 3]))
@settings(max_examples=10, deadline=None)
def test_sync_steps_of_two_workers_are_equal_bit_for_bit(seed: int, servers: int) -> None:
    federations = [federation(1, 2, "sync"), federation(servers, 2, "sync")]
    rng = np.random.default_rng(seed)
    for step in range(4):
        pushes, samples = [some_pushes(rng), some_pushes(rng)], rng.integers(1, 9, 2)
        asked = [Pull(0, some_keys(rng, 40)), Pull(2, None)]
        fetched = []
        for workers in federations:
            pending = [
                worker.update(0, step, int(samples[n]), step == 3, pushes[n], asked) for n, worker in enumerate(workers)
            ]
            fetched.append([worker.fetched(asking) for worker, asking in zip(workers, pending, strict=True)])
        for one, several in zip(*fetched, strict=True):
            assert equal(one.rows, several.rows)
            assert one.share == several.share
        assert sum(one.share for one in fetched[0]) == pytest.approx(1)
    assert equal(everything(federations[0][0]), everything(federations[1][1]))


class Trained:
    """A worker's own copies of the tables, exchanged in windows."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._sparse = [SparseReplica(ITEMS), SparseReplica(ANY)]
        self._dense = DenseReplica(DENSE, FIRST)

    def window(self, pushes: list[Push], samples: int) -> None:
        """Train by these gradients, then exchange."""
        for replica, push in zip(self._sparse, pushes, strict=False):
            assert push.keys is not None
            replica.push(push.keys, push.values)
        self._dense.push(pushes[2].values)
        deltas = [Push(n, *replica.delta()) for n, replica in enumerate(self._sparse)]
        deltas.append(Push(2, None, self._dense.delta()))
        exchanged = self._servers.window(0, samples, False, deltas, [0, 1, 2])
        for replica, delta, applied in zip(self._sparse, deltas, exchanged.applied, strict=False):
            assert delta.keys is not None
            replica.sent(delta.keys, applied)
        self._dense.sent(exchanged.applied[2])
        for push in exchanged.changed:
            if push.table == 2:
                self._dense.receive(push.values, push.keys)
            else:
                assert push.keys is not None
                self._sparse[push.table].receive(push.keys, push.values)

    def holds(self) -> list[Any]:
        """Own copies, then what it knows of the servers'."""
        asked = [np.arange(40, dtype=np.uint64), keys(3, 2**64 - 1, 0, 3, 2**63)]
        own = [replica.pull(k) for replica, k in zip(self._sparse, asked, strict=True)]
        theirs = [replica.servers_view.pull(k) for replica, k in zip(self._sparse, asked, strict=True)]
        return [*own, self._dense.own_view, *theirs, self._dense.servers_view]


@given(st.integers(0, 2**31), st.sampled_from([2, 3]))
@settings(max_examples=10, deadline=None)
def test_windows_are_equal_bit_for_bit(seed: int, servers: int) -> None:
    """What a server tells besides what it must may differ (its log is shortened by itself), what a worker has not."""
    federations = [federation(1, 2, "geo"), federation(servers, 2, "geo")]
    trained = [[Trained(worker) for worker in workers] for workers in federations]
    rng = np.random.default_rng(seed)
    for _ in range(6):
        rank, samples, pushes = int(rng.integers(0, 2)), int(rng.integers(1, 50)), some_pushes(rng)
        for workers in trained:
            workers[rank].window(pushes, samples)
        assert equal(trained[0][rank].holds(), trained[1][rank].holds())
        assert equal(trained[0][rank].holds()[3:], everything(federations[0][0]))
    assert equal(everything(federations[0][0]), everything(federations[1][1]))


def test_rows_come_in_the_order_of_the_question() -> None:
    (one,), (three,) = federation(1), federation(3)
    asked = [Pull(1, keys(9, 1, 2**64 - 1, 9, 0)), Pull(0, keys()), Pull(1, keys(1))]
    rows = three.rows(three.look(asked))
    assert [r.shape for r in rows] == [(5, 3), (0, 2), (1, 3)]
    assert np.array_equal(rows[0][0], rows[0][3])
    assert np.array_equal(rows[0][1], rows[2][0])
    assert equal(rows, one.rows(one.look(asked)))


def test_only_the_first_workers_dense_values_count() -> None:
    (worker,) = federation(3)
    assert np.array_equal(everything(worker)[2], FIRST)
    worker.declare([ITEMS, ANY, DENSE], {2: FIRST * 2})
    assert np.array_equal(everything(worker)[2], FIRST)


def test_another_description_is_refused() -> None:
    (worker,) = federation(2)
    with pytest.raises(Refused, match="items differ"):
        worker.declare([msgspec.structs.replace(ITEMS, seed=1), ANY, DENSE], {2: FIRST})


# --- refusals --------------------------------------------------------------------------------------------------------


def nan_push(*numbers: int) -> list[Push]:
    return [Push(0, keys(*numbers), np.full((len(numbers), 2), np.nan, np.float32))]


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_refused_step_is_left_out_and_its_rows_come(mode: str) -> None:
    (worker,) = federation(1, 1, mode)
    before = everything(worker)
    fetched = worker.fetched(worker.update(0, 0, 4, False, nan_push(1), [Pull(0, keys(1))]))
    assert np.array_equal(fetched.rows[0], before[0][[1]])
    assert worker.rejected_pushes == 1
    assert equal(everything(worker), before)
    assert fetched.share == (0 if mode == "sync" else fetched.share)
    worker.fetched(worker.update(0, 1, 4, False, [Push(0, keys(1), np.ones((1, 2), np.float32))], []))
    assert not np.array_equal(everything(worker)[0], before[0])


def test_too_many_refusals_in_a_row_end_the_worker() -> None:
    (worker,) = federation(1)
    good = [Push(0, keys(1), np.ones((1, 2), np.float32))]
    for pushes in (nan_push(1), nan_push(1), good, nan_push(1), nan_push(1)):
        worker.rows(worker.update(0, 0, 4, False, pushes, []))
    with pytest.raises(FlpsError, match="3 pushes in a row were refused, the last one: table items: the push holds"):
        worker.rows(worker.update(0, 0, 4, False, nan_push(1), []))
    assert worker.rejected_pushes == 5


def test_refusals_of_one_server_of_several_are_in_a_row_too() -> None:
    """Key 1 is server 1's; servers 0 and 2 accept their empty parts, and looks in between are answered."""
    (worker,) = federation(3)
    for _ in range(2):
        worker.rows(worker.update(0, 0, 4, False, nan_push(1), []))
        everything(worker)
    with pytest.raises(FlpsError, match="3 pushes in a row"):
        worker.rows(worker.update(0, 0, 4, False, nan_push(1), []))


def test_a_refused_window_is_told() -> None:
    (worker,) = federation(2, 1, "geo")
    deltas = [Push(0, keys(1, 2), np.array([[np.nan, 1], [1, 1]], np.float32))]
    exchanged = worker.window(0, 5, False, deltas, [0])
    assert exchanged.refused
    assert exchanged.applied[0].tolist() == [[0, 0], [1, 1]]  # server 1 refused its part, server 0 took its own
    for _ in range(2):
        assert not worker.window(0, 0, False, [], [0]).refused
        if worker.rejected_pushes < 2:
            worker.window(0, 5, False, deltas, [0])
    with pytest.raises(FlpsError, match="3 pushes in a row"):
        worker.window(0, 5, False, deltas, [0])


def test_wrong_questions_are_the_callers_fault() -> None:
    (worker,) = federation(2)
    with pytest.raises(Refused, match="key 40 is out of range"):
        worker.rows(worker.look([Pull(0, keys(40))]))


def test_saving_and_leaving(tmp_path: Path) -> None:
    (worker,) = federation(3, folder=tmp_path)
    files = worker.save(4)
    assert sorted(files) == [f"shared-{rank}-of-3.safetensors" for rank in range(3)]
    assert {path.name for path in (tmp_path / "4").iterdir()} == set(files)
    worker.detach(1.0)
    with pytest.raises(Refused, match="takes no part"):
        everything(worker)
    worker.close()


def test_a_server_that_ended_with_the_good_bye_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may have been lost on the way; the other servers are told all the same."""
    (worker,) = federation(2)
    told = []

    def silent(self: Direct, body: Body, timeout_s: float | None = None) -> Body:
        told.append((body, timeout_s))
        raise PeerLost("server did not answer")

    monkeypatch.setattr(Direct, "ask", silent)
    worker.detach(1.5)
    assert told == [(Detach(), 1.5)] * 2
    assert "good-bye without an answer: server did not answer" in caplog.text


def test_sgd_is_plain_arithmetic_through_all_of_it() -> None:
    config, spec = Config(), TableSpec(name="t", kind="sparse", dim=1, rule=Sgd(0.5), init=Initializer("zeros"))
    wires = [Wire(TableService(Store(rank, 2, 9), Config(runner=msgspec.structs.replace(config.runner, sync_mode="async")), 1, Path(), frozenset)) for rank in range(2)]  # fmt: skip  # noqa: E501
    worker = Servers([Direct(wire, 0) for wire in wires], 3, 1.0)  # type: ignore[misc]
    worker.declare([spec], {})
    pushes = [Push(0, keys(5, 6), np.array([[2], [4]], np.float32))]
    (rows,) = worker.rows(worker.update(0, 0, 1, True, pushes, [Pull(0, keys(6, 5, 4))]))
    assert rows.tolist() == [[-2], [-1], [0]]


def test_a_table_larger_than_a_message_is_looked_at_in_pieces() -> None:
    config = Config(runner=Runner(sync_mode="geo"))
    limits = Limits(frame_bytes=2048, message_bytes=8192)
    wires = [
        Wire(TableService(Store(rank, 2, 10**6, limits=limits), config, 2, Path(), frozenset)) for rank in range(2)
    ]
    spec = TableSpec(name="t", kind="sparse", dim=2, rule=Sum(), init=Initializer("zeros"))
    one, two = (Servers([Direct(wire, rank) for wire in wires], 3, 1.0) for rank in range(2))  # type: ignore[misc]
    for worker in (one, two):
        worker.declare([spec], {})
    whole = np.arange(1001, dtype=np.uint64)
    one.window(0, 1, True, [Push(0, whole, np.ones((1001, 2), np.float32))], [0])
    changed = two.window(0, 0, False, [], [0]).changed
    assert sorted(key for push in changed for key in push.keys.tolist()) == whole.tolist()  # type: ignore[union-attr]
    assert len(changed) == 4, "two pieces from each server"
    assert two.window(0, 0, False, [], [0]).changed == []


def test_servers_that_do_not_tell_what_changed_end_the_worker() -> None:
    (worker,) = federation(1, mode="geo")
    with pytest.raises(FlpsError, match=r"do not tell what has changed: .*no table 9"):
        worker.window(0, 0, False, [], [9])
