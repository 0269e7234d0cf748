"""Whatever a network does to numbered requests, each is carried out once and in order, and every repeat is answered."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from flps.errors import ProtocolError
from flps.ledger import KEPT_ANSWERS, Ledger

UNDER_WAY = KEPT_ANSWERS - 1


def is_question(sequence: int) -> bool:
    """Every third request changes nothing, and stands in no journal."""
    return sequence % 3 == 0


class Network(RuleBasedStateMachine):
    """One client with a few requests under way; the network loses, doubles, delays and reorders them at will."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger[str] = Ledger()
        self.incarnation = 1
        self.last = 0
        self.open: set[int] = set()  # sent, and the answer has not come back yet
        self.on_the_way: list[tuple[int, int]] = []  # (incarnation, sequence)
        self.worked_on: set[tuple[int, int]] = set()
        self.carried_out: list[tuple[int, int]] = []
        self.journal: list[tuple[int, int, int]] = []  # (incarnation, sequence, settled) of what is no question

    @property
    def settled(self) -> int:
        return min(self.open, default=self.last + 1) - 1

    @precondition(lambda self: len(self.open) < UNDER_WAY)
    @rule()
    def ask(self) -> None:
        self.last += 1
        self.open.add(self.last)
        self.on_the_way.append((self.incarnation, self.last))

    @precondition(lambda self: self.open)
    @rule()
    def ask_again(self) -> None:
        self.on_the_way += [(self.incarnation, sequence) for sequence in sorted(self.open)]

    @precondition(lambda self: self.on_the_way)
    @rule(which=st.integers(0, 100))
    def lose(self, which: int) -> None:
        self.on_the_way.pop(which % len(self.on_the_way))

    @precondition(lambda self: self.on_the_way)
    @rule(which=st.integers(0, 100), twice=st.booleans(), answer_arrives=st.booleans())
    def arrive(self, which: int, twice: bool, answer_arrives: bool) -> None:
        life, sequence = request = self.on_the_way[which % len(self.on_the_way)]
        if not twice:
            self.on_the_way.remove(request)
        try:
            settled = self.settled if life == self.incarnation and sequence > self.settled else 0
            verdict = self.ledger.admit("worker:0", life, sequence, settled)
        except ProtocolError:
            assert life < self.incarnation or sequence not in self.open  # what a client waits for is never refused
            return
        if verdict == "new":
            assert request not in self.carried_out
            if not is_question(sequence):  # questions may be overtaken after a restart
                assert all(other != life or earlier < sequence for other, earlier in self.carried_out)
                self.journal.append((life, sequence, settled))
            self.carried_out.append(request)
            self.worked_on.add(request)
        elif verdict == "early":
            assert request not in self.carried_out
        elif verdict == "pending":
            assert request in self.carried_out
        elif verdict == "settled":
            assert life < self.incarnation or sequence not in self.open
        else:
            assert verdict == f"answer to {life}.{sequence}"
            if answer_arrives:
                self.open.discard(sequence)

    @precondition(lambda self: self.worked_on)
    @rule(which=st.integers(0, 100), answer_arrives=st.booleans())
    def answer(self, which: int, answer_arrives: bool) -> None:
        life, sequence = sorted(self.worked_on)[which % len(self.worked_on)]
        self.worked_on.discard((life, sequence))
        self.ledger.settle("worker:0", life, sequence, f"answer to {life}.{sequence}")
        if answer_arrives and life == self.incarnation:
            self.open.discard(sequence)

    @rule()
    def listener_starts_again(self) -> None:
        """What was answered or worked on is known from the journal only; questions are not in it."""
        self.ledger = Ledger()
        for life, sequence, settled in self.journal:
            self.ledger.replay("worker:0", life, sequence, settled)
            if (life, sequence) not in self.worked_on:
                self.ledger.settle("worker:0", life, sequence, f"answer to {life}.{sequence}")
        known = {(life, sequence) for life, sequence, _ in self.journal}
        self.worked_on &= known
        self.carried_out = [one for one in self.carried_out if one in known or one[1] not in self.open]

    @precondition(lambda self: self.last > 2)
    @rule()
    def start_again(self) -> None:
        """The client's process is started anew, and the server hears of it by its first request."""
        self.incarnation += 1
        self.last = 1
        self.open = {1}
        self.on_the_way.append((self.incarnation, 1))
        assert self.ledger.admit("worker:0", self.incarnation, 1) == "new"
        self.journal.append((self.incarnation, 1, 0))
        self.carried_out.append((self.incarnation, 1))
        self.worked_on.add((self.incarnation, 1))

    def teardown(self) -> None:
        """The network is kind at last: what is open is sent again in order, and everything gets its answer."""
        for life, sequence in sorted(self.worked_on):
            self.ledger.settle("worker:0", life, sequence, f"answer to {life}.{sequence}")
        for sequence in sorted(self.open):
            verdict = self.ledger.admit("worker:0", self.incarnation, sequence, min(self.open) - 1)
            if verdict == "new":
                self.carried_out.append((self.incarnation, sequence))
                self.ledger.settle("worker:0", self.incarnation, sequence, "late")
            else:
                assert verdict == f"answer to {self.incarnation}.{sequence}"
        done = [s for life, s in self.carried_out if life == self.incarnation]
        assert sorted(done) == list(range(1, self.last + 1))
        assert all(len(account.answers) <= KEPT_ANSWERS for _, account in self.ledger.accounts())


Network.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestNetwork = Network.TestCase


def test_verdicts_one_by_one() -> None:
    ledger: Ledger[str] = Ledger()
    assert ledger.admit("a", 1, 1) == "new"
    assert ledger.admit("a", 1, 1) == "pending"
    assert ledger.admit("a", 1, 3) == "early"
    ledger.settle("a", 1, 1, "one")
    assert ledger.admit("a", 1, 1) == "one"
    assert ledger.admit("a", 1, 2) == "new"
    assert ledger.admit("a", 1, 3) == "new"
    assert ledger.admit("b", 1, 1) == "new"  # clients are numbered each by itself


def test_a_wide_gap_is_refused() -> None:
    ledger: Ledger[str] = Ledger()
    with pytest.raises(ProtocolError, match="a sent request 57, expected 1"):
        ledger.admit("a", 1, 57)
    assert ledger.admit("a", 1, 1) == "new"


def test_an_older_life_is_refused_and_its_answers_are_dropped() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.admit("a", 1, 1)
    assert ledger.admit("a", 2, 1) == "new"
    with pytest.raises(ProtocolError, match="a speaks as incarnation 1, but 2 is known"):
        ledger.admit("a", 1, 2)
    ledger.settle("a", 1, 1, "from the grave")
    assert ledger.admit("a", 2, 1) == "pending"


def test_the_last_answers_are_kept_and_no_more() -> None:
    ledger: Ledger[str] = Ledger()
    for sequence in range(1, 11):
        ledger.admit("a", 1, sequence)
        ledger.settle("a", 1, sequence, str(sequence))
    kept = range(11 - KEPT_ANSWERS, 11)
    assert [ledger.admit("a", 1, sequence) for sequence in kept] == [str(sequence) for sequence in kept]
    with pytest.raises(ProtocolError, match="whose answer is no longer kept"):
        ledger.admit("a", 1, kept[0] - 1)


def test_an_answer_to_somebody_unknown_is_dropped() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.settle("a", 1, 1, "one")
    assert ledger.admit("a", 1, 1) == "new"
