"""geo's algebra: what is sent, what comes back, and what stays; the servers are played by plain tables."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.table import Adagrad, Adam, DenseTable, Sgd, SparseTable, Sum, TableSpec
from flps.table.replica import DenseReplica, SparseReplica, servers_spec

SPEC = TableSpec(name="items", kind="sparse", dim=3, rule=Adam(0.05), seed=2)
DENSE = TableSpec(name="dense", kind="dense", dim=5, rule=Adam(0.05))
ALL = np.arange(20, dtype=np.uint64)


def exchange(replica: SparseReplica, servers: SparseTable, weight: float) -> Any:
    """One window of one worker; returns the keys that it sent."""
    keys, delta = replica.delta()
    applied = delta * np.float32(weight)
    servers.push(keys, applied, unique=True)
    replica.sent(keys, applied)
    return keys


def train(replica: SparseReplica, rng: np.random.Generator, steps: int = 3) -> None:
    for _ in range(steps):
        replica.push(rng.integers(0, 20, 8).astype(np.uint64), rng.normal(size=(8, 3)).astype(np.float32))


def test_servers_add_whatever_the_rule() -> None:
    assert servers_spec(SPEC) == msgspec.structs.replace(SPEC, rule=Sum())


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.5, 0.1]))
@settings(max_examples=25, deadline=None)
def test_what_a_worker_knows_of_the_servers_is_what_they_hold_bit_for_bit(seed: int, weight: float) -> None:
    replica, servers, rng = SparseReplica(SPEC), SparseTable(servers_spec(SPEC)), np.random.default_rng(seed)
    for _ in range(4):
        train(replica, rng)
        exchange(replica, servers, weight)
        assert np.array_equal(replica.servers_view.pull(ALL), servers.pull(ALL))


def test_one_worker_trains_as_if_alone_and_the_servers_follow() -> None:
    """The own copy has the bits of plain training; the servers' copy differs by the rounding of x - base alone."""
    replica, servers, alone = SparseReplica(SPEC), SparseTable(servers_spec(SPEC)), SparseTable(SPEC)
    rng = np.random.default_rng(5)
    for _ in range(40):
        keys = rng.permutation(20)[:8].astype(np.uint64)
        pushed = rng.normal(size=(8, 3)).astype(np.float32)
        replica.push(keys, pushed, unique=True)
        alone.push(keys, pushed)
        exchange(replica, servers, 1.0)
    assert np.array_equal(replica.pull(ALL), alone.pull(ALL))
    assert servers.pull(ALL) == pytest.approx(alone.pull(ALL), abs=2e-7)


def test_numbers_that_have_exact_differences_are_equal_bit_for_bit() -> None:
    spec = msgspec.structs.replace(SPEC, rule=Sgd(0.25), init=msgspec.structs.replace(SPEC.init, kind="zeros"))
    replica, servers = SparseReplica(spec), SparseTable(servers_spec(spec))
    for step in range(1, 9):
        replica.push(ALL, np.full((20, 3), step, np.float32))
        exchange(replica, servers, 1.0)
        assert np.array_equal(servers.pull(ALL), replica.pull(ALL))


def test_only_rows_trained_since_the_last_window_are_sent() -> None:
    replica, servers = SparseReplica(SPEC), SparseTable(servers_spec(SPEC))
    replica.pull(ALL)
    assert exchange(replica, servers, 1.0).size == 0
    replica.push(np.array([9, 4], np.uint64), np.ones((2, 3), np.float32))
    replica.push(np.array([4, 7], np.uint64), np.ones((2, 3), np.float32))
    assert sorted(exchange(replica, servers, 1.0).tolist()) == [4, 7, 9]
    assert exchange(replica, servers, 1.0).size == 0


def test_what_the_weight_kept_back_stays_in_the_own_copy_and_goes_later() -> None:
    spec = msgspec.structs.replace(SPEC, rule=Sgd(1.0), dtype="float64")
    replica, servers = SparseReplica(spec), SparseTable(servers_spec(spec))
    key, first = np.array([3], np.uint64), SparseTable(spec).pull(np.array([3], np.uint64))
    replica.push(key, np.full((1, 3), -8.0))  # the own row goes up by 8
    keys, delta = replica.delta()
    servers.push(keys, delta * 0.25)
    replica.sent(keys, delta * 0.25)
    assert servers.pull(key) == pytest.approx(first + 2)
    assert replica.pull(key) == pytest.approx(first + 8)
    replica.push(key, np.full((1, 3), -1.0))
    assert replica.delta()[1] == pytest.approx(np.full((1, 3), 6.0 + 1.0))  # 8 - 2 kept back, and 1 new


def test_deltas_of_two_workers_arrive_at_both() -> None:
    servers, workers = SparseTable(servers_spec(SPEC)), [SparseReplica(SPEC), SparseReplica(SPEC)]
    rng = np.random.default_rng(0)
    for _ in range(3):
        for worker in workers:
            train(worker, rng)
        sent = [exchange(worker, servers, 0.5) for worker in workers]
        before = [worker.pull(ALL) - worker.servers_view.pull(ALL) for worker in workers]
        for worker, others in zip(workers, reversed(sent), strict=True):
            worker.receive(others, servers.pull(others))
        for worker, kept_back in zip(workers, before, strict=True):
            assert np.array_equal(worker.servers_view.pull(ALL), servers.pull(ALL))
            assert worker.pull(ALL) - servers.pull(ALL) == pytest.approx(kept_back, abs=1e-6)


def test_received_rows_move_the_own_copy_but_are_not_sent_back() -> None:
    replica = SparseReplica(SPEC)
    keys = np.array([2, 11], np.uint64)
    others = np.full((2, 3), 5, np.float32)
    replica.receive(keys, others)
    assert np.array_equal(replica.servers_view.pull(keys), others)
    assert replica.pull(keys) == pytest.approx(others)
    assert replica.delta()[0].size == 0


def test_dense_replica_is_the_same_algebra() -> None:
    first = np.arange(5, dtype=np.float32)
    replica, servers, alone = DenseReplica(DENSE, first), first.copy(), DenseTable(DENSE)
    alone.start_with(first)
    rng = np.random.default_rng(1)
    for _ in range(10):
        g = rng.normal(size=5).astype(np.float32)
        replica.push(g)
        alone.push(g)
        applied = replica.delta() * np.float32(0.5)
        servers += applied
        replica.sent(applied)
        assert np.array_equal(replica.servers_view, servers)
    assert np.array_equal(replica.own_view, alone.pull())
    kept_back = replica.delta()
    others = servers + np.float32(1)
    replica.receive(others)
    assert np.array_equal(replica.servers_view, others)
    assert replica.delta() == pytest.approx(kept_back, abs=1e-6)


def test_dense_replica_takes_one_servers_block() -> None:
    replica = DenseReplica(DENSE, np.zeros(5, np.float32))
    replica.receive(np.array([7, 8], np.float32), np.array([3, 4], np.uint64))
    assert replica.servers_view.tolist() == [0, 0, 0, 7, 8]
    assert replica.own_view.tolist() == [0, 0, 0, 7, 8]


def test_first_values_are_not_shared_with_the_caller() -> None:
    first = np.zeros(5, np.float32)
    replica = DenseReplica(msgspec.structs.replace(DENSE, rule=Adagrad()), first)
    replica.push(np.ones(5, np.float32))
    replica.sent(np.ones(5, np.float32))
    assert not first.any()
