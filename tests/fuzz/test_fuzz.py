"""No message does harm: made by a seeded fuzzer, by hypothesis, in this process and over sockets."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.scripts import load_script

fuzz = load_script(Path(__file__).with_name("fuzz.py"))
MIB = 1 << 20
TARGETS = [("server", "async"), ("server", "geo"), ("server", "sync"), ("coordinator", "async")]


@pytest.fixture
def make_target() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*said: str) -> Any:
        made.append(fuzz.Target(*said))
        return made[-1]

    yield make
    for target in made:
        target.close()


@pytest.mark.parametrize(("role", "mode"), TARGETS)
def test_some_thousand_messages_do_no_harm(role: str, mode: str, make_target: Any) -> None:
    figures = fuzz.fuzz(make_target(role, mode), seed=7, count=4000, look_every=5)
    assert 0.5 < figures["rejected"] / figures["messages"] < 1.0  # some are carried out: it is not all noise


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("role", "mode"), TARGETS)
def test_a_million_messages_do_no_harm(
    role: str, mode: str, make_target: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)  # pytest keeps what is logged
    figures = fuzz.fuzz(make_target(role, mode), seed=11, count=250_000)
    assert figures["grown_bytes"] < 32 * MIB
    print(figures)


def over_socket(target: Any, seed: int, count: int) -> None:
    """The same messages from a peer at a real socket, while the worker that behaves is answered."""
    mutator = fuzz.Mutator(seed, fuzz.corpus(target.job.run_id))
    before = target.listener.rejected
    with zmq.Context.instance().socket(zmq.DEALER) as peer, np.errstate(over="ignore", invalid="ignore"):
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.RCVHWM, 10)
        peer.connect(target.job.servers[0] if target.role == "server" else target.job.coordinator)
        for number in range(count):
            peer.send_multipart(mutator.next())
            target.step(0.0)
            if number % (count // 10) == 0:
                assert target.is_well()
        assert target.is_well()
    assert target.listener.rejected > before


@pytest.mark.parametrize(("role", "count"), [("server", 2000), ("coordinator", 2000),
                         pytest.param("server", 40_000, marks=pytest.mark.slow)])  # fmt: skip
def test_messages_over_a_socket_do_no_harm(role: str, count: int, make_target: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        over_socket(make_target(role, "async", "unix", f"ipc://{folder}/x"), seed=3, count=count)


# --- hypothesis ------------------------------------------------------------------------------------------------------

ODD = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
TREE = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=5)  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module", params=TARGETS[:2] + TARGETS[3:], ids=lambda one: "-".join(one))
def standing(request: pytest.FixtureRequest) -> Iterator[Any]:
    target = fuzz.Target(*request.param)
    yield target
    target.close()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every place in a header."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for place, inner in items:
        yield (*path, place)
        yield from places(inner, (*path, place))


_lives = iter(range(10, 2**40))


@given(chance=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_place_of_any_valid_message_may_hold_anything(standing: Any, chance: st.DataObject) -> None:
    frames = list(chance.draw(st.sampled_from(fuzz.corpus(standing.job.run_id))))
    said = msgspec.msgpack.decode(frames[0])
    said[3] = next(_lives)
    path = chance.draw(st.sampled_from([place for place in places(said) if place[0] != 3]))
    inner = said
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = chance.draw(TREE)
    frames[0] = msgspec.msgpack.encode(said)
    if len(frames) > 1 and chance.draw(st.booleans()):
        place = chance.draw(st.integers(1, len(frames) - 1))
        frames[place] = chance.draw(st.binary(min_size=len(frames[place]), max_size=len(frames[place])))
    before, rejected = standing.holding(), standing.listener.rejected
    with np.errstate(over="ignore", invalid="ignore"):
        standing.feed(frames)
    if standing.listener.rejected > rejected:
        assert standing.holding() == before
    assert standing.is_well()


def test_the_same_seed_makes_the_same_messages() -> None:
    valid = fuzz.corpus("run")
    one, two = fuzz.Mutator(5, valid), fuzz.Mutator(5, valid)
    assert [one.next() for _ in range(500)] == [two.next() for _ in range(500)]
