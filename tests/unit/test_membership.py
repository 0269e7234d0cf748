"""Tables of (event, now) -> state: members, leases, barriers."""

from __future__ import annotations

from typing import Any

import pytest

from flps.membership import Barrier, Loss, Member, Membership

W0, W1, W2, S0 = Member("worker", 0), Member("worker", 1), Member("worker", 2), Member("server", 0)
START, LEASE = 60.0, 10.0

# (event, member, now) ... -> the members' states then, by name of the member
STORIES: dict[str, tuple[list[tuple[str, Member, float]], dict[Member, str | None]]] = {
    "nobody has come yet": ([], {W0: "absent", S0: "absent"}),
    "hello": ([("hello", W0, 1)], {W0: "alive", W1: "absent"}),
    "absent until the start's end": ([("expire", W0, START)], {W0: "absent"}),
    "never came": ([("expire", W0, START + 0.1)], {W0: "lost", S0: "lost"}),
    "alive to the lease's end": ([("hello", W0, 1), ("expire", W0, 1 + LEASE)], {W0: "alive", W1: "absent"}),
    "silent": ([("hello", W0, 1), ("expire", W0, 1.1 + LEASE)], {W0: "lost", W1: "absent"}),
    "a beat renews": ([("hello", W0, 1), ("beat", W0, 9), ("expire", W0, 19)], {W0: "alive"}),
    "a second hello renews": ([("hello", W0, 1), ("hello", W0, 9), ("expire", W0, 19)], {W0: "alive"}),
    "a beat without hello is nothing": ([("beat", W0, START), ("expire", W0, START + 1)], {W0: "lost"}),
    "left": ([("hello", W0, 1), ("leave", W0, 2), ("expire", W0, 999)], {W0: "left"}),
    "left before it came": ([("leave", W0, 2), ("expire", W0, 999)], {W0: "left", W1: "lost"}),
    "who left does not come back": ([("hello", W0, 1), ("leave", W0, 2), ("no hello", W0, 3)], {W0: "left"}),
    "who is lost does not come back": ([("expire", W0, 99), ("no hello", W0, 99), ("beat", W0, 99)], {W0: "lost"}),
    "who is lost does not leave": ([("expire", W0, 99), ("leave", W0, 99)], {W0: "lost"}),
    "a later life of a worker joins": (
        [("hello", W0, 1), ("hello 2", W0, 2), ("expire", W0, 2 + LEASE)],
        {W0: "joining", W1: "absent"},
    ),
    "a later life of a server takes part at once": ([("hello", S0, 1), ("hello 2", S0, 2)], {S0: "alive"}),
    "a first hello in a later life": ([("hello 2", W0, 1)], {W0: "alive"}),
    "who joins is alive": ([("hello", W0, 1), ("hello 2", W0, 2), ("join", W0, 3)], {W0: "alive"}),
    "an earlier life says no hello": ([("hello 2", W0, 1), ("no hello", W0, 2)], {W0: "alive"}),
    "an earlier life does not beat": (
        [("hello 2", W0, 1), ("beat", W0, 9), ("expire", W0, 2 + LEASE)],
        {W0: "lost"},
    ),
    "who joins may be lost": ([("hello", W0, 1), ("hello 2", W0, 2), ("expire", W0, 13)], {W0: "lost"}),
    "who joins may leave": ([("hello", W0, 1), ("hello 2", W0, 2), ("leave", W0, 3)], {W0: "left"}),
    "a lost one does not join": ([("expire", W0, 99), ("no hello 2", W0, 99), ("join", W0, 99)], {W0: "lost"}),
    "leases begin anew": ([("hello", W0, 1), ("renew", W0, 30), ("expire", W0, 30 + LEASE)], {W0: "alive"}),
    "a stranger": (
        [("no hello", Member("worker", 9), 1), ("beat", Member("x", 0), 1), ("leave", Member("y", 0), 1)],
        {Member("worker", 9): None, Member("x", 0): None},
    ),
}


def expire(membership: Membership, now: float) -> list[Loss]:
    losses = membership.expired(now)
    assert membership.expired(now) == losses  # they are named until somebody is told
    for loss in losses:
        membership.lose(loss.member)
    return losses


@pytest.mark.parametrize("story", STORIES)
def test_states(story: str) -> None:
    events, states = STORIES[story]
    membership = Membership([W0, W1, W2, S0], LEASE, START, now=0.0)
    for event, member, now in events:
        if "hello" in event:
            life = 2 if event.endswith("2") else 1
            assert membership.hello(member, now, life) is event.startswith("hello")
        elif event == "join":
            membership.join(member)
        elif event == "renew":
            membership.renew(now)
        elif event == "beat":
            membership.beat(member, now)
        elif event == "leave":
            membership.leave(member)
        else:
            expire(membership, now)
    assert {member: membership.state(member) for member in states} == states


