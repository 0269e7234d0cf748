"""Every parcel is handed out once, in order, or its life ends: over wires that lose, double and overtake."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import ProtocolError
from flps.message import Parcel, Sign, Way
from flps.split.exchange import Exchange, Rhythm

RHYTHM = Rhythm(heartbeat_s=1.0, retry_s=0.5, lease_s=10.0)
NAMES = ("leader", "follower")


def pair(window: int = 3) -> tuple[Exchange, Exchange]:
    one, other = NAMES
    return Exchange(one, other, 1, window, RHYTHM, 0.0), Exchange(other, one, 1, window, RHYTHM, 0.0)


def carry(one: Exchange, other: Exchange, now: float, rounds: int = 4) -> None:
    """Whatever is due arrives, both ways."""
    for n in range(rounds):
        now += 0.01 * n  # what has come is not confirmed at once
        for sender, receiver in ((one, other), (other, one)):
            for said in sender.due(now):
                receiver.hear(said, now)


def met(window: int = 3) -> tuple[Exchange, Exchange]:
    one, other = pair(window)
    carry(one, other, 0.0)
    assert one.has_met
    assert other.has_met
    return one, other


def numbers(exchange: Exchange) -> list[int]:
    """The steps of all that can be taken."""
    return [item.step for item in iter(exchange.take, None) if item.step is not None]


# --- the law, by chance ----------------------------------------------------------------------------------------------


@dataclass
class World:
    """Two parties, what is under way between them, and what each life was given and has got."""

    seed: int
    window: int
    now: float = 0.0
    wires: list[list[Any]] = field(default_factory=lambda: [[], []])  # to party 0, to party 1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.parties = list(pair(self.window))
        self.put: dict[tuple[int, Any, Any], list[int]] = {}  # (sender, its life, receiver's) -> steps
        self.got: dict[tuple[int, Any, Any], list[int]] = {}
        self.count = 0

    def key(self, sender: int) -> tuple[int, Any, Any]:
        one = self.parties[sender]
        return sender, one.life, one.peer_life

    def send(self, who: int) -> None:
        party = self.parties[who]
        if party.has_met and party.has_room:
            self.count += 1
            party.put((), self.count)
            self.put.setdefault(self.key(who), []).append(self.count)

    def take(self, who: int) -> None:
        party = self.parties[who]
        item = party.take()
        if item is not None:
            self.got.setdefault((1 - who, party.peer_life, party.life), []).append(item.step)

    def transmit(self, who: int) -> None:
        self.wires[1 - who] += self.parties[who].due(self.now)

    def deliver(self, who: int, kind: str) -> None:
        wire = self.wires[who]
        if not wire:
            return
        place = self.chance.randrange(len(wire)) if kind == "overtake" else 0
        said = wire[place]
        if kind != "double":
            del wire[place]
        if kind != "lose":
            self.parties[who].hear(said, self.now)

    def restart(self, who: int) -> None:
        old = self.parties[who]
        self.parties[who] = Exchange(old.own, old.peer, old.life[0] + 1, self.window, RHYTHM, self.now)

    def renew(self, who: int) -> None:
        self.parties[who].renew("on purpose")

    def check(self) -> None:
        for key, got in self.got.items():
            assert got == self.put.get(key, [])[: len(got)], key

    def finish(self) -> None:
        """From now on nothing is lost; everything that was put in the last lives comes."""
        for _ in range(60):
            self.now += 0.3
            for who in (0, 1):
                self.transmit(who)
                while self.wires[1 - who]:
                    self.deliver(1 - who, "pass")
                for _ in range(self.window):
                    self.take(1 - who)
        self.check()
        for who in (0, 1):
            assert self.parties[who].peer_life == self.parties[1 - who].life
            assert self.got.get(self.key(who), []) == self.put.get(self.key(who), [])
            assert not self.parties[who].waits


ACTS = ["send", "take", "transmit", "pass", "lose", "double", "overtake", "tick"]


@given(
    seed=st.integers(0, 2**32),
    window=st.integers(1, 5),
    acts=st.lists(
        st.tuples(st.sampled_from([*ACTS, *ACTS, "send", "transmit", "pass", "restart", "renew"]), st.integers(0, 1)),
        max_size=120,
    ),
)
@settings(max_examples=150)
def test_each_parcel_comes_once_and_in_order(seed: int, window: int, acts: list[tuple[str, int]]) -> None:
    world = World(seed, window)
    for act, who in acts:
        match act:
            case "send" | "take" | "transmit" | "restart" | "renew":
                getattr(world, act)(who)
            case "tick":
                world.now += 0.4
            case _:
                world.deliver(who, act)
        world.check()
        assert all(len(party._round.inbox) + len(party._round.early) <= window for party in world.parties)
    world.finish()


# --- and one by one --------------------------------------------------------------------------------------------------


def test_what_is_put_before_the_others_come_waits_for_them() -> None:
    one, other = pair()
    one.put((), 7)
    assert [type(said) for said in one.due(0.0)] == [Sign]  # a hello, and nothing that would be lost
    assert one.due(0.1) == []
    carry(one, other, 0.3)
    assert numbers(other) == [7]


def test_a_sender_is_at_most_a_window_ahead() -> None:
    one, other = met(window=2)
    one.put((), 1)
    one.put((), 2)
    carry(one, other, 0.1)
    assert not one.has_room  # it has come, but nobody took it
    assert not one.waits
    assert other.take() is not None
    carry(one, other, 0.1)
    assert one.has_room


def test_nothing_is_sent_again_before_it_is_known_to_be_lost() -> None:
    """On a slow link a copy of what is still under way would only be in the way."""
    one, other = met()
    one.put((), 1)
    (parcel,) = one.due(0.1)
    again = [said for n in range(2, 100) for said in one.due(n / 10)]
    assert all(isinstance(said, Sign) and said.ping for said in again)
    for said in [parcel, *again]:
        other.hear(said, 10.0)
    carry(one, other, 10.0)
    assert numbers(other) == [1]
    assert not one.waits


def test_what_is_lost_is_sent_again_when_a_later_ping_is_answered() -> None:
    one, other = met()
    one.put((), 1)
    one.put((), 2)
    lost, kept = one.due(0.1)
    other.hear(kept, 0.1)
    assert numbers(other) == []
    carry(one, other, 0.2)
    assert numbers(other) == []  # no ping yet
    carry(one, other, 1.2)
    assert numbers(other) == [1, 2]
    other.hear(lost, 1.3)
    assert numbers(other) == []


def test_a_party_that_is_started_again_is_told_and_gets_nothing_of_before() -> None:
    one, other = met()
    one.put((), 1)
    late = one.due(0.1)
    again = Exchange("follower", "leader", 2, 3, RHYTHM, 0.2)
    carry(again, one, 0.3)
    assert one.restarted == "follower was started again"
    for said in late:
        again.hear(said, 0.4)
    one.put((), 2)
    carry(one, again, 0.5)
    assert numbers(again) == [2]
    for said in other.due(5.0):  # the dead one's words are still on their way
        one.hear(said, 5.0)
    assert one.peer_life == (2, 0)


def test_a_restart_before_anything_was_said_is_no_news() -> None:
    one, _ = met()
    carry(Exchange("follower", "leader", 2, 3, RHYTHM, 0.2), one, 0.3)
    assert one.restarted is None
    assert one.peer_life == (2, 0)


def test_who_begins_anew_says_why() -> None:
    one, other = met()
    one.put((), 1)
    carry(one, other, 0.1)
    one.renew("bank was started again")
    carry(one, other, 0.2)
    assert other.restarted == "leader: bank was started again"
    assert numbers(other) == []
    other.put((), 5)
    carry(one, other, 0.3)
    assert numbers(one) == [5]


def test_silence_for_longer_than_a_lease_is_a_loss_until_a_word_comes() -> None:
    one, other = met()
    assert not one.is_lost(10.0)
    assert one.is_lost(10.1)
    carry(one, other, 20.0)
    assert not one.is_lost(20.1)


def test_a_good_bye_is_heard_and_confirmed() -> None:
    one, other = met()
    one.put((), 1)
    one.part("ConfigError: rows")
    carry(one, other, 0.1)
    assert one.has_parted
    assert other.left == "ConfigError: rows"
    assert numbers(other) == [1]  # what came before it is still there
    alone, _ = pair()
    alone.part("")
    assert not alone.has_parted


def way(**changes: Any) -> Way:
    return Way(**{"name": "follower", "life": (1, 0), "to": (1, 0), "received": 0, "taken": 0, **changes})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Sign(way(name="bank")), "calls itself 'bank'"),
        (Sign(way(received=1)), "confirms parcel 1"),
        (Sign(way(taken=1)), "1 of them handed out"),
        (Parcel(way(), 4), "sent parcel 4, but 0 were handed out and its window is 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(said: Parcel | Sign, why: str) -> None:
    one, _ = met()
    with pytest.raises(ProtocolError, match=why):
        one.hear(said, 0.1)
