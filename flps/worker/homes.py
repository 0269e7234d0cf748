"""Where parameters live while a worker trains, and what travels.

    LocalHome    in this process: private parameters, and everything when there are no servers
    StepHome     at the servers: each step sends gradients and fetches the rows of the next batch (sync, async)
    WindowHome   trained here, exchanged every `geo_step` steps as deltas (geo); see windows.py

The training loop drives all homes alike: begin an epoch, send and receive at each step, flush at its end. Between
`send` and `receive` of one home come those of the others: what one waits for is under way while others work.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from flps.message import Pull, Push
from flps.nn import PrivateTable
from flps.nn.embedding import Lookup
from flps.remote import Pending, Servers
from flps.table import CountedTable, DenseTable, SparseTable, distinct, make_sparse
from flps.table.accessor import Mode
from flps.table.files import Parts, TensorFile
from flps.table.snapshot import Content
from flps.worker.feedback import Feedback
from flps.worker.parameters import DenseParameter, Keys, Parameter, Rows, SparseParameter
from flps.worker.upcoming import Upcoming

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One optimizer step of this worker."""

    epoch: int
    number: int  # within the epoch
    samples: int


class Home(Protocol):
    """Keeps some parameters."""

    lookahead: int  # batches after the current one that it wants to see

    def begin(self, epoch: int, upcoming: Sequence[Upcoming]) -> None:
        """An epoch begins with these batches, at most 1 + lookahead of them."""

    def send(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        """Gradients have been computed; the next batches are `upcoming`, at most 1 + lookahead of them."""

    def receive(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        """Parameters are to be what the next batch wants; every home has sent."""

    def end(self, epoch: int) -> None:
        """No batch is left: send what has not been sent, wait for what is under way."""

    def rest(self) -> None:
        """Between two steps everybody stands still for a checkpoint: wait for what is under way. `begin` follows."""

    def content(self) -> Content:
        """What this worker remembers and the servers do not, for its own disk."""

    def take_up(self, file: TensorFile) -> None:
        """Remember what `content` gave. Raises DataError."""

    def refresh(self) -> None:
        """Everybody has sent everything: take the servers' state, for measuring and for the next epoch."""


class LocalHome:
    """Parameters in this process."""

    lookahead = 0

    def __init__(
        self, parameters: Sequence[Parameter], private: bool, share: Callable[[], float] = lambda: 1.0
    ) -> None:
        """`private`: their tables hand out private arrays. `share()`: in sync this worker's part of the samples that
        the step's gradient is the mean of, so that private rows, too, move by the gradient of the whole cohort.
        """
        self.tables: dict[str, SparseTable | PrivateTable | DenseTable] = {}
        self._parameters = parameters
        self._share = share
        self._gradients: list[Rows | tuple[Keys, Rows] | None] = []
        for parameter in parameters:
            spec = parameter.spec
            if isinstance(parameter, SparseParameter):
                table = PrivateTable(spec) if private else make_sparse(spec)
                parameter.embedding.table = table
                self.tables[spec.name] = table
            else:
                dense = DenseTable(spec)
                dense.start_with(parameter.pack.values())
                self.tables[spec.name] = dense

    def begin(self, epoch: int, upcoming: Sequence[Upcoming]) -> None:
        """Nothing to fetch."""

    def send(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        self._gradients = [parameter.gradient() for parameter in self._parameters]

    def receive(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        share = self._share()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            keys, rows = gradient if isinstance(gradient, tuple) else (None, gradient)
            if rows is not None and self._accepts(parameter.spec.name, rows, share):
                self._push(parameter, keys, _part(rows, share))

    def _push(self, parameter: Parameter, keys: Keys | None, rows: Rows) -> None:
        table = self.tables[parameter.spec.name]
        if isinstance(parameter, DenseParameter):
            assert isinstance(table, DenseTable)
            table.push(rows)
            parameter.pack.load(table.values)
            return
        assert keys is not None
        if isinstance(table, PrivateTable | CountedTable):
            table.push(keys, rows, unique=True, counts=parameter.counts)
        elif isinstance(table, SparseTable):
            table.push(keys, rows, unique=True)

    @staticmethod
    def _accepts(table: str, gradient: Rows, share: float) -> bool:
        """As a server does: what is no number changes nothing; nor does a step whose gradients the servers refused."""
        if not np.isfinite(gradient).all():
            log.warning("table %s: a gradient with NaN or Inf is left out", table)
            return False
        return share > 0

    def end(self, epoch: int) -> None:
        """Nothing is under way."""

    def rest(self) -> None:
        """Nothing is under way."""

    def content(self) -> Content:
        content = Content({}, {})
        for name, table in self.tables.items():
            held = f"private/{name}"
            if isinstance(table, PrivateTable):
                content = content.joined(table.content(held))
            elif isinstance(table, SparseTable):
                content = content.joined(Content({held: table}, {}))
            else:
                content = content.joined(Content({}, {held: table.dump()}))
        return content

    def take_up(self, file: TensorFile) -> None:
        for name, table in self.tables.items():
            held = f"private/{name}"
            if isinstance(table, DenseTable):
                table.load({part: file.read(held, part) for part in table.dump()})
                self._show(table)
            else:
                for piece in file.pieces(held, table.columns):
                    table.load(piece)

    def dump(self, mode: Mode = "all") -> dict[str, Parts]:
        """Everything, by table, for the owner's own disk; of tables with an accessor what the mode says."""
        return {
            name: table.dump(mode) if isinstance(table, PrivateTable) else table.dump()
            for name, table in self.tables.items()
        }

    def settle(self, mode: Mode) -> None:
        """A save of this mode is complete."""
        for table in self.tables.values():
            if isinstance(table, PrivateTable | CountedTable):
                table.settle(mode)

    def shrink(self, is_day: bool) -> None:
        """Let tables with an accessor forget; `is_day`: then a day ends for the rows that stay."""
        for table in self.tables.values():
            if isinstance(table, PrivateTable | CountedTable):
                table.shrink(is_day)

    def load(self, name: str, parts: Sequence[Parts], keys: Keys, own: int | None) -> None:
        """Put a table back from the dumps of several owners: of sparse tables the rows of these `keys`, of a dense
        one the dump number `own`; None: which of them is this client's cannot be said, and its first values stay.
        """
        table = self.tables[name]
        if isinstance(table, DenseTable):
            if own is None:
                log.warning(
                    "table %s was saved by %d clients, not by as many as now: it is not taken", name, len(parts)
                )
            else:
                table.load(parts[own])
                self._show(table)
            return
        for part in parts:
            table.load(part, np.isin(part["keys"], keys))

    def _show(self, table: DenseTable) -> None:
        for parameter in self._parameters:
            if isinstance(parameter, DenseParameter) and parameter.spec.name == table.spec.name:
                parameter.pack.load(table.values)

    def refresh(self) -> None:
        """The state is here."""


class StepHome:
    """Parameters at the servers, exchanged at every step.

    `lookahead` 0 (sync): the rows of the next batch come after this step's update of everybody. 1 (async): they were
    asked for before this batch was computed, so the wire and the model work at the same time.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        servers: Servers,
        numbers: dict[str, int],
        lookahead: int,
        packed: bool = False,
    ) -> None:
        """`numbers`: table name -> the number that the servers know it by; `packed`: gradients travel rounded."""
        self._feedback = Feedback({numbers[p.spec.name]: p.spec for p in parameters} if packed else {})
        self.lookahead = lookahead
        self._parameters = parameters
        self._servers = servers
        self._numbers = numbers
        # An embedding that names no feature asks for its rows when it is called.
        self._fetched = [p for p in parameters if isinstance(p, DenseParameter) or p.embedding.feature]
        self.share = 1.0  # of this worker in the samples of the last step
        self._asked: deque[tuple[Pending, list[Lookup | None]]] = deque()
        self._next_step = 0
        for parameter in parameters:
            if isinstance(parameter, SparseParameter):
                parameter.embedding.table = RowsOnDemand(servers, numbers[parameter.spec.name])

    def begin(self, epoch: int, upcoming: Sequence[Upcoming]) -> None:
        self._next_step = 0
        self._asked.clear()
        for batch in upcoming:
            pulls, lookups = self._questions(batch)
            self._asked.append((self._servers.look(pulls), lookups))
        if upcoming:
            self._stage()

    def send(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        wanted = upcoming[self.lookahead] if len(upcoming) > self.lookahead else None
        pulls, lookups = self._questions(wanted) if wanted is not None else ([], [])
        final = not upcoming
        pushes = [self._feedback.added_to(push) for push in self._pushes()]
        pending = self._servers.update(step.epoch, step.number, step.samples, final, pushes, pulls)
        for push, arriving in zip(pushes, pending.arriving or [], strict=pending.arriving is not None):
            self._feedback.keep(push, arriving)
        self._next_step = step.number + 1
        self._asked.append((pending, lookups))

    def receive(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        if upcoming or not self.lookahead:
            self._stage()

    def rest(self) -> None:
        while self._asked:
            self._servers.rows(self._asked.popleft()[0])

    def content(self) -> Content:
        """What did not get to the servers; rows on their way are asked for again."""
        return self._feedback.content()

    def take_up(self, file: TensorFile) -> None:
        self._feedback.take_up(file)

    def end(self, epoch: int) -> None:
        if not self._next_step:  # an empty shard: the others must not wait for it
            self._servers.rows(self._servers.update(epoch, 0, 0, True, [], []))
        self.rest()

    def refresh(self) -> None:
        dense = [p for p in self._parameters if isinstance(p, DenseParameter)]
        rows = self._servers.rows(self._servers.look([Pull(self._numbers[p.spec.name], None) for p in dense]))
        for parameter, values in zip(dense, rows, strict=True):
            parameter.pack.load(values)

    def _questions(self, batch: Upcoming) -> tuple[list[Pull], list[Lookup | None]]:
        lookups = [batch.lookups[p.spec.name] if isinstance(p, SparseParameter) else None for p in self._fetched]
        pulls = [
            Pull(self._numbers[p.spec.name], None if lookup is None else lookup.unique)
            for p, lookup in zip(self._fetched, lookups, strict=True)
        ]
        return pulls, lookups

    def _pushes(self) -> list[Push]:
        pushes = []
        for parameter in self._parameters:
            number = self._numbers[parameter.spec.name]
            if isinstance(parameter, DenseParameter):
                pushes.append(Push(number, None, parameter.gradient()))
            else:
                gradient = parameter.gradient()
                if gradient is not None:
                    pushes.append(Push(number, *gradient, parameter.counts))
        return pushes

    def _stage(self) -> None:
        """The oldest question's answer becomes the parameters of the coming batch."""
        pending, lookups = self._asked.popleft()
        rows, self.share = self._servers.fetched(pending)
        for parameter, lookup, values in zip(self._fetched[: len(lookups)], lookups, rows, strict=True):
            if isinstance(parameter, DenseParameter):
                parameter.pack.load(values)
            else:
                assert lookup is not None
                parameter.embedding.expect(lookup, values)


def _part(gradient: Rows, share: float) -> Rows:
    return gradient if share == 1 else gradient * gradient.dtype.type(share)


class RowsOnDemand:
    """Rows of a table behind servers, one question a look-up: for measuring, and for models that name no feature."""

    def __init__(self, servers: Servers, number: int) -> None:
        self._servers = servers
        self._number = number

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) as they are now; each different one is asked for once."""
        unique, places = distinct(keys, None)
        return self._servers.rows(self._servers.look([Pull(self._number, unique)]))[0].take(places, axis=0)

    def push(self, keys: Keys, pushed: Rows, unique: bool = False) -> None:
        """Gradients travel with the step, not by themselves."""
        raise NotImplementedError("gradients of a table behind servers travel with the step")
