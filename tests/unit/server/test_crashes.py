"""A server may die at any moment: what it acknowledged is kept, what it was told twice counts once."""

from __future__ import annotations

import resource
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import ResourceError
from flps.message import Body, Changes, Declare, Declared, Detach, Look, Pull, Push, Rows, Start, Update, Window
from flps.table import Adam, Initializer, Sgd, Sum, TableSpec

NewWorld = Callable[..., Any]  # see conftest.py
Script = Generator[Sequence[Body], list[Body], None]
KEYS, WORKERS = 30, 3
CRASHES = st.lists(st.integers(1, 250), max_size=8)
ADAM = TableSpec(name="rows", kind="sparse", dim=2, rule=Adam(0.1), bound=None, init=Initializer("normal", 1.0))
DENSE = TableSpec(name="dense", kind="dense", dim=3, rule=Sgd(0.5))
SUMS = TableSpec(name="rows", kind="sparse", dim=1, rule=Sum(), bound=None, init=Initializer("zeros"), dtype="float64")


def trainer(rank: int, mode: str, epochs: int = 2, steps: int = 3) -> Script:
    """Declares, sends gradients that depend on what it was answered, looks now and then, leaves."""
    rng = np.random.default_rng(rank)
    (answer,) = yield [Declare(declared(ADAM, DENSE))]
    assert isinstance(answer, Declared)
    if answer.empty:
        yield [Start((Push(1, None, np.arange(3, dtype=np.float32)),))]
    seen = np.zeros((4, 2), np.float32)
    for epoch in range(epochs):
        count = steps + rank if mode == "sync" else steps
        for step in range(count):
            keys = np.unique(rng.integers(0, KEYS, 4).astype(np.uint64))
            gradient = rng.normal(size=(keys.size, 2)).astype(np.float32) + seen.mean()
            pushes = (Push(0, keys, gradient), Push(1, None, rng.normal(size=3).astype(np.float32)))
            body: Body = Update(epoch, step, 1 + rank, step == count - 1, pushes, (Pull(0, keys), Pull(1, None)))
            questions: list[Body] = [Look((Pull(0, keys + np.uint64(KEYS)),))] if rng.random() < 0.5 else []
            *_, rows = yield [*questions, body]
            assert isinstance(rows, Rows)
            seen = rows.values[0]
        yield []
    yield [Detach()]


def adder(rank: int, steps: int, sent: dict[int, float]) -> Script:
    """async: pushes whole numbers, whose sum does not depend on their order; keeps up to three requests under way."""
    rng = np.random.default_rng(rank)
    yield [Declare(declared(SUMS))]
    for step in range(steps):
        bodies: list[Body] = []
        for part in range(rng.integers(1, 4)):
            if rng.random() < 0.3:
                for key in range(KEYS):
                    sent.setdefault(key, 0.0)  # who asks for a row makes it
                bodies.append(Look((Pull(0, np.arange(KEYS, dtype=np.uint64)),)))
                continue
            keys = np.unique(rng.integers(0, KEYS, 5).astype(np.uint64))
            values = rng.integers(1, 100, (keys.size, 1)).astype(np.float64)
            for key, value in zip(keys.tolist(), values[:, 0].tolist(), strict=True):
                sent[key] = sent.get(key, 0.0) + value
            bodies.append(Update(0, 3 * step + part, 1, False, (Push(0, keys, values),), ()))
        yield bodies
    yield [Detach()]


def geo_trainer(rank: int, steps: int, mirrors: dict[int, dict[int, float]], sent: dict[int, float]) -> Script:
    """geo: deltas, and a mirror of the servers' rows that is kept by what the answers say has changed."""
    rng = np.random.default_rng(rank)
    yield [Declare(declared(SUMS))]
    mirror, cursors = mirrors.setdefault(rank, {}), {0: 0}
    for step in range(steps):
        keys = np.unique(rng.integers(0, KEYS, 5).astype(np.uint64))
        values = rng.integers(1, 100, (keys.size, 1)).astype(np.float64)
        (answer,) = yield [Window(0, 8, step == steps - 1, (Push(0, keys, values),), cursors)]
        assert isinstance(answer, Changes)
        for key, value in zip(keys.tolist(), values[:, 0].tolist(), strict=True):
            mirror[key] = mirror.get(key, 0.0) + value * answer.weight
            sent[key] = sent.get(key, 0.0) + value * answer.weight
        cursors = take(mirror, answer)
    yield []
    for _ in range(2):  # all have sent what they had to send
        (answer,) = yield [Window(0, 0, False, (), cursors)]
        assert isinstance(answer, Changes)
        cursors = take(mirror, answer)


def take(mirror: dict[int, float], answer: Changes) -> dict[int, int]:
    for push in answer.changed:
        assert push.keys is not None
        mirror.update(zip(push.keys.tolist(), push.values[:, 0].tolist(), strict=True))
    return answer.cursors


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=60)
@given(crashes=CRASHES, seed=st.integers(0, 1000), durability=st.sampled_from(["log", "log+fsync"]))
def test_sync_is_bit_equal_to_the_run_without_crashes(
    crashes: list[int], seed: int, durability: Any, new_world: NewWorld
) -> None:
    results = []
    for points in ([], crashes):
        scripts = [trainer(rank, "sync") for rank in range(WORKERS)]
        world = new_world(scripts, "sync", durability)
        world.play(seed, points, power_fails=durability == "log+fsync")
        results.append(world.tables())
        assert world.service.finished
    assert same(*results)


