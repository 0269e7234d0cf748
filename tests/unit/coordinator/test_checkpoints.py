"""One checkpoint at a time: complete when every part has come, given up when one will not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.checkpoint.record import MANIFEST
from flps.checkpoint.run import completed, read_complete
from flps.config.job import Job
from flps.config.types import Config, Network, Runner
from flps.coordinator.checkpoints import Checkpoints, position_of
from flps.coordinator.service import MembershipService
from flps.errors import Refused
from flps.membership import Loss, Member
from flps.message import Arrive, Beat, Body, Cut, Done, Hello, Pulse, Release, Report, Wrote
from flps.metrics import EventLog
from flps.transport.listener import Request, Ticket

W0, W1, S0 = Member("worker", 0), Member("worker", 1), Member("server", 0)
EVERYBODY = (W0, W1, S0)


def job_in(folder: Path, **changes: Any) -> Job:
    config = Config(runner=Runner(keep_checkpoint_max=2), network=Network(lease_s=5, barrier_timeout_s=60))
    settings: dict[str, Any] = {
        "run_id": "run", "run_dir": str(folder), "config_dir": str(folder), "config": config, "workers": 2,
        "servers": ("loopback://server-0",), "coordinator": "", "coordinators": 0, "security": "loopback",
    }  # fmt: skip
    return Job(**settings | changes)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(str(tmp_path / "metrics.jsonl"), "coordinator", 0)
    yield log
    log.close()


def wrote(cut: Cut | None, member: Member, failure: str = "") -> Wrote:
    assert cut is not None
    kind = "shared" if member.role == "server" else "private"
    return Wrote(cut.checkpoint, f"{kind}-{member.rank}-of-2.safetensors", f"sha of {member}", failure)


def told(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "checkpoint"]


# --- one after the other ---------------------------------------------------------------------------------------------


def test_it_is_complete_when_every_part_has_come(tmp_path: Path, events: EventLog) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    cut = checkpoints.begin(0, 4, {W0: 1, W1: 1}, 10.0)
    assert cut is not None
    assert (cut.epoch, cut.step, cut.workers, cut.kept) == (0, 4, (0, 1), ())
    for member in EVERYBODY:
        assert checkpoints.is_writing
        assert completed(tmp_path / "checkpoint") == []
        checkpoints.wrote(member, wrote(cut, member), 12.0)
        checkpoints.wrote(member, wrote(cut, member), 12.0)  # beats say it again and again
    assert not checkpoints.is_writing
    manifest = read_complete(tmp_path / "checkpoint" / "0-4")
    assert checkpoints.newest == manifest.checkpoint
    assert (manifest.epoch, manifest.step, manifest.workers, manifest.servers) == (0, 4, 2, 1)
    assert manifest.files == {wrote(cut, m).file: wrote(cut, m).sha256 for m in EVERYBODY}
    assert manifest.settings["seed"] == 42
    (event,) = told(tmp_path)
    assert (event["epoch"], event["step"], event["seconds"]) == (0, 4, 2.0)


def test_only_the_newest_are_kept_and_what_is_half_written_goes(tmp_path: Path, events: EventLog) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    place = tmp_path / "checkpoint"
    (place / "0-2").mkdir(parents=True)  # of a run that was killed
    (place / "notes").mkdir()
    identities = set()
    for epoch, step in ((0, 9), (0, 10), (1, 0), (10, 5)):
        cut = checkpoints.begin(epoch, step, {W0: 1}, 0.0)
        assert cut is not None
        identities.add(cut.checkpoint)
        assert list(cut.kept) == [path.name for path in completed(place)]
        for member in (W0, S0):
            checkpoints.wrote(member, wrote(cut, member), 0.0)
    assert sorted(path.name for path in place.iterdir()) == ["1-0", "10-5", "notes"]
    assert len(identities) == 4
    assert Checkpoints(job_in(tmp_path / "other"), events).begin(1, 0, {}, 0) != Cut("", 1, 0)


def test_while_one_is_written_there_is_no_other(tmp_path: Path, events: EventLog) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    cut = checkpoints.begin(0, 4, {W0: 1}, 0.0)
    assert checkpoints.begin(0, 8, {W0: 1}, 1.0) is None
    checkpoints.wrote(S0, Wrote("another", "f", "sha"), 1.0)  # news of one that was given up
    checkpoints.wrote(W1, wrote(cut, W1), 1.0)  # nobody asked it
    assert checkpoints.is_writing
    for member in (W0, S0):
        checkpoints.wrote(member, wrote(cut, member), 2.0)
    assert checkpoints.begin(0, 12, {W0: 1}, 3.0) is not None


@pytest.mark.parametrize("why", ["failure", "lost", "late", "disk"])
def test_one_that_will_not_be_complete_is_given_up(tmp_path: Path, events: EventLog, why: str) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    cut = checkpoints.begin(0, 4, {W0: 1, W1: 1}, 0.0)
    checkpoints.wrote(W0, wrote(cut, W0), 1.0)
    if why == "failure":
        checkpoints.wrote(S0, wrote(cut, S0, "the disk is full"), 2.0)
    elif why == "lost":
        checkpoints.lose(W0)  # its part is there
        assert checkpoints.is_writing
        checkpoints.lose(W1)
    elif why == "late":
        checkpoints.expire(60.0)
        assert checkpoints.is_writing
        checkpoints.expire(60.5)
    else:
        (tmp_path / "checkpoint").write_text("")
        for member in (W1, S0):
            checkpoints.wrote(member, wrote(cut, member), 2.0)
    assert cut is not None
    assert not checkpoints.is_writing
    assert checkpoints.newest == cut.checkpoint  # whoever waits for it waits no more
    assert completed(tmp_path / "checkpoint") == []
    reasons = {"failure": "the disk is full", "lost": "worker:1 is gone", "late": "server:0, worker:1 within 60 s",
               "disk": "cannot write"}  # fmt: skip
    assert reasons[why] in told(tmp_path)[0]["failure"]


def test_a_run_that_goes_on_in_its_own_folder_makes_the_later_ones_anew(tmp_path: Path, events: EventLog) -> None:
    first = Checkpoints(job_in(tmp_path), events)
    for step in (4, 8):
        cut = first.begin(0, step, {W0: 1}, 0.0)
        for member in (W0, S0):
            first.wrote(member, wrote(cut, member), 0.0)
    place = tmp_path / "checkpoint"
    Checkpoints(job_in(tmp_path, resume_from=str(tmp_path / "elsewhere" / "0-4")), events)
    Checkpoints(job_in(tmp_path, resume_from=str(place / "0-4")), events, is_first_life=False)  # they may be its own
    assert [path.name for path in completed(place)] == ["0-4", "0-8"]
    Checkpoints(job_in(tmp_path, resume_from=str(place / "0-4")), events)
    assert [path.name for path in place.iterdir()] == ["0-4"]


def test_an_epoch_that_all_began_anew_writes_other_checkpoints_at_the_same_places(
    tmp_path: Path, events: EventLog
) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    first = checkpoints.begin(0, 4, {W0: 1}, 0.0)
    for member in (W0, S0):
        checkpoints.wrote(member, wrote(first, member), 0.0)
    second = checkpoints.begin(0, 4, {W0: 2}, 1.0)
    assert first is not None
    assert second is not None
    assert first.checkpoint != second.checkpoint
    assert completed(tmp_path / "checkpoint") == []  # its parts are being overwritten
    checkpoints.wrote(S0, wrote(first, S0), 2.0)  # the server says so until it has written another one
    checkpoints.wrote(W0, wrote(second, W0), 2.0)
    assert checkpoints.is_writing
    checkpoints.wrote(S0, wrote(second, S0), 3.0)
    assert read_complete(tmp_path / "checkpoint" / "0-4").checkpoint == second.checkpoint


@pytest.mark.parametrize(
    ("barrier", "position"),
    [
        ("checkpoint 3 200", (3, 200)),
        ("checkpoint 3", None),
        ("checkpoint 3 x", None),
        ("checkpoint 3 -1", None),
        ("checkpoint 1 2 3", None),
        (f"checkpoint 1 {'9' * 20}", None),
        ("trained 3 4", None),
        ("", None),
    ],
)
def test_positions(barrier: str, position: tuple[int, int] | None) -> None:
    assert position_of(barrier) == position


# --- at the barrier --------------------------------------------------------------------------------------------------


class Federation:
    """Two workers and a server around a coordinator."""

    def __init__(self, folder: Path, events: EventLog, resumed: str = "") -> None:
        job = job_in(folder)
        self.checkpoints = Checkpoints(job, events)
        self.service = MembershipService(
            2, 1, job.config.network, events, 0.0, checkpoints=self.checkpoints, resumed=resumed
        )
        self._sequence = 0

    def say(self, member: Member, body: Body, now: float = 0.0) -> dict[Member, Body]:
        self._sequence += 1
        request = Request(Ticket(member, 1, self._sequence), body)
        return {ticket.member: answer for ticket, answer in self.service.handle(request, now)}

    def all_here(self) -> Federation:
        for member in EVERYBODY:
            self.say(member, Hello())
        return self


def at(barrier: str, samples: int | None = None) -> Arrive:
    counts = {} if samples is None else {"samples": np.array([samples]), "loss": np.array([1.0])}
    return Arrive(barrier, Report(counts))


def cut_of(answer: Body) -> Cut | None:
    assert isinstance(answer, Release)
    return answer.cut


def test_who_waits_for_the_end_of_the_epoch_takes_part_and_waits_again(tmp_path: Path, events: EventLog) -> None:
    federation = Federation(tmp_path, events).all_here()
    assert federation.say(W1, at("trained 0", 5)) == {}
    answers = federation.say(W0, at("checkpoint 0 4"))
    assert answers.keys() == {W0, W1}
    assert answers[W0] == answers[W1]
    cut = cut_of(answers[W0])
    assert cut is not None
    assert (cut.epoch, cut.step) == (0, 4)
    release = answers[W1]
    assert isinstance(release, Release)
    assert (release.barrier, release.report.counts, release.workers) == ("checkpoint 0 4", {}, (0, 1))
    for member in EVERYBODY:
        answer = federation.say(member, Beat(wrote(cut, member)))[member]
    assert isinstance(answer, Pulse)
    assert answer.checkpoint == cut.checkpoint
    assert federation.say(W1, at("trained 0", 5)) == {}
    ended = federation.say(W0, at("trained 0", 7))
    total = ended[W0]
    assert isinstance(total, Release)
    assert (total.barrier, total.cut, total.report.counts["samples"].tolist()) == ("trained 0", None, [12])


def test_who_arrived_and_was_lost_since_then_is_not_waited_for(tmp_path: Path, events: EventLog) -> None:
    federation = Federation(tmp_path, events).all_here()
    federation.say(W1, at("checkpoint 0 4"))
    federation.service.lose(Loss(W1, "no sign of life", came_up=True), 1.0)
    cut = cut_of(federation.say(W0, at("checkpoint 0 4"))[W0])
    assert cut is not None
    assert cut.workers == (0,)
    for member in (W0, S0):
        federation.say(member, Beat(wrote(cut, member)))
    assert [path.name for path in completed(tmp_path / "checkpoint")] == ["0-4"]


def test_within_an_epoch_one_is_passed_over_while_the_last_is_written_at_its_end_it_waits(
    tmp_path: Path, events: EventLog
) -> None:
    federation = Federation(tmp_path, events).all_here()
    federation.say(W0, at("checkpoint 0 4"))
    first = cut_of(federation.say(W1, at("checkpoint 0 4"))[W0])
    federation.say(W0, at("checkpoint 0 8"))
    assert cut_of(federation.say(W1, at("checkpoint 0 8"))[W0]) is None
    federation.say(W0, at("checkpoint 1 0"))
    assert federation.say(W1, at("checkpoint 1 0")) == {}
    assert list(federation.service.tick(1.0)) == []
    for member in EVERYBODY:
        federation.say(member, Beat(wrote(first, member)))
    opened = {ticket.member: answer for ticket, answer in federation.service.tick(1.1)}
    assert opened.keys() == {W0, W1}
    assert cut_of(opened[W0]) is not None


def test_a_run_without_checkpoints_of_its_own_goes_on_all_the_same(tmp_path: Path, events: EventLog) -> None:
    service = MembershipService(1, 0, Network(), events, 0.0)
    list(service.handle(Request(Ticket(W0, 1, 1), Hello()), 0.0))
    ((_, answer),) = service.handle(Request(Ticket(W0, 1, 2), at("checkpoint 0 4")), 0.0)
    assert cut_of(answer) is None


@pytest.mark.parametrize("barrier", ["checkpoint", "checkpoint 3", "checkpoint a b"])
def test_a_checkpoint_without_a_position_is_refused(tmp_path: Path, events: EventLog, barrier: str) -> None:
    federation = Federation(tmp_path, events).all_here()
    with pytest.raises(Refused, match=f"'{barrier}' names no position, expected for example 'checkpoint 3 200'"):
        federation.say(W0, at(barrier))


def test_who_goes_on_from_elsewhere_is_refused_and_told_what_to_do(tmp_path: Path, events: EventLog) -> None:
    federation = Federation(tmp_path, events, resumed="abc")
    assert federation.say(W0, Hello("abc")) == {W0: Done()}
    for hello, its in ((Hello("def"), "checkpoint def"), (Hello(), "the beginning")):
        with pytest.raises(
            Refused, match=f"starts from checkpoint abc, worker:1 from {its}: start every host with the"
        ):
            federation.say(W1, hello)


def test_a_manifest_can_be_read_by_people(tmp_path: Path, events: EventLog) -> None:
    checkpoints = Checkpoints(job_in(tmp_path), events)
    cut = checkpoints.begin(0, 4, {}, 0.0)
    checkpoints.wrote(S0, wrote(cut, S0), 0.0)
    text = (tmp_path / "checkpoint" / "0-4" / MANIFEST).read_text()
    assert msgspec.json.decode(text)["files"] == {"shared-0-of-2.safetensors": "sha of server:0"}
    assert len(text.splitlines()) > 10
