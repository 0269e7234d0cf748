"""The coordinator by tables of messages and times: who is here, who waits, what is told, when it is over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flps.config.types import Network
from flps.coordinator.service import MembershipService
from flps.errors import Refused
from flps.membership import Member
from flps.message import Arrive, Beat, Body, Done, Hello, Leave, Look, Pulse, Release, Report
from flps.metrics import EventLog
from flps.transport.listener import Request, Ticket

NETWORK = Network(heartbeat_s=1, lease_s=10, start_timeout_s=60, min_workers=2)
W0, W1, W2 = (Member("worker", rank) for rank in range(3))
S0 = Member("server", 0)


class Federation:
    """Three workers and a server around one coordinator."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"
        self.events = EventLog(str(self._path), "coordinator", 0)
        self.service = MembershipService(3, 1, NETWORK, self.events, 0.0)
        self._sequence = 0
        self._now = 0.0

    def say(self, member: Member, body: Body, now: float = 0.0) -> dict[Member, Body]:
        """Answers by member."""
        self._sequence += 1
        request = Request(Ticket(member, 1, self._sequence), body)
        return {ticket.member: answer for ticket, answer in self.service.handle(request, now)}

    def tick(self, now: float) -> dict[Member, Body]:
        """Time passes up to `now`, and the service looks around again and again meanwhile."""
        answers: dict[Member, Body] = {}
        while self._now < now:
            self._now = min(now, self._now + 1.0)
            answers |= self.look_around(self._now)
        return answers

    def look_around(self, now: float) -> dict[Member, Body]:
        answers = [answer for loss in self.service.losses(now) for answer in self.service.lose(loss, now)]
        return {ticket.member: answer for ticket, answer in [*answers, *self.service.tick(now)]}

    def all_here(self, now: float = 0.0) -> Federation:
        for member in (W0, W1, W2, S0):
            assert self.say(member, Hello(), now) == {member: Done()}
        return self

    def beats(self, now: float, *members: Member) -> None:
        for member in members:
            self.say(member, Beat(), now)

    def pulse(self, now: float = 0.0, member: Member = W0) -> Pulse:
        answer = self.say(member, Beat(), now)[member]
        assert isinstance(answer, Pulse)
        return answer

    def told(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.events.close()


def report(rank: int, samples: int = 0, loss: float = 0.0) -> Report:
    auc = np.zeros((2, 4), np.int64)
    auc[0, 0] = auc[1, 3] = rank
    counts = {"samples": np.array([samples]), "loss": np.array([loss]), "auc": auc}
    return Report(counts, {f"private-{rank}": f"sha {rank}"})


# --- coming, going, being lost ---------------------------------------------------------------------------------------


def test_its_own_pause_is_not_the_silence_of_others(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:
    federation.all_here().tick(3.0)
    federation.look_around(30.0)  # stopped for 27 s; what was said meanwhile is still to be heard
    assert federation.told("lost") == []
    assert "heard nobody for 27.0 s" in caplog.text
    federation._now = 30.0
    federation.beats(31.0, W0, W1, S0)
    federation.tick(40.5)
    assert [event["lost_rank"] for event in federation.told("lost")] == [2]


@pytest.mark.parametrize("member", [Member("worker", 3), Member("coordinator", 0), Member("stranger", 0)])
def test_strangers_are_refused(federation: Federation, member: Member) -> None:
    with pytest.raises(Refused, match=f"{member} is not expected in this run"):
        federation.say(member, Hello())


def test_who_left_or_is_lost_does_not_come_back(federation: Federation) -> None:
    federation.all_here()
    federation.say(W1, Leave())
    federation.beats(5, W0, S0)
    federation.tick(11)
    for member, state in ((W1, "left"), (W2, "lost")):
        with pytest.raises(Refused, match=f"{member} is {state} in this run"):
            federation.say(member, Hello(), 12)
        with pytest.raises(Refused, match=f"{member} may not wait at a barrier: it is {state}"):
            federation.say(member, Arrive("begin 0", Report()), 12)


def test_a_silent_worker_is_lost_and_everybody_is_told(federation: Federation) -> None:
    federation.all_here()
    federation.beats(8, W0, W1, S0)
    assert federation.tick(10) == {}
    assert federation.pulse(10) == Pulse((), "")
    federation.tick(10.1)
    assert federation.pulse(10.1) == Pulse(("worker:2",), "")
    (event,) = federation.told("lost")
    assert event["came_up"] is True
    assert (event["lost_role"], event["lost_rank"], event["reason"]) == ("worker", 2, "no sign of life for 10 s")
    federation.tick(11)
    assert len(federation.told("lost")) == 1


def test_too_few_workers_stop_the_job(federation: Federation) -> None:
    federation.all_here()
    federation.beats(8, W0, S0)
    federation.tick(10.5)
    stop = "worker:2 is lost (no sign of life for 10 s); 1 workers are left, at least 2 are needed"
    assert federation.pulse(10.5) == Pulse(("worker:1", "worker:2"), stop)


def test_workers_that_left_in_good_order_count_as_being_enough(federation: Federation) -> None:
    federation.all_here()
    federation.say(W1, Leave())
    federation.beats(8, W0, S0)
    federation.tick(10.5)
    assert federation.pulse(10.5) == Pulse(("worker:2",), "")


def test_a_lost_server_stops_the_job(federation: Federation) -> None:
    federation.all_here()
    federation.beats(8, W0, W1, W2)
    federation.tick(10.5)
    assert federation.pulse(10.5).stop == "server:0 is lost (no sign of life for 10 s); its share of the tables is gone"


def test_who_never_came_is_lost_after_the_start(federation: Federation) -> None:
    for member in (W0, W1, S0):
        federation.say(member, Hello(), 55)
    federation.tick(60)
    assert federation.told("lost") == [] if federation._path.exists() else True
    federation.tick(60.1)
    (event,) = federation.told("lost")
    assert (event["reason"], event["came_up"]) == ("did not come up within 60 s", False)


# --- barriers --------------------------------------------------------------------------------------------------------


def test_the_last_arrival_releases_everybody_with_the_sum(federation: Federation) -> None:
    federation.all_here()
    assert federation.say(W2, Arrive("trained 0", report(2, 20, 2.0))) == {}
    assert federation.say(W0, Arrive("trained 0", report(0, 5, 1.0))) == {}
    released = federation.say(W1, Arrive("trained 0", report(1, 15, 5.0)))
    assert list(released) == [W0, W1, W2]
    for release in released.values():
        assert isinstance(release, Release)
        assert release.workers == (0, 1, 2)
        assert release.report.counts["samples"].tolist() == [40]
        assert release.report.counts["loss"].tolist() == [8.0]
        assert release.report.counts["auc"].tolist() == [[3, 0, 0, 0], [0, 0, 0, 3]]
        assert release.report.files == {f"private-{rank}": f"sha {rank}" for rank in range(3)}


@pytest.mark.parametrize("how", ["lost", "left"])
def test_who_is_gone_is_not_waited_for(federation: Federation, how: str) -> None:
    federation.all_here()
    federation.say(W0, Arrive("begin 0", Report()), 1)
    federation.say(W1, Arrive("begin 0", Report()), 1)
    if how == "left":
        released = federation.say(W2, Leave(), 2)
        assert released.pop(W2) == Done()
    else:
        federation.beats(9, W0, W1, S0)
        released = federation.tick(10.5)
    assert list(released) == [W0, W1]
    assert federation.tick(10.6) == {}


def test_who_has_not_come_yet_is_waited_for(federation: Federation) -> None:
    for member in (W0, W1, S0):
        federation.say(member, Hello(), 0)
        federation.say(member, Beat(), 5)
    federation.say(W0, Arrive("begin 0", Report()), 6)
    assert federation.say(W1, Arrive("begin 0", Report()), 6) == {}
    federation.say(W2, Hello(), 7)
    assert len(federation.say(W2, Arrive("begin 0", Report()), 7)) == 3


def test_waiting_at_different_barriers_is_refused(federation: Federation) -> None:
    federation.all_here()
    federation.say(W0, Arrive("trained 3", Report()))
    with pytest.raises(Refused, match="worker:1 waits at barrier 'trained 4', the others at 'trained 3'"):
        federation.say(W1, Arrive("trained 4", Report()))


WRONG_REPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "barrier 'trained x' names no epoch": ("trained x", {}),
    "barrier 'evaluated' names no epoch": ("evaluated", {}),
    "barrier 'trained -1' names no epoch": ("trained -1", {}),
    r"report samples is int64 \(0,\), expected \(1,\) integer": ("trained 0", {"samples": np.zeros(0, np.int64)}),
    r"report samples is float64 \(1,\), expected": ("trained 0", {"samples": np.array([np.nan])}),
    r"report warm is int64 \(\), expected": ("evaluated 0", {"warm": np.array(3)}),
    r"report loss is float64 \(2,\), expected": ("trained 0", {"loss": np.zeros(2)}),
    r"report auc is int64 \(4,\), expected \(2, bins\)": ("trained 0", {"auc": np.zeros(4, np.int64)}),
    r"report auc is int64 \(2, 0\), expected": ("trained 0", {"auc": np.zeros((2, 0), np.int64)}),
    r"report auc is int64 \(2, 4\), expected .* none below 0": ("trained 0", {"auc": np.full((2, 4), -1)}),
    r"report full is int64 \(1,\), expected \(1 \+ k,\)": ("evaluated 0", {"full": np.zeros(1, np.int64)}),
    "report odd is of uint8; sums are of": ("begin 0", {"odd": np.zeros(1, np.uint8)}),
    r"worker:1 reports extra as .*3.*, others at this barrier as .*2": ("trained 0", {"extra": np.zeros(3)}),
}


@pytest.mark.parametrize("reason", WRONG_REPORTS)
def test_a_wrong_report_is_refused_and_the_others_are_not_harmed(federation: Federation, reason: str) -> None:
    barrier, counts = WRONG_REPORTS[reason]
    federation.all_here()
    right = Arrive("trained 0", Report({"extra": np.zeros(2), "samples": np.array([4])}))
    federation.say(W0, right)
    with pytest.raises(Refused, match=reason):
        federation.say(W1, Arrive(barrier, Report(counts)))
    federation.say(W1, right)
    assert len(federation.say(W2, right)) == 3


# --- events ----------------------------------------------------------------------------------------------------------


def test_an_epoch_becomes_an_event(federation: Federation) -> None:
    federation.all_here()
    for member in (W0, W1, W2):
        federation.say(member, Arrive("begin 7", Report()), 3.0)
    for member in (W2, W0, W1):
        federation.say(member, Arrive("trained 7", report(member.rank, 10 * (1 + member.rank), 3.0)), 5.0)
    (event,) = federation.told("epoch")
    assert (event["epoch"], event["samples"], event["seconds"], event["samples_per_s"]) == (7, 60, 2.0, 30.0)
    assert event["loss"] == pytest.approx(9 / 60)
    assert event["auc"] == 1.0
    assert event["client_auc"] == {"0": None, "1": 1.0, "2": 1.0}


def test_an_evaluation_becomes_an_event(federation: Federation) -> None:
    federation.all_here()
    counts = {"sampled": np.array([4, 2, 1]), "full": np.array([4, 1, 0]), "warm": np.array([3])}
    for member in (W0, W1, W2):
        federation.say(member, Arrive("evaluated 7", Report(counts)))
    (event,) = federation.told("eval")
    gain = 2 + np.log(2) / np.log(3)
    assert (event["epoch"], event["users"], event["warm"], event["k"], event["auc"]) == (7, 12, 9, 2, None)
    assert (event["hr"], event["hr_full"]) == (9 / 12, 3 / 12)
    assert (event["ndcg"], event["ndcg_full"]) == (pytest.approx(gain / 4), pytest.approx(1 / 4))


def test_an_epoch_without_samples_has_no_loss(federation: Federation) -> None:
    federation.all_here()
    for member in (W0, W1, W2):
        federation.say(member, Arrive("trained 0", Report()))
    (event,) = federation.told("epoch")
    assert (event["loss"], event["auc"], event["samples"]) == (None, None, 0)


def test_a_diverged_loss_is_told_as_none(federation: Federation) -> None:
    federation.all_here()
    for member in (W0, W1, W2):
        federation.say(member, Arrive("trained 0", report(1, 1, float("nan"))))
    assert federation.told("epoch")[0]["loss"] is None


# --- the end ---------------------------------------------------------------------------------------------------------

# events at times, then whether it is finished: (now, "leave"|"beat"|"tick", members), bool
ENDS: dict[str, list[Any]] = {
    "not while somebody is absent": [(1, "tick"), False],
    "not while somebody works": [(1, "leave", W0, W1), (2, "tick"), False],
    "at once when all have left": [(1, "leave", W0, W1, W2, S0), (2, "tick"), True],
    "servers may take three beats to leave": [
        (1, "leave", W0, W1, W2), (2, "tick"), False, (3, "tick"), False, (4, "leave", S0), (4.1, "tick"), True,
    ],
    "and not more": [(1, "leave", W0, W1, W2), (2, "tick"), False, (4.1, "tick"), True],
    "a server that has left is not missed": [
        (1, "leave", S0), (9, "beat", W0, W1, W2), (12, "tick"), False, (13, "leave", W0, W1, W2), (13.1, "tick"), True,
    ],
    "after a loss it lingers for three beats": [
        (9, "beat", W0, W1, S0), (10.5, "tick"), (11, "leave", W0, W1), (11.5, "tick"), False, (14.4, "tick"), False,
        (14.5, "tick"), True,
    ],
    "after the last is lost, too": [
        (1, "leave", W0, W1), (9, "beat", S0), (10.5, "tick"), False, (10.6, "tick"), False, (13.7, "tick"), True,
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", ENDS)
def test_finished(federation: Federation, story: str) -> None:
    federation.all_here()
    for event in ENDS[story]:
        if isinstance(event, bool):
            assert federation.service.finished is event
        elif event[1] == "tick":
            federation.tick(event[0])
        else:
            for member in event[2:]:
                federation.say(member, Leave() if event[1] == "leave" else Beat(), event[0])


def test_while_it_lingers_it_still_tells_of_losses_but_servers_that_end_are_none(federation: Federation) -> None:
    federation.all_here()
    federation.say(W0, Leave())
    federation.say(W1, Leave())
    federation.beats(9, S0)
    federation.tick(10.5)
    federation.tick(10.6)
    assert federation.pulse(12, S0) == Pulse(("worker:2",), "")
    federation.tick(99)
    assert [event["lost_role"] for event in federation.told("lost")] == ["worker"]


def test_other_messages_are_not_for_the_coordinator(federation: Federation) -> None:
    assert not federation.service.handles(Look(()))
    assert all(map(federation.service.handles, (Hello(), Beat(), Leave(), Arrive("a", Report()))))


# --- later lives -----------------------------------------------------------------------------------------------------


def again(federation: Federation, member: Member, body: Body, life: int = 2, now: float = 20.0) -> dict[Member, Body]:
    """What a later life of a member says."""
    federation._sequence += 1
    request = Request(Ticket(member, life, federation._sequence), body)
    return {ticket.member: answer for ticket, answer in federation.service.handle(request, now)}


def arrive(name: str) -> Arrive:
    return Arrive(name, Report())


def test_a_worker_in_a_later_life_joins_when_an_epoch_begins(federation: Federation) -> None:
    federation.all_here()
    for member in (W0, W1, W2):
        federation.say(member, arrive("begin 0"))
    federation.say(W0, arrive("trained 0"))
    assert again(federation, W1, Hello()) == {W1: Done()}
    opened = federation.say(W2, arrive("trained 0"))  # nobody waits for W1
    assert {member: (r.workers, r.barrier) for member, r in opened.items() if isinstance(r, Release)} == {
        W0: ((0, 2), "trained 0"),
        W2: ((0, 2), "trained 0"),
    }
    with pytest.raises(Refused, match="may not wait at a barrier: it is joining"):
        again(federation, W1, arrive("trained 0"))
    federation.say(W0, arrive("begin 1"))
    assert federation.say(W2, arrive("begin 1")) == {}  # it has said hello: it will be here soon
    opened = again(federation, W1, arrive("begin"))
    assert {r.barrier for r in opened.values() if isinstance(r, Release)} == {"begin 1"}
    assert [r.workers for r in opened.values() if isinstance(r, Release)] == [(0, 1, 2)] * 3


def test_what_an_earlier_life_waited_for_is_dropped(federation: Federation) -> None:
    federation.all_here()
    for member in (W0, W1):
        federation.say(member, arrive("begin 0"))
    again(federation, W1, Hello())
    assert again(federation, W1, arrive("begin")) == {}
    opened = federation.say(W2, arrive("begin 0"))
    assert set(opened) == {W0, W1, W2}


def test_when_nobody_is_left_who_knows_the_epoch_begins_once_more(federation: Federation) -> None:
    federation.all_here()
    for epoch in (0, 1):
        for member in (W0, W1, W2):
            federation.say(member, arrive(f"begin {epoch}"))
    for member in (W0, W1, W2):
        again(federation, member, Hello())
    assert again(federation, W0, arrive("begin")) == {}
    assert again(federation, W1, arrive("begin")) == {}
    opened = again(federation, W2, arrive("begin"))
    assert [r.barrier for r in opened.values() if isinstance(r, Release)] == ["begin 1"] * 3


def test_who_comes_too_late_is_told_that_the_job_is_over(federation: Federation) -> None:
    federation.all_here()
    again(federation, W1, Hello(), now=1)
    again(federation, W1, arrive("begin"), now=1)
    federation.say(W0, Leave())
    told = federation.say(W2, Leave())[W1]
    assert isinstance(told, Release)
    assert told.barrier == "over"
    federation.tick(5)
    assert not federation.service.finished
    again(federation, W1, Leave())
    federation.say(S0, Leave())
    federation.tick(6)
    assert federation.service.finished


def test_who_is_lost_while_joining_is_not_waited_for(federation: Federation) -> None:
    federation.all_here()
    again(federation, W1, Hello(), now=0)
    federation.say(W0, arrive("begin 0"))
    federation.say(W2, arrive("begin 0"))
    for now in (4, 8):
        federation.beats(now, W0, W2, S0)
        federation.tick(now)
    assert set(federation.tick(11)) == {W0, W2}


def test_an_image_is_taken_while_nobody_waits(federation: Federation, tmp_path: Path) -> None:
    federation.all_here()
    federation.say(W0, arrive("begin 0"))
    assert federation.service.image() is None
    for member in (W1, W2):
        federation.say(member, arrive("begin 0"))
    for member in (W0, W1, W2):
        federation.say(member, Arrive("trained 0", Report({"samples": np.array([3])})))
    federation.say(W2, Leave())
    image = federation.service.image()
    assert image is not None
    later = MembershipService(3, 1, NETWORK, federation.events, 50.0, told_before=1)
    later.take_up_image(image, None, "")
    later.renew(50.0)
    federation.service = later
    assert later.image() == image
    federation.say(W0, arrive("trained 1"))
    federation.say(W1, arrive("trained 1"))  # W2 has left, and that is known
    assert [event["epoch"] for event in federation.told("epoch")] == [0, 1]
    for now in (54.0, 58.0):
        assert federation.service.losses(now) == []
    assert {loss.member for loss in federation.service.losses(61.0)} == {W0, W1, S0}
