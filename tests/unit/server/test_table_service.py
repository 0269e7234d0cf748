"""Which message means what to a server, without sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.config.types import Config, Runner
from flps.errors import Refused
from flps.membership import Member
from flps.message import (
    Beat,
    Body,
    Changes,
    Declare,
    Declared,
    Detach,
    Done,
    Look,
    Pull,
    Push,
    Rows,
    Save,
    Saved,
    Start,
    Update,
    Window,
)
from flps.server.service import TableService
from flps.server.store import Store
from flps.table import Initializer, Sgd, TableSpec
from flps.transport.listener import Request, Ticket

SPEC = TableSpec(name="items", kind="sparse", dim=1, rule=Sgd(1.0), bound=9, init=Initializer("zeros"), dtype="float64")
DENSE = TableSpec(name="dense", kind="dense", dim=2, rule=Sgd(1.0), dtype="float64")


class Server:
    """A service of one server and the workers that talk to it."""

    def __init__(self, mode: Any, workers: int, folder: Path) -> None:
        config = Config(runner=Runner(sync_mode=mode))
        self.lost: set[Member] = set()
        self.service = TableService(Store(0, 1, 100), config, workers, folder, lambda: frozenset(self.lost))
        self._sequence = 0
        for rank in range(workers):
            self.say(rank, Declare((msgspec.to_builtins(SPEC), msgspec.to_builtins(DENSE))))

    def say(self, who: int | Member, body: Body) -> dict[int, Body]:
        """Answers by rank of the worker that gets them."""
        member = who if isinstance(who, Member) else Member("worker", who)
        self._sequence += 1
        request = Request(Ticket(member, 1, self._sequence), body)
        return {ticket.member.rank: answer for ticket, answer in self.service.handle(request, 0.0)}

    def tick(self) -> dict[int, Body]:
        answers = [answer for loss in self.service.losses(0.0) for answer in self.service.lose(loss, 0.0)]
        return {ticket.member.rank: answer for ticket, answer in [*answers, *self.service.tick(0.0)]}

    def row(self, key: int = 0, who: int = 0) -> float:
        rows = self.say(who, Look((Pull(0, np.array([key], np.uint64)),)))[who]
        assert isinstance(rows, Rows)
        return float(rows.values[0][0, 0])


def step(number: int, gradient: float, samples: int = 1, final: bool = False, epoch: int = 0) -> Update:
    """Pushes row 0 and asks for it."""
    key = np.array([0], np.uint64)
    pushes = (Push(0, key, np.full((1, 1), gradient)),) if samples else ()
    return Update(epoch, number, samples, final, pushes, (Pull(0, key),))


def test_coming_up(tmp_path: Path) -> None:
    server = Server("geo", 2, tmp_path)
    tables = (msgspec.to_builtins(SPEC), msgspec.to_builtins(DENSE))
    assert server.say(0, Declare(tables)) == {0: Declared((1,))}
    assert server.say(0, Start((Push(1, None, np.ones(2)),))) == {0: Done()}
    assert server.say(1, Declare(tables)) == {1: Declared(())}


def test_async_applies_on_arrival(tmp_path: Path) -> None:
    server = Server("async", 2, tmp_path)
    answer = server.say(0, step(0, 3.0))[0]
    assert isinstance(answer, Rows)
    assert answer.values[0].tolist() == [[-3]]
    assert server.say(1, step(5, 1.0, epoch=9))[1].values[0].tolist() == [[-4]]  # type: ignore[union-attr]


def test_sync_answers_all_when_the_last_has_come(tmp_path: Path) -> None:
    server = Server("sync", 3, tmp_path)
    assert server.say(2, step(0, 6.0, samples=1)) == {}
    assert server.say(0, step(0, 2.0, samples=2)) == {}
    assert server.row() == 0
    answers = server.say(1, step(0, 4.0, samples=1))
    assert list(answers) == [0, 1, 2]
    assert [answer.values[0].tolist() for answer in answers.values()] == [[[-(2 * 2 + 4 + 6) / 4]]] * 3  # type: ignore[union-attr]
    assert [answer.share for answer in answers.values()] == [0.5, 0.25, 0.25]  # type: ignore[union-attr]


def test_sync_goes_on_when_a_worker_is_lost(tmp_path: Path) -> None:
    server = Server("sync", 3, tmp_path)
    server.say(0, step(0, 2.0))
    server.say(1, step(0, 4.0))
    server.lost.add(Member("worker", 2))
    assert list(server.tick()) == [0, 1]
    assert server.row() == -3
    assert server.tick() == {}
    with pytest.raises(Refused, match="worker:2 takes no part: it left, was held for lost"):
        server.say(2, step(1, 1.0))


def test_sync_goes_on_when_a_worker_leaves(tmp_path: Path) -> None:
    server = Server("sync", 2, tmp_path)
    server.say(0, step(0, 2.0))
    assert {rank: type(answer) for rank, answer in server.say(1, Detach()).items()} == {1: Done, 0: Rows}
    assert server.row() == -2


def test_sync_an_empty_shard_keeps_nobody_waiting(tmp_path: Path) -> None:
    server = Server("sync", 2, tmp_path)
    server.say(0, step(0, 2.0))
    assert list(server.say(1, Update(0, 0, 0, True, (), ()))) == [0, 1]
    assert server.row() == -2
    assert list(server.say(0, step(1, 1.0))) == [0]


def test_sync_a_step_without_any_samples_changes_nothing(tmp_path: Path) -> None:
    server = Server("sync", 1, tmp_path)
    assert list(server.say(0, step(0, 0.0, samples=0))) == [0]
    assert server.row() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wrong_step_is_refused_and_the_right_one_is_taken(mode: str, tmp_path: Path) -> None:
    server = Server(mode, 1, tmp_path)
    key = np.array([0], np.uint64)
    for wrong in (
        step(0, np.nan),
        Update(0, 0, 0, False, (Push(0, key, np.ones((1, 1))),), ()),
        Update(0, 0, 1, False, (Push(0, key, np.ones((1, 1))),), (Pull(0, np.array([9], np.uint64)),)),
        Update(0, 0, 1, False, (Push(0, key, np.ones((1, 1))), Push(1, None, np.ones(3))), ()),
    ):
        with pytest.raises(Refused):
            server.say(0, wrong)
        assert server.row() == 0
    server.say(0, step(0, 1.0))
    assert server.row() == -1


def test_windows_are_answered_with_changes(tmp_path: Path) -> None:
    server = Server("geo", 2, tmp_path)
    key = np.array([0], np.uint64)
    answer = server.say(0, Window(0, 1, False, (Push(0, key, np.ones((1, 1))),), {0: 0}))[0]
    assert isinstance(answer, Changes)
    assert answer.weight == 0.5
    server.say(1, Detach())
    assert server.say(0, Window(0, 1, False, (), {}))[0].weight == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("who", [Member("coordinator", 0), Member("server", 1), Member("worker", 2), Member("x", 0)])
@pytest.mark.parametrize(
    "body",
    [Look(()), step(0, 1.0), Window(0, 9, False, (), {}), Save(0), Start(()), Declare(())],
    ids=lambda body: type(body).__name__,
)
def test_who_takes_no_part_is_refused(who: Member, body: Body, tmp_path: Path) -> None:
    server = Server("geo", 2, tmp_path)
    with pytest.raises(Refused, match=rf"{who} (may not use tables|takes no part)"):
        server.say(who, body)
    assert not list(tmp_path.iterdir())


def test_saving_goes_where_the_server_says(tmp_path: Path) -> None:
    server = Server("geo", 1, tmp_path)
    answer = server.say(0, Save(3))[0]
    assert isinstance(answer, Saved)
    assert list(answer.files) == ["shared-0-of-1.safetensors"]
    assert (tmp_path / "3" / "shared-0-of-1.safetensors").is_file()


def test_finished_when_every_worker_has_left_or_is_lost(tmp_path: Path) -> None:
    server = Server("geo", 3, tmp_path)
    server.say(0, Detach())
    server.say(0, Detach())
    server.lost.add(Member("worker", 2))
    server.lost.add(Member("server", 1))
    server.tick()
    assert not server.service.finished
    server.say(1, Detach())
    assert server.service.finished


def test_other_messages_are_not_for_servers(tmp_path: Path) -> None:
    service = Server("geo", 1, tmp_path).service
    assert not service.handles(Beat())
    assert all(map(service.handles, (Look(()), Save(0), Detach(), Declare(()))))
