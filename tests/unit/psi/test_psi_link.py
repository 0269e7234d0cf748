"""The link over the parties' transport, within this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from flps.config.job import Terms as LinkTerms
from flps.config.types import Network
from flps.errors import NeverCameUp, PeerLost, ProtocolError
from flps.message import Piece
from flps.psi import curve
from flps.psi.link import WINDOW, PartyLink, open_link
from flps.psi.message import Blinded, Closing, Stop
from flps.psi.protocol import Side, Terms
from flps.psi.run import Here, run
from flps.split.parties import ServerConfig, seats_of
from flps.transport.sockets import Carrier

pytest.importorskip("cryptography")
_RUNS = count()
QUICK = Network(heartbeat_s=0.1, retry_s=0.1, lease_s=1.0, start_timeout_s=0.3)


def link_of(role: Any, run_id: str, network: Network = QUICK, incarnation: int = 1) -> PartyLink:
    other = "follower" if role == "leader" else "leader"
    configs = [ServerConfig(name, "loopback://leader") for name in (role, other)]
    seats = seats_of(configs[0], configs[1:], role, 0, use_tls=False)
    terms = LinkTerms(run_id=run_id, security="loopback", network=network, seats={"leader": 1, "follower": 1})
    return open_link(Carrier(terms, seats.own, incarnation), seats, network)


@pytest.fixture
def ends() -> Iterator[tuple[PartyLink, PartyLink]]:
    run_id = f"psi-link-{next(_RUNS)}"
    leader, follower = link_of("leader", run_id), link_of("follower", run_id)
    yield leader, follower
    leader.close(linger_s=0.0)
    follower.close(linger_s=0.0)


def receive(link: PartyLink, other: PartyLink) -> Any:
    """The next message; the other end works, too, as it would in its own process."""
    for _ in range(400):
        message = link.receive(0.005)
        if message is not None:
            return message
        other._work(0.005)
    raise AssertionError("nothing came")


def test_messages_come_whole_once_and_in_order_far_over_the_window(ends: tuple[PartyLink, PartyLink]) -> None:
    leader, follower = ends
    points = np.arange(64, dtype=np.uint8).reshape(2, 32)
    for number in range(3 * WINDOW):
        leader.send(Blinded(number, points))
        follower.send(Closing(number, "ab"))
    for number in range(3 * WINDOW):
        blinded = receive(follower, leader)
        assert (blinded.first, blinded.points.tolist()) == (number, points.tolist())
        assert receive(leader, follower) == Closing(number, "ab")
    assert leader.receive(0.0) is None


def test_two_parties_align(ends: tuple[PartyLink, PartyLink]) -> None:
    links = dict(zip(("leader", "follower"), ends, strict=True))
    found: dict[str, Any] = {}

    def play(role: Any, first: int) -> None:
        points = curve.to_points([f"id {n}" for n in range(first, first + 300)])
        with links[role] as link:
            found[role] = run(Side(Terms(role, chunk_rows=8), points), link, Here(), 1, timeout_s=20)

    thread = threading.Thread(target=play, args=("follower", 200))
    thread.start()
    play("leader", 0)
    thread.join()
    assert found["leader"].digest == found["follower"].digest
    assert np.array_equal(found["leader"].rows, found["follower"].rows + 200)
    assert len(found["leader"].rows) == 100


def test_a_peer_that_never_comes_and_one_that_ends(ends: tuple[PartyLink, PartyLink]) -> None:
    leader, follower = ends
    with pytest.raises(NeverCameUp, match=r"follower did not come up within 0\.3 s"):
        leader.receive(5.0)
    follower.send(Stop("no"))
    assert receive(leader, follower) == Stop("no")
    thread = threading.Thread(target=follower.close, args=("ConfigError: wrong table",))
    thread.start()
    with pytest.raises(PeerLost, match="follower has ended because of ConfigError: wrong table before"):
        leader.receive(5.0)
    leader.close()
    thread.join()


def test_what_was_sent_last_comes_before_the_link_is_closed(ends: tuple[PartyLink, PartyLink]) -> None:
    leader, follower = ends
    follower.send(Closing(0, ""))
    assert receive(leader, follower) == Closing(0, "")
    leader.send(Stop("last words"))
    thread = threading.Thread(target=leader.close)
    thread.start()
    assert receive(follower, follower) == Stop("last words")
    follower.close()
    thread.join()


def test_a_peer_that_was_started_again_ends_the_alignment() -> None:
    run_id = f"psi-link-{next(_RUNS)}"
    leader, follower = link_of("leader", run_id), link_of("follower", run_id)
    follower.send(Closing(0, ""))
    assert receive(leader, follower) == Closing(0, "")
    follower._wire.close()
    again = link_of("follower", run_id, incarnation=2)
    again.send(Closing(0, ""))
    with pytest.raises(PeerLost, match=r"follower was started again.*anew"):
        receive(leader, again)
    leader.close(linger_s=0.0)
    again.close(linger_s=0.0)


@pytest.mark.parametrize("name", ["psi", "weights"])
def test_something_else_than_an_alignment_is_refused(ends: tuple[PartyLink, PartyLink], name: str) -> None:
    leader, follower = ends
    follower._line.append(Piece("", name, "u1", (3,), (np.zeros(3, np.uint8),)))
    with pytest.raises(ProtocolError, match="no message" if name == "psi" else "sends something else"):
        receive(leader, follower)
