"""In which order a party does its step when a batch is cut into parts that are under way at once.

A course is cut into stages where it waits for another party. Whoever waits for an answer meanwhile goes on with the
next part, so all parts pass a stage before any passes the next one. At the turn, where a party has what it needs to
go back, each part goes back at once as far as others wait for it; what only this party needs comes after.

    follower  forward 1, forward 2, ... | backward 1, backward 2, ...
    leader    bottom 1, bottom 2, ...   | top and gradients 1, top and gradients 2, ... | bottom back 1, ...

Law 1: the order is fixed, so chance (dropout) is drawn in the same order in every run, and gradients add up in it.
Law 2: every net goes forward through the parts in their order, and back in the same one.
Law 3: with one part it is the course as it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from flps.split.course import Action, Course, Receive, Send


class Turn(NamedTuple):
    """One action for one part of the batch."""

    part: int
    action: Action
    is_back: bool


def turns(course: Course, parts: int) -> tuple[Turn, ...]:
    """A party's step over so many parts."""
    *there, last = _stages(course.forward)
    first, *back = _stages(course.backward)
    awaited = max((place + 1 for place, action in enumerate(first) if isinstance(action, Send)), default=0)
    stages = [
        *([(stage, False)] for stage in there),
        [(last, False), (first[:awaited], True)],
        [(first[awaited:], True)],
        *([(stage, True)] for stage in back),
    ]
    return tuple(
        Turn(part, action, is_back)
        for stage in stages
        for part in range(parts)
        for actions, is_back in stage
        for action in actions
    )


def room(courses: Iterable[Course], parts: int) -> int:
    """How many messages one party may have sent another, in a step, before that one takes the first of them."""
    sent = [
        Counter(action.party for action in (*one.forward, *one.backward) if isinstance(action, Send)) for one in courses
    ]
    return parts * max((count for counts in sent for count in counts.values()), default=0) + 1


def _stages(actions: Sequence[Action]) -> list[list[Action]]:
    """Up to the first wait, which may be nothing; then from one wait to the next."""
    stages: list[list[Action]] = [[]]
    for waits, group in groupby(actions, lambda action: isinstance(action, Receive)):
        if waits:
            stages.append([])
        stages[-1] += group
    return stages
