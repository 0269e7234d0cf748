"""Courses of a step: the known jobs, what does not fit, and that no two parties ever wait for each other."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ConfigError
from flps.split.course import Back, Course, Net, Receive, Run, Send, courses

WIDE, DEEP = "wide", "deep"


def bottom(party: str) -> Net:
    outputs = (f"{party}_{WIDE}", f"{party}_{DEEP}", f"{party}_l2")
    return Net(party, "bottom", ("id", "wt"), outputs, frozenset(outputs[:2]))


def top(*followers: str) -> Net:
    taken = tuple(f"{party}_{part}" for party in ("leader", *followers) for part in (WIDE, DEEP))
    return Net("leader", "top", (*taken, "label"), ("out", "loss"), frozenset(), frozenset(taken))


ROWS = {"leader": ("id", "wt", "label"), "f": ("id", "wt"), "g": ("id", "wt")}


def test_wide_and_deep_of_a_leader_and_a_follower() -> None:
    found = courses([top("f"), bottom("leader"), bottom("f")], ROWS)
    crossing = ("f_wide", "f_deep")
    assert found["f"] == Course(
        (Run("bottom"), Send("leader", crossing)), (Receive("leader", crossing), Back("bottom"))
    )
    assert found["leader"] == Course(
        (Run("bottom"), Receive("f", crossing), Run("top")), (Back("top"), Send("f", crossing), Back("bottom"))
    )


def test_the_leader_serves_every_follower_before_its_own_net() -> None:
    backward = courses([bottom("leader"), bottom("f"), bottom("g"), top("f", "g")], ROWS)["leader"].backward
    assert backward == (
        Back("top"),
        Send("g", ("g_wide", "g_deep")),
        Send("f", ("f_wide", "f_deep")),
        Back("bottom"),
    )


def test_a_backbone_between_an_embedding_and_a_head() -> None:
    nets = [
        Net("a", "embedding", ("input_ids",), ("embedding_table", "word_table"), frozenset({"embedding_table"})),
        Net("b", "backbone", ("embedding_table",), ("hidden",), frozenset({"hidden"}), frozenset({"embedding_table"})),
        Net("a", "head", ("hidden", "input_ids", "word_table"), ("loss",), frozenset(),
            frozenset({"hidden", "word_table"})),
    ]  # fmt: skip
    found = courses(nets, {"a": ("input_ids",)})
    assert found["a"].forward == (
        Run("embedding"), Send("b", ("embedding_table",)), Receive("b", ("hidden",)), Run("head")
    )  # fmt: skip
    assert found["a"].backward == (
        Back("head"), Send("b", ("hidden",)), Receive("b", ("embedding_table",)), Back("embedding")
    )  # fmt: skip


def test_what_a_party_takes_of_its_own_rows_does_not_travel() -> None:
    nets = [bottom("f"), bottom("leader"), top("f")._replace(own=frozenset({"f_wide"}))]
    found = courses(nets, {**ROWS, "leader": (*ROWS["leader"], "f_wide")})
    assert found["f"].forward == (Run("bottom"), Send("leader", ("f_deep",)))
    assert found["f"].backward == (Receive("leader", ("f_deep",)), Back("bottom"))


@pytest.mark.parametrize(
    ("nets", "text"),
    [
        ([bottom("leader"), top("f")], "no net gives"),
        ([bottom("f"), bottom("f")._replace(name="other")], "one name in the whole job"),
        ([bottom("f")._replace(remote=frozenset()), bottom("leader"), top("f")], "destination: remote"),
        ([bottom("leader"), bottom("f"), top("f")._replace(own=frozenset({"f_wide"}))], "must say `source: remote`"),
        ([Net("f", "x", ("b",), ("a",), frozenset("a")), Net("g", "y", ("a",), ("b",), frozenset("b"))], "each other"),
    ],
)
def test_what_does_not_fit_is_refused(nets: list[Net], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        courses(nets, ROWS)


def play(found: Mapping[str, Course]) -> None:
    """Every party's actions, each as soon as it can be; fails when all wait."""
    left = {party: deque((*course.forward, *course.backward)) for party, course in found.items()}
    sent: dict[tuple[str, str], deque[tuple[str, ...]]] = defaultdict(deque)
    while any(left.values()):
        before = sum(map(len, left.values()))
        for party, actions in left.items():
            while actions:
                action = actions[0]
                if isinstance(action, Send):
                    sent[party, action.party].append(action.names)
                elif isinstance(action, Receive):
                    if not sent[action.party, party]:
                        break
                    assert sent[action.party, party].popleft() == action.names
                actions.popleft()
        assert sum(map(len, left.values())) < before, f"all wait: {left}"
    assert not any(sent.values())


@st.composite
def jobs(draw: st.DrawFn) -> list[Net]:
    """Nets of up to four parties; each takes some outputs of earlier ones."""
    nets: list[Net] = []
    for number in range(draw(st.integers(1, 8))):
        known = [name for net in nets for name in net.outputs]
        taken = tuple(draw(st.lists(st.sampled_from(known), unique=True, max_size=4))) if known else ()
        outputs = tuple(f"t{number}.{n}" for n in range(draw(st.integers(1, 3))))
        nets.append(
            Net(draw(st.sampled_from("abcd")), f"n{number}", taken, outputs, frozenset(outputs), frozenset(taken))
        )
    return draw(st.permutations(nets))


@given(jobs())
def test_every_send_is_received_in_order_and_nobody_waits_for_ever(nets: list[Net]) -> None:
    found = courses(nets, {})
    play(found)
    for course in found.values():
        ran, back = (
            [a.net for a in course.forward if isinstance(a, Run)],
            [a for a in course.backward if isinstance(a, Back)],
        )
        assert [action.net for action in back] == ran[::-1]
