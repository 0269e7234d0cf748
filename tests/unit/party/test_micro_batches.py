"""A batch in several parts that are under way at once gives what it gives as a whole."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Any

import pytest
import torch

from flps.errors import ProtocolError
from flps.party.schedule import Turn, room, turns
from flps.party.step import PartyLook, parts_of, whole_of
from flps.split.course import Back, Course, Net, Receive, Send, courses

STEPS = 6
FOLLOWER, BOTTOM, TOP = ("follower", "bottom"), ("leader", "bottom"), ("leader", "top")
MOVING = "{init: 1024.0, factor: 2.0, window: 3}"


@pytest.mark.parametrize(("followers", "micro_batches"), [(1, 2), (1, 5), (1, 40), (2, 4), (2, 3)])
def test_losses_and_weights_are_those_of_the_whole(
    played: Any, tmp_path: Path, followers: int, micro_batches: int
) -> None:
    job = played.make(tmp_path, followers)
    assert played.split(job, STEPS, micro_batches) == pytest.approx(played.whole(job, STEPS), abs=1e-12, rel=1e-12)
    assert_same_weights(job)


@pytest.mark.parametrize("where", [FOLLOWER, BOTTOM, TOP])
def test_one_part_that_overflows_keeps_all_from_the_step(played: Any, tmp_path: Path, where: tuple[str, str]) -> None:
    job = played.make(tmp_path, scale=MOVING, overflows={where: [4 + 1]})  # the second part of the second step
    losses = played.split(job, STEPS, micro_batches=4)
    assert losses == pytest.approx(played.whole(job, STEPS, skipped=[1]), abs=1e-12, rel=1e-12)
    assert_same_weights(job)
    assert {(model.global_step, model.skipped_steps) for model in job.nets} == {(STEPS, 1)}


def assert_same_weights(job: Any) -> None:
    want = job.whole.state_dict()
    for name, held in job.split.state_dict().items():
        torch.testing.assert_close(held, want[name], atol=1e-12, rtol=1e-12)


def test_parts_are_even_and_weighed_by_their_rows() -> None:
    batch = {"x": torch.arange(20.0).reshape(10, 2), "label": torch.ones(10, 1), "noise": torch.tensor(3.0)}
    parts = parts_of(batch, 4)
    assert [(len(part.batch["x"]), part.share) for part in parts] == [(3, 0.3), (3, 0.3), (2, 0.2), (2, 0.2)]
    for part in parts:
        part.own = {"twice": part.batch["x"] * 2, "loss": part.batch["x"].mean(), "noise": part.batch["noise"]}
    whole = whole_of(parts)
    assert torch.equal(whole["twice"], batch["x"] * 2)
    assert whole["loss"].item() == pytest.approx(batch["x"].mean().item())
    assert whole["noise"].item() == pytest.approx(3.0)
    assert [len(part.batch["x"]) for part in parts_of(batch, 99)] == [1] * 10


CHAIN = [
    Net("leader", "embedding", ("ids",), ("embedded",), frozenset(["embedded"])),
    Net("follower", "side", ("own",), ("aside",), frozenset(["aside"])),
    Net("follower", "backbone", ("embedded",), ("hidden",), frozenset(["hidden"]), frozenset(["embedded"])),
    Net("leader", "first", ("hidden",), ("half",), frozenset(), frozenset(["hidden"])),
    Net("leader", "second", ("half", "aside"), ("loss",), frozenset(), frozenset(["half", "aside"])),
]
LOCAL = {"leader": ["ids"], "follower": ["own"]}


def test_nobody_waits_for_an_answer_while_there_are_parts_to_send() -> None:
    order = turns(courses(CHAIN, LOCAL)["leader"], 3)
    seen = [(type(action).__name__, part) for part, action, _ in order]
    first_wait = seen.index(("Receive", 0))
    assert seen[:first_wait] == [(name, part) for part in range(3) for name in ("Run", "Send")]
    assert [part for part, action, _ in order if isinstance(action, Back) and action.net == "second"] == [0, 1, 2]


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_every_part_passes_every_action_once_and_nobody_waits_for_ever(parts: int) -> None:
    planned = courses(CHAIN, LOCAL)
    under_way: Counter[tuple[str, str, Any, bool]] = Counter()
    left = {party: deque(turns(course, parts)) for party, course in planned.items()}
    for party, course in planned.items():
        both = [(action, False) for action in course.forward] + [(action, True) for action in course.backward]
        assert Counter(left[party]) == Counter(Turn(part, *each) for part in range(parts) for each in both)
        for mine in both:  # a net goes through the parts in their order
            assert [part for part, *each in left[party] if tuple(each) == mine] == list(range(parts))
    while any(left.values()):
        moved = [step for party, turn in left.items() if (step := advance(party, turn, under_way))]
        assert moved, "all wait for each other"
    assert not +under_way


def advance(party: str, order: deque[Turn], under_way: Counter[tuple[str, str, Any, bool]]) -> int:
    """Go on as far as a party can; how many turns that were."""
    count = 0
    while order:
        _, action, is_back = order[0]
        if isinstance(action, Send):
            under_way[party, action.party, frozenset(action.names), is_back] += 1
        elif isinstance(action, Receive):
            due = (action.party, party, frozenset(action.names), is_back)
            if not under_way[due]:
                return count
            under_way[due] -= 1
        order.popleft()
        count += 1
    return count


def test_room_for_all_that_a_step_sends() -> None:
    assert room(courses(CHAIN, LOCAL).values(), 5) == 5 * 3 + 1  # the follower: aside, hidden, the gradient of embedded


class Canned:
    """Links on which everything has come."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = deque(messages)

    def send_tensors(self, target_server_name: str, tensors: Any, *, as_they_are: bool = False) -> None:
        """Nobody is there."""

    def receive(self, target_server_name: str) -> Any:
        return self._messages.popleft()


def test_what_comes_before_its_time_waits_and_what_is_not_due_is_told() -> None:
    course = Course((Receive("follower", ("a",)), Receive("follower", ("b",))), ())
    one, two = {"a": torch.tensor(1.0)}, {"b": torch.tensor(2.0)}
    rows = {"ids": torch.zeros(1)}
    PartyLook(course, {}, Canned(two, two, one, one)).forward(rows)
    with pytest.raises(ProtocolError, match="follower was to send the activations a, it sent c"):
        PartyLook(course, {}, Canned(two, {"c": torch.tensor(3.0)})).forward(rows)
    with pytest.raises(ProtocolError, match="activations a, it sent loss"):
        PartyLook(course, {}, Canned({"loss": {"a": torch.tensor(3.0)}})).forward(rows)