@settings(max_examples=30)
@given(crashes=CRASHES, seed=st.integers(0, 1000))
def test_async_of_one_worker_is_bit_equal(crashes: list[int], seed: int, new_world: NewWorld) -> None:
    results = []
    for points in ([], crashes):
        world = new_world([trainer(0, "async", steps=8)], "async")
        world.play(seed, points)
        results.append(world.tables())
    assert same(*results)


@settings(max_examples=60)
@given(crashes=CRASHES, seed=st.integers(0, 1000), durability=st.sampled_from(["log", "log+fsync"]))
def test_async_counts_every_push_once(crashes: list[int], seed: int, durability: Any, new_world: NewWorld) -> None:
    sent: dict[int, float] = {}
    world = new_world([adder(rank, 5, sent) for rank in range(WORKERS)], "async", durability)
    world.play(seed, crashes, power_fails=durability == "log+fsync")
    held = world.tables()
    assert dict(zip(held["rows.keys"].tolist(), held["rows.values"][:, 0].tolist(), strict=True)) == sent


@settings(max_examples=60)
@given(crashes=CRASHES, seed=st.integers(0, 1000))
def test_geo_counts_every_delta_once_and_tells_everybody(crashes: list[int], seed: int, new_world: NewWorld) -> None:
    mirrors: dict[int, dict[int, float]] = {}
    sent: dict[int, float] = {}
    scripts = [geo_trainer(rank, 6, mirrors, sent) for rank in range(2)]
    world = new_world(scripts, "geo", geo_weights="uniform")  # 1/2: sums are exact
    world.play(seed, crashes)
    held = world.tables()
    rows = dict(zip(held["rows.keys"].tolist(), held["rows.values"][:, 0].tolist(), strict=True))
    assert rows == sent
    assert all(mirror == rows for mirror in mirrors.values())


@pytest.mark.slow  # every day: test_geo_with_a_short_journal
@settings(max_examples=60)
@given(crashes=CRASHES, seed=st.integers(0, 1000), durability=st.sampled_from(["log", "log+fsync"]))
def test_a_short_journal_is_as_good(crashes: list[int], seed: int, durability: Any, new_world: NewWorld) -> None:
    results = []
    for points in ([], crashes):
        scripts = [trainer(rank, "sync") for rank in range(WORKERS)]
        world = new_world(scripts, "sync", durability, 2000 if points else 2**40)
        world.play(seed, points, power_fails=durability == "log+fsync")
        results.append(world.tables())
    assert same(*results)


def test_a_journal_stays_short(new_world: NewWorld) -> None:
    world = new_world([trainer(rank, "sync", epochs=20) for rank in range(WORKERS)], "sync", "log", 4000)
    world.play(1)
    assert world.bases_taken > 5
    assert world.journal.bytes < 3 * 4000
    names = sorted(path.name.partition("-")[0] for path in (world.folder / "journal").iterdir())
    assert names.count("base") <= 2
    assert names.count("tables") <= 2


@settings(max_examples=60)
@given(crashes=CRASHES, seed=st.integers(0, 1000))
def test_geo_with_a_short_journal(crashes: list[int], seed: int, new_world: NewWorld) -> None:
    mirrors: dict[int, dict[int, float]] = {}
    sent: dict[int, float] = {}
    scripts = [geo_trainer(rank, 6, mirrors, sent) for rank in range(2)]
    world = new_world(scripts, "geo", "log", 600, geo_weights="uniform")
    world.play(seed, crashes)
    held = world.tables()
    rows = dict(zip(held["rows.keys"].tolist(), held["rows.values"][:, 0].tolist(), strict=True))
    assert rows == sent
    assert all(mirror == rows for mirror in mirrors.values())


def test_a_full_disk_loses_nothing_that_was_acknowledged(new_world: NewWorld) -> None:
    """The server ends with exit code 6; once there is room again, it goes on from its journal."""
    results = []
    for limit in (None, 3000):
        world = new_world([trainer(rank, "sync") for rank in range(WORKERS)], "sync")
        if limit is not None:
            with small_files(limit), pytest.raises(ResourceError, match="Make room there") as caught:
                world.play(5)
            assert caught.value.exit_code == 6
            world.die()
        world.play(5)
        results.append(world.tables())
    assert same(*results)


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Files may not grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_every_single_point_of_a_run(new_world: NewWorld) -> None:
    """Not by chance: one run for each place at which a process can die."""
    scripts = [trainer(rank, "sync", epochs=1, steps=2) for rank in range(2)]
    undisturbed = new_world(scripts, "sync")
    undisturbed.play(3)
    for point in range(1, undisturbed.passed + 1):
        world = new_world([trainer(r, "sync", epochs=1, steps=2) for r in range(2)], "sync")
        world.play(3, [point])
        assert world.crashes == 1
        assert same(world.tables(), undisturbed.tables()), point


def declared(*specs: TableSpec) -> tuple[dict[str, Any], ...]:
    return tuple(msgspec.to_builtins(spec) for spec in specs)
