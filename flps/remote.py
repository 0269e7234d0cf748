"""Tables behind servers: keys go to the shards that hold them, answers come back in the order of the question.

Law 1: one message to each server, whatever the number of tables.
Law 2: a push that a server refused is counted and left out, and the step goes on; too many in a row end the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from flps.errors import FlpsError, PeerLost, ProtocolError, Refused, RoleFailed
from flps.message import (
    Body,
    Changes,
    Cut,
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
    Settle,
    Shrink,
    Start,
    Tensor,
    Update,
    Window,
)
from flps.packing import RowType, pack, unpack
from flps.routing import blocks, shard_of
from flps.table import TableSpec
from flps.table.accessor import Mode
from flps.transport.connection import Connection

log = logging.getLogger(__name__)
Places: TypeAlias = list[NDArray[np.int64] | slice]  # per server: which rows of a tensor are its own
Answer = TypeVar("Answer", bound=Body)


class Pending(NamedTuple):
    """Requests under way, one to each server, and what is needed to put the answers together."""

    numbers: list[int]
    bodies: list[Update] | None  # kept to ask again without the pushes, should a server refuse them
    pulls: Sequence[Pull]
    places: list[Places]  # of each pull
    arriving: list[Tensor] | None = None  # the values of each push as the servers get them, when rows travel packed


class Fetched(NamedTuple):
    """What came of a step."""

    rows: list[Tensor]  # in the order of the pulls
    share: float  # sync: this worker's samples of the step / the cohort's; 0 where a server refused its gradients


class Exchanged(NamedTuple):
    """What came of a window."""

    applied: list[Tensor]  # each delta as the servers added it
    changed: list[Push]  # rows that others changed, as they now are
    refused: bool  # a server did not take its part of the deltas


class Servers:
    """All parameter servers of a run, seen from one worker."""

    def __init__(
        self,
        connections: Sequence[Connection],
        max_refused: int,
        barrier_s: float,
        tell_refused: Callable[[str], None] = lambda reason: None,
        row_type: RowType = "float32",
    ) -> None:
        """`barrier_s`: longest wait for an answer that depends on other workers; `tell_refused(reason)`: a push was
        refused; `row_type`: how what is pushed travels.
        """
        self._row_type = row_type
        self._tell_refused = tell_refused
        self._connections = connections
        self._max_refused = max_refused
        self._barrier_s = barrier_s
        self._specs: list[TableSpec] = []
        self._cursors: list[dict[int, int]] = [{} for _ in connections]
        self.rejected_pushes = 0
        self.cohort: tuple[int, ...] = ()  # ranks of the workers that began this epoch together
        self._refused: Refused | None = None  # in the step or window that is being answered
        self._refused_in_a_row = 0

    @property
    def bytes_in(self) -> int:
        """Bytes received from all servers."""
        return sum(connection.bytes_in for connection in self._connections)

    @property
    def bytes_out(self) -> int:
        """Bytes sent to all servers."""
        return sum(connection.bytes_out for connection in self._connections)

    def declare(self, specs: Sequence[TableSpec], first: Mapping[int, Tensor]) -> None:
        """Agree on the tables; their numbers are their places in `specs`. `first`: values of dense tables."""
        self._specs = list(specs)
        count = len(self._connections)
        for rank, connection in enumerate(self._connections):
            share = [self._share(spec, rank) for spec in specs]
            answer = _expect(Declared, connection.ask(Declare(tuple(msgspec.to_builtins(s) for s in share))))
            values = [Push(n, None, first[n][blocks(first[n].size, count)[rank]]) for n in answer.empty]
            if values:
                connection.ask(Start(tuple(values)))

    def look(self, pulls: Sequence[Pull]) -> Pending:
        """Ask for rows as they are now."""
        places = [self._places(pull.table, pull.keys) for pull in pulls]
        numbers = [
            connection.send(Look(self._pulls_of(rank, pulls, places)))
            for rank, connection in enumerate(self._connections)
        ]
        return Pending(numbers, None, pulls, places)

    def update(
        self, epoch: int, step: int, samples: int, final: bool, pushes: Sequence[Push], pulls: Sequence[Pull]
    ) -> Pending:
        """Send gradients of one step, and ask for the rows wanted next."""
        pushed = [self._places(push.table, push.keys) for push in pushes]
        places = [self._places(pull.table, pull.keys) for pull in pulls]
        cohort = () if step else self.cohort
        bodies = []
        for rank in range(len(self._connections)):
            own, wanted = self._pushes_of(rank, pushes, pushed), self._pulls_of(rank, pulls, places)
            bodies.append(Update(epoch, step, samples, final, own, wanted, cohort))
        numbers = [connection.send(body) for connection, body in zip(self._connections, bodies, strict=True)]
        arriving = None if self._row_type == "float32" else _arriving(pushes, pushed, [body.pushes for body in bodies])
        return Pending(numbers, bodies, pulls, places, arriving)

    def rows(self, pending: Pending) -> list[Tensor]:
        """The rows asked for, in the order of the pulls. Raises as `fetched`."""
        return self.fetched(pending).rows

    def fetched(self, pending: Pending) -> Fetched:
        """What came of a step. Raises PeerLost, and FlpsError after too many refusals in a row."""
        answers = [self._rows_from(rank, pending) for rank in range(len(self._connections))]
        if pending.bodies is not None and any(body.pushes for body in pending.bodies):
            self._judge()
        rows = [
            self._joined(pull, places, [answer.values[at] for answer in answers])
            for at, (pull, places) in enumerate(zip(pending.pulls, pending.places, strict=True))
        ]
        return Fetched(rows, min(answer.share for answer in answers))

    def window(self, epoch: int, samples: int, final: bool, deltas: Sequence[Push], tables: Sequence[int]) -> Exchanged:
        """Send deltas; learn how the servers added them and what others changed in `tables` since the last time."""
        places = [self._places(delta.table, delta.keys) for delta in deltas]
        numbers, sent = [], []
        for rank, connection in enumerate(self._connections):
            cursors = {table: self._cursors[rank].get(table, 0) for table in tables}
            sent.append(self._pushes_of(rank, deltas, places))
            numbers.append(connection.send(Window(epoch, samples, final, sent[rank], cursors)))
        applied = [np.zeros_like(delta.values) for delta in deltas]
        changed: list[Push] = []
        is_refused = False
        for rank, (connection, number) in enumerate(zip(self._connections, numbers, strict=True)):
            answer = self._changes_from(connection, number)
            if answer is None:
                is_refused = True
                continue
            changed += [self._placed(rank, push) for piece in self._pieces(rank, answer) for push in piece.changed]
            self._cursors[rank].update(answer.cursors)
            for piece, place, whole in zip(sent[rank], places, applied, strict=True):
                whole[place[rank]] = unpack(piece.values) * whole.dtype.type(answer.weight)
        if not deltas and self._refused is not None:
            raise FlpsError(f"the servers do not tell what has changed: {self._refused}")
        if deltas:
            self._judge()
        return Exchanged(applied, changed, is_refused)

    def _pieces(self, rank: int, first: Changes) -> Iterator[Changes]:
        """An answer, and the rest of it when it did not fit into one message."""
        yield first
        more, connection = first.more, self._connections[rank]
        while more:
            cursors = {table: self._cursors[rank].get(table, 0) for table in more}
            answer = _expect(Changes, connection.ask(Window(0, 0, False, (), cursors, more)))
            yield answer
            more = answer.more

    def save(self, epoch: int, mode: Mode = "all") -> dict[str, str]:
        """Let every server write its share of the model after `epoch` epochs; returns file -> sha256.

        mode: which rows of tables with an accessor.
        """
        numbers = [connection.send(Save(epoch, mode)) for connection in self._connections]
        files: dict[str, str] = {}
        for connection, number in zip(self._connections, numbers, strict=True):
            files.update(_expect(Saved, connection.wait(number, self._barrier_s)).files)
        return files

    def settle(self, epoch: int, mode: Mode) -> None:
        """The model that was saved after `epoch` epochs is complete."""
        self._tell(Settle(epoch, mode))

    def shrink(self, day: int, is_day: bool) -> None:
        """Let tables with an accessor forget; `is_day`: then a day ends for the rows that stay."""
        self._tell(Shrink(day, is_day))

    def cut(self, cut: Cut) -> None:
        """Everybody stands still: let every server begin its part of a checkpoint."""
        self._tell(cut)

    def _tell(self, body: Body) -> None:
        """Let every server do something, at the same time."""
        numbers = [connection.send(body) for connection in self._connections]
        for connection, number in zip(self._connections, numbers, strict=True):
            _expect(Done, connection.wait(number))

    def detach(self, timeout_s: float) -> None:
        """Use the tables no more. A server that has heard it may have ended before its answer gets here, so silence for
        longer than `timeout_s`, or news of its end, is a note in the log, not an error.
        """
        for connection in self._connections:
            try:
                connection.ask(Detach(), timeout_s)
            except (PeerLost, RoleFailed) as error:
                log.warning("good-bye without an answer: %s", error)

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()

    # --- dividing and joining ----------------------------------------------------------------------------------------

    def _share(self, spec: TableSpec, rank: int) -> TableSpec:
        if spec.kind == "sparse":
            return spec
        block = blocks(spec.dim, len(self._connections))[rank]
        return msgspec.structs.replace(spec, dim=block.stop - block.start)

    def _places(self, table: int, keys: Tensor | None) -> Places:
        count = len(self._connections)
        if keys is None:
            return list(blocks(self._specs[table].dim, count))
        if count == 1:
            return [slice(0, keys.size)]
        shards = shard_of(keys, count)
        return [np.flatnonzero(shards == rank) for rank in range(count)]

    def _pushes_of(self, rank: int, pushes: Sequence[Push], places: Sequence[Places]) -> tuple[Push, ...]:
        return tuple(
            Push(
                push.table,
                None if push.keys is None else push.keys[place[rank]],
                pack(push.values[place[rank]], self._row_type),
                None if push.counts is None else push.counts[place[rank]],
            )
            for push, place in zip(pushes, places, strict=True)
        )

    def _pulls_of(self, rank: int, pulls: Sequence[Pull], places: Sequence[Places]) -> tuple[Pull, ...]:
        return tuple(
            Pull(pull.table, None if pull.keys is None else pull.keys[place[rank]])
            for pull, place in zip(pulls, places, strict=True)
        )

    def _joined(self, pull: Pull, places: Places, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        dim = self._specs[pull.table].dim
        whole = np.empty((dim,) if pull.keys is None else (pull.keys.size, dim), parts[0].dtype)
        for place, part in zip(places, parts, strict=True):
            whole[place] = part
        return whole

    def _placed(self, rank: int, push: Push) -> Push:
        """A server's block of a dense tensor as a push whose keys are the numbers' places in the whole."""
        if push.keys is not None or len(self._connections) == 1:
            return push
        block = blocks(self._specs[push.table].dim, len(self._connections))[rank]
        return Push(push.table, np.arange(block.start, block.stop, dtype=np.uint64), push.values)

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _rows_from(self, rank: int, pending: Pending) -> Rows:
        connection = self._connections[rank]
        try:
            answer = connection.wait(pending.numbers[rank], self._barrier_s)
        except Refused as refusal:
            if pending.bodies is None:
                raise
            self._count(refusal)
            without = msgspec.structs.replace(pending.bodies[rank], samples=0, pushes=())
            answer = connection.ask(without, self._barrier_s)
        return _expect(Rows, answer)

    def _changes_from(self, connection: Connection, number: int) -> Changes | None:
        try:
            return _expect(Changes, connection.wait(number))
        except Refused as refusal:
            self._count(refusal)
            return None

    def _count(self, refusal: Refused) -> None:
        self.rejected_pushes += 1
        self._refused = refusal
        log.warning("push refused (after %d refused ones in a row): %s", self._refused_in_a_row, refusal)
        self._tell_refused(str(refusal))

    def _judge(self) -> None:
        """A step or window is refused when any server refused its part; too many in a row end the worker."""
        refused, self._refused = self._refused, None
        self._refused_in_a_row = self._refused_in_a_row + 1 if refused is not None else 0
        if self._refused_in_a_row >= self._max_refused:
            raise FlpsError(f"{self._refused_in_a_row} pushes in a row were refused, the last one: {refused}")


def _arriving(pushes: Sequence[Push], places: Sequence[Places], sent: Sequence[Sequence[Push]]) -> list[Tensor]:
    """What the servers get of each push, put together from the piece of each server."""
    whole = [np.empty_like(push.values) for push in pushes]
    for rank, pieces in enumerate(sent):
        for values, place, piece in zip(whole, places, pieces, strict=True):
            values[place[rank]] = unpack(piece.values)
    return whole


def _expect(kind: type[Answer], answer: Any) -> Answer:
    if not isinstance(answer, kind):
        raise ProtocolError(f"the server answered with {type(answer).__name__}, expected {kind.__name__}")
    return answer