def test_losses_are_named_once_with_their_reason() -> None:
    membership = Membership([W0, W1], LEASE, START, now=0.0)
    membership.hello(W0, 55)
    assert expire(membership, 60) == []
    assert expire(membership, 61) == [(W1, "did not come up within 60 s", False)]
    assert expire(membership, 66) == [(W0, "no sign of life for 10 s", True)]
    assert expire(membership, 99) == []
    assert membership.lost() == [W0, W1]


def test_members_by_role_and_state() -> None:
    membership = Membership([W2, W1, W0, S0], LEASE, START, now=0.0)
    membership.hello(W1, 0)
    membership.leave(W2)
    assert membership.present("worker") == [W0, W1]
    assert membership.members("worker", "left", "alive") == [W1, W2]
    assert membership.present("server") == [S0]
    assert membership.lost() == []


def test_members_have_names() -> None:
    assert str(W2) == "worker:2"


# (member, barrier, complaint?) ... with who is present at the end -> what opens
ARRIVALS: dict[str, tuple[list[tuple[Member, str, bool]], list[Member], Any]] = {
    "nobody arrived": ([], [W0], None),
    "nobody arrived and nobody is there": ([], [], None),
    "one is missing": ([(W0, "a 0", False)], [W0, W1], None),
    "all are here, by rank": ([(W1, "a 0", False), (W0, "a 0", False)], [W0, W1], ("a 0", [W0, W1])),
    "who is missing is lost": ([(W0, "a 0", False)], [W0], ("a 0", [W0])),
    "who arrived is lost": ([(W0, "a 0", False), (W1, "a 0", False)], [W1], ("a 0", [W0, W1])),
    "twice": ([(W0, "a 0", False), (W0, "a 0", False)], [W0], ("a 0", [W0])),
    "another barrier": ([(W0, "a 0", False), (W1, "a 1", True)], [W0, W1], None),
    "all others are lost": ([(W0, "a 0", False)], [], ("a 0", [W0])),
}


@pytest.mark.parametrize("story", ARRIVALS)
def test_barrier(story: str) -> None:
    arrivals, present, opens = ARRIVALS[story]
    barrier: Barrier[str] = Barrier()
    for member, name, complains in arrivals:
        assert (barrier.arrive(member, name, f"token of {member}") is not None) is complains
    opened = barrier.open(present)
    assert (opened and (opened[0], list(opened[1]))) == opens
    if opened:
        assert all(token == f"token of {member}" for member, token in opened[1].items())
        assert barrier.open(present) is None  # it is empty now
        assert barrier.arrive(W0, "b 7", "") is None  # and takes the next name


def test_a_barriers_complaint_says_who_waits_where() -> None:
    barrier: Barrier[None] = Barrier()
    barrier.arrive(W0, "trained 3", None)
    assert barrier.arrive(W1, "trained 4", None) == "worker:1 waits at barrier 'trained 4', the others at 'trained 3'"


# (member, barrier, who comes along) ... -> what opens when W0, W1 and W2 are present
CALLS: dict[str, tuple[list[tuple[Member, str, str]], Any]] = {
    "all at the call": ([(m, "call 0 5", "end 0") for m in (W0, W1, W2)], ("call 0 5", [W0, W1, W2])),
    "some have ended": (
        [(W1, "end 0", ""), (W0, "call 0 5", "end 0"), (W2, "end 0", "")],
        ("call 0 5", [W0, W1, W2]),
    ),
    "one is still under way": ([(W1, "end 0", ""), (W0, "call 0 5", "end 0")], None),
    "nobody calls": ([(m, "end 0", "") for m in (W0, W1, W2)], ("end 0", [W0, W1, W2])),
    "who called has gone on": ([(W0, "call 0 5", "end 0"), (W0, "end 0", ""), (W1, "end 0", "")], None),
}


@pytest.mark.parametrize("story", CALLS)
def test_a_call_takes_those_along_who_wait_at_the_end(story: str) -> None:
    arrivals, opens = CALLS[story]
    barrier: Barrier[str] = Barrier()
    for member, name, along in arrivals:
        assert barrier.arrive(member, name, name, along) is None
    opened = barrier.open([W0, W1, W2])
    assert (opened and (opened[0], list(opened[1]))) == opens
    if opens:
        assert barrier.arrive(W0, "end 0", "") is None  # and those who came along wait at the end again
        assert barrier.open([W0]) == ("end 0", {W0: ""})


@pytest.mark.parametrize(
    ("first", "then", "at"),
    [
        (("call 0 5", "end 0"), ("call 0 10", "end 0"), "call 0 5"),
        (("end 1", ""), ("call 0 5", "end 0"), "end 1"),
        (("call 0 5", "end 0"), ("end 1", ""), "call 0 5"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(first: tuple[str, str], then: tuple[str, str], at: str) -> None:
    barrier: Barrier[str] = Barrier()
    assert barrier.arrive(W0, first[0], "", first[1]) is None
    complaint = barrier.arrive(W1, then[0], "", then[1])
    assert complaint == f"worker:1 waits at barrier {then[0]!r}, the others at {at!r}"
    assert barrier.open([W0]) is not None
