"""Which message means what to a server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from flps.checkpoint.run import OwnParts
from flps.config.types import Config
from flps.errors import Refused, ResourceError
from flps.membership import Loss, Member
from flps.message import (
    Body,
    Cut,
    Declare,
    Declared,
    Detach,
    Done,
    Look,
    Rows,
    Save,
    Saved,
    Settle,
    Shrink,
    Start,
    Tensor,
    Update,
    Window,
)
from flps.packing import pack
from flps.server.cohort import Cohort, CohortState
from flps.server.store import Store
from flps.server.windows import Windows, WindowsState
from flps.table import TableSpec
from flps.transport.base import Written
from flps.transport.listener import Answers, Request, Ticket

log = logging.getLogger(__name__)


class ServerState(msgspec.Struct, frozen=True):
    """What a server remembers beside its tables; all servers of a run remember the same."""

    cohort: CohortState
    windows: WindowsState


class ServerImage(msgspec.Struct, frozen=True):
    """What this server alone remembers, so that it may die."""

    state: ServerState
    present: tuple[int, ...]
    lives: dict[int, int]
    versions: dict[int, int]  # of the change logs
    specs: tuple[TableSpec, ...]
    days: tuple[int, int]


class TableService:
    """Answers pulls and pushes; ends when every worker has left or is lost."""

    def __init__(
        self,
        store: Store,
        config: Config,
        workers: int,
        models: Path,
        lost: Callable[[], frozenset[Member]],
        parts: OwnParts | None = None,
        workers_of_a_sample: int = 1,
    ) -> None:
        """`models`: folder of the saved models; `lost()` names the members that the coordinator holds for lost;
        `parts`: of checkpoints, this server's; `workers_of_a_sample`: 2 where two have each row between them.
        """
        self._workers_of_a_sample = workers_of_a_sample
        self._store = store
        self._parts = parts
        self._last_cut = ""
        self._models = models
        self._lost = lost
        self._present = set(range(workers))
        self.keep: Callable[[Path], Written | None] = lambda path: None  # what else is done when tables are written
        self._made_rows = False  # the last question asked for rows that there were not
        self._lives: dict[int, int] = {}  # worker -> its incarnation
        self._waits_for_cohort = config.runner.sync_mode == "sync"
        self._cohort = Cohort(workers)
        self._row_type = config.runner.row_type
        self._windows = Windows(store, workers, config.runner.geo_weights, self._row_type)
        self.finished = False

    def state(self) -> ServerState:
        """What must be kept beside the tables, so that a server goes on as this one would."""
        return ServerState(self._cohort.state(), self._windows.state())

    def take_up(self, state: ServerState) -> None:
        """Go on from there; the store has its tables already."""
        self._cohort.take_up(state.cohort)
        self._windows.take_up(state.windows)

    def image(self) -> bytes | None:
        """All that a later life needs beside the tables; None while a step is half complete."""
        if not (self._store.has_begun and self._cohort.is_at_rest and self._windows.is_at_rest):
            return None
        specs = tuple(table.spec for table in self._store.tables)
        present, lives, versions = tuple(sorted(self._present)), dict(self._lives), self._windows.versions()
        image = ServerImage(self.state(), present, lives, versions, specs, self._store.days())
        return msgspec.msgpack.encode(image)

    def take_up_image(self, image: bytes, tables: Path | None, sha256: str) -> None:
        """Be what an earlier life was, with its tables in that file. Raises DataError."""
        held = msgspec.msgpack.decode(image, type=ServerImage)
        assert tables is not None
        self._store.take_back(held.specs, held.days, tables, sha256)
        self.take_up(held.state)
        self._windows.take_up_versions(held.versions)
        self._lives = held.lives
        for rank in self._present - set(held.present):
            self._forget(rank)

    def handles(self, body: Body) -> bool:
        return isinstance(body, Declare | Start | Look | Update | Window | Save | Settle | Shrink | Cut | Detach)

    def records(self, request: Request) -> bool:
        if isinstance(request.body, Look):
            made, self._made_rows = self._made_rows, False
            return made
        return not isinstance(request.body, Save | Cut)

    def handle(self, request: Request, now: float) -> Answers:
        ticket, body = request.ticket, request.body
        if ticket.member.role != "worker":
            raise Refused(f"{ticket.member} may not use tables: only workers do")
        if ticket.member.rank not in self._present and not isinstance(body, Detach):
            raise Refused(f"{ticket.member} takes no part: it left, was held for lost, or was never expected")
        match body:
            case Declare():
                empty = self._store.declare(body.tables)
                return [(ticket, Declared(tuple(empty))), *self._meet(ticket)]
            case Start():
                self._store.start(body.values)
                return [(ticket, Done())]
            case Look():
                before = self._store.rows
                rows = self._rows(self._store.pull(body.pulls))
                self._made_rows = self._store.rows > before
                return [(ticket, rows)]
            case Update():
                return self._update(ticket, body)
            case Window():
                return [(ticket, self._windows.take(ticket.member.rank, body))]
            case Cut():
                self._cut(body)
                return [(ticket, Done())]
            case Save():
                return [(ticket, Saved(self._store.save(self._models / str(body.epoch), body.epoch, body.mode)))]
            case Settle():
                self._store.settle(body.epoch, body.mode)
                return [(ticket, Done())]
            case Shrink():
                for table, keys in self._store.shrink(body.day, body.is_day).items():
                    self._windows.forget_rows(table, keys)
                return [(ticket, Done())]
            case _:
                self._forget(ticket.member.rank)
                return [(ticket, Done()), *self._complete()]

    def losses(self, now: float) -> Sequence[Loss]:
        lost = sorted(member for member in self._lost() if member.role == "worker" and member.rank in self._present)
        return [Loss(member, "", came_up=True) for member in lost]

    def lose(self, loss: Loss, now: float) -> Answers:
        log.warning("%s is lost: the others go on without it", loss.member)
        self._forget(loss.member.rank)
        return self._complete()

    def tick(self, now: float) -> Answers:
        return []

    def _meet(self, ticket: Ticket) -> Answers:
        """A worker came up. In a later life it takes no part in what is under way: it joins when an epoch begins."""
        rank, earlier = ticket.member.rank, self._lives.get(ticket.member.rank, ticket.incarnation)
        self._lives[rank] = ticket.incarnation
        if ticket.incarnation == earlier:
            return []
        log.warning("%s has begun anew, in its life %d", ticket.member, ticket.incarnation)
        self._cohort.rest(rank)
        self._windows.rest(rank)
        return self._complete()

    def _cut(self, cut: Cut) -> None:
        """Every worker stands still: what is here now is this server's part of the checkpoint."""
        if self._parts is None or cut.checkpoint == self._last_cut:
            return
        self._last_cut = cut.checkpoint
        specs = [table.spec for table in self._store.tables]
        state = self.state()
        # The coordinator may know of a loss that this server has not heard of yet.
        expected = tuple(rank for rank in state.cohort.expected if rank in cut.workers)
        state = msgspec.structs.replace(state, cohort=msgspec.structs.replace(state.cohort, expected=expected))
        self._parts.write(cut, specs, state, self._write_part)

    def _write_part(self, path: Path, done: Written) -> None:
        """The part stands for the journal until here, too."""
        kept = self.keep(path)

        def both(outcome: str | ResourceError) -> None:
            if kept is not None:
                kept(outcome)
            done(outcome)

        self._store.snapshot(path, both)

    def _update(self, ticket: Ticket, update: Update) -> Answers:
        if update.pushes and not update.samples:
            raise Refused("gradients that are the mean of no samples mean nothing")
        self._store.accept(update.pushes)
        self._store.check(update.pulls)
        if not self._waits_for_cohort:
            for push in update.pushes:
                self._store.apply(push)
            return [(ticket, self._rows(self._store.read(update.pulls)))]
        self._cohort.offer(ticket, update)
        return self._complete()

    def _complete(self) -> Answers:
        steps = self._cohort.complete()
        if steps is None:
            return []
        total = sum(update.samples for _, update in steps) / self._workers_of_a_sample
        self._store.apply_mean([(update.samples, update.pushes) for _, update in steps], total)
        return [
            (ticket, self._rows(self._store.read(update.pulls), update.samples / max(total, 1)))
            for ticket, update in steps
        ]

    def _rows(self, values: Sequence[Tensor], share: float = 1.0) -> Rows:
        return Rows(tuple(pack(rows, self._row_type) for rows in values), share)

    def _forget(self, rank: int) -> None:
        self._present.discard(rank)
        self._cohort.drop(rank)
        self._windows.drop(rank)
        self.finished = not self._present
