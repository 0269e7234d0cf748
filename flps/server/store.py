"""The tables of one server; the one place where a push is accepted and applied.

Law 1: everything in a message is checked before anything of it is applied; a refused message changes nothing.
Law 2: inside, after `accept` and `check`, pushes and questions are trusted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from flps.checkpoint.run import Part
from flps.errors import ConfigError, Refused, ResourceError
from flps.frames import Limits
from flps.message import Pull, Push, Tensor
from flps.routing import shard_of
from flps.server.warm import fill, make_tables, take_up, warm_up
from flps.table import CountedTable, DenseTable, SparseTable, TableSpec
from flps.table.accessor import COUNTS_WIDTH, SLOTS_MAX, Mode
from flps.table.files import Parts, TensorFile, sha256_of, write_tables
from flps.table.index import Keys, Slots
from flps.table.snapshot import Content, Snapshot

log = logging.getLogger(__name__)
Table: TypeAlias = SparseTable | DenseTable
_SLICE_S = 0.001  # a request waits no longer than this for a snapshot
_WHOLE: Slots = np.zeros(1, np.int64)  # a dense table changes as if it were one row


class Store:
    """Tables by the number that the workers call them by."""

    def __init__(
        self,
        rank: int,
        servers: int,
        keys_max: int,
        warm_from: Sequence[Path] = (),
        spill_in: Path | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
    ) -> None:
        """`warm_from`: folders of saved models whose shared tables are taken as first values, one after the other.

        `spill_in`: where tables keep the rows that memory may not hold. `limits`: how large an answer may be.
        """
        self.rank = rank
        self.servers = servers
        self.tables: list[Table] = []
        self.is_warm = bool(warm_from)
        self._keys_max = keys_max
        self._limits = limits
        self._warm_from = warm_from
        self._spill_in = spill_in
        self._snapshot: Snapshot | None = None
        self._settled = -1  # the epoch of the last complete model
        self._day = -1  # of the last shrink

    @property
    def rows(self) -> int:
        """Rows of all sparse tables."""
        return sum(len(table) for table in self.tables if isinstance(table, SparseTable))

    def declare(self, described: Sequence[dict[str, Any]]) -> list[int]:
        """Make the tables, or check that they are those that stand; returns the dense ones that have no values yet."""
        try:
            specs = [msgspec.convert(spec, TableSpec) for spec in described]
            self._check_sizes(specs)
            if not self.tables:
                self.tables = self._make(specs)
        except (msgspec.ValidationError, ConfigError, MemoryError) as error:
            raise Refused(f"cannot make the tables: {error}") from error
        standing = [table.spec for table in self.tables]
        if specs != standing:
            different = [s.name for s, t in zip(specs, standing, strict=False) if s != t] or ["their number"]
            raise Refused(
                f"another worker declared other tables ({', '.join(different)} differ): same config everywhere?"
            )
        return [n for n, table in enumerate(self.tables) if isinstance(table, DenseTable) and not table.initialized]

    def start(self, values: Sequence[Push]) -> None:
        """Set the first values of dense tables."""
        self.accept(values)
        sparse = [self.tables[push.table].spec.name for push in values if push.keys is not None]
        if sparse:
            raise Refused(f"table {sparse[0]} is sparse: its rows have first values of their own")
        for push in values:
            table = self.tables[push.table]
            assert isinstance(table, DenseTable)
            table.start_with(push.values)

    def accept(self, pushes: Sequence[Push]) -> None:
        """Raises Refused, saying what is wrong, unless every push fits its table."""
        for push in pushes:
            table = self.table(push.table)
            spec = table.spec
            if push.values.dtype != spec.dtype:
                raise Refused(f"table {spec.name} holds {spec.dtype}, got {push.values.dtype}")
            wanted = self._shape(table, push.keys)
            if push.values.shape != wanted:
                raise Refused(f"table {spec.name}: values of shape {wanted} were expected, got {push.values.shape}")
            if not np.isfinite(push.values).all():
                raise Refused(f"table {spec.name}: the push holds NaN or Inf")
            _check_counts(spec, push)

    def apply(self, push: Push) -> Slots:
        """Carry out an accepted push; returns the slots of the rows that changed."""
        table = self.tables[push.table]
        if isinstance(table, DenseTable):
            table.push(push.values)
            return _WHOLE
        assert push.keys is not None
        if isinstance(table, CountedTable):
            return table.push(push.keys, push.values, counts=push.counts)
        return table.push(push.keys, push.values)

    def apply_mean(self, steps: Sequence[tuple[int, Sequence[Push]]], total: float | None = None) -> None:
        """Carry out accepted gradients of several workers as one gradient, the mean over the union of their samples.

        `steps`: (samples, mean gradients over them) of each worker; they are added in this order. `total`: samples of
        the union, where workers have samples in common; None: they have not.
        """
        total = total or sum(samples for samples, _ in steps)
        weighted: dict[int, list[Push]] = {}
        for samples, pushes in steps:
            for push in pushes:
                share = push.values.dtype.type(samples / total)
                weighted.setdefault(push.table, []).append(
                    Push(push.table, push.keys, push.values * share, push.counts)
                )
        for number, pushes in sorted(weighted.items()):
            self.apply(_added(number, pushes))

    def _check_sizes(self, specs: Sequence[TableSpec]) -> None:
        """What cannot travel is not made: each row, and each dense tensor, must fit into a frame."""
        if len(specs) >= self._limits.frames:
            raise ConfigError(f"{len(specs)} tables; network.frames_max allows {self._limits.frames - 1} in a message")
        for spec in specs:
            if spec.dim * np.dtype(spec.dtype).itemsize > self._limits.frame_bytes:
                raise ConfigError(
                    f"table {spec.name}: {spec.dim} numbers of {spec.dtype} are over network.frame_bytes_max, "
                    f"{self._limits.frame_bytes}"
                )

    def rows_in_a_message(self, number: int) -> int:
        """How many rows of a sparse table may be told at once."""
        spec = self.table(number).spec
        row_bytes = max(spec.dim * np.dtype(spec.dtype).itemsize, np.dtype(np.uint64).itemsize)
        return max(1, min(self._limits.frame_bytes, self._limits.message_bytes // 4) // row_bytes)

    def check(self, pulls: Sequence[Pull]) -> None:
        """Raises Refused unless every question fits its table, and the answer a message: before any of it is made."""
        if len(pulls) >= self._limits.frames:
            raise Refused(f"{len(pulls)} tables pulled at once, network.frames_max allows {self._limits.frames - 1}")
        total = 0
        for pull in pulls:
            table = self.table(pull.table)
            wanted = math.prod(self._shape(table, pull.keys)) * np.dtype(table.spec.dtype).itemsize
            total += wanted
            if wanted > self._limits.frame_bytes:
                raise Refused(
                    f"table {table.spec.name}: an answer of {wanted} bytes is over network.frame_bytes_max, "
                    f"{self._limits.frame_bytes}; ask for fewer rows at once"
                )
        if total > self._limits.message_bytes:
            raise Refused(f"an answer of {total} bytes is over network.message_bytes_max, {self._limits.message_bytes}")

    def pull(self, pulls: Sequence[Pull]) -> tuple[Tensor, ...]:
        """The rows asked for. Raises Refused for keys that do not fit."""
        self.check(pulls)
        return self.read(pulls)

    def read(self, pulls: Sequence[Pull]) -> tuple[Tensor, ...]:
        """The rows of questions that `check` has let pass, at that moment or before."""
        return tuple(self._rows_of(pull) for pull in pulls)

    def save(self, folder: Path, epoch: int = 0, mode: Mode = "all") -> dict[str, str]:
        """Write the model after `epoch` epochs into `folder`; returns file name -> sha256.

        Tables with an accessor write the rows that `mode` says. A model that is settled is not written again: its
        delta is another one by now.
        """
        name = f"shared-{self.rank}-of-{self.servers}.safetensors"
        if epoch == self._settled:
            return {name: sha256_of(folder / name)}
        return {name: write_tables(folder / name, {table.spec.name: _saved(table, mode) for table in self.tables})}

    def settle(self, epoch: int, mode: Mode) -> None:
        """The model after `epoch` epochs is complete."""
        if epoch == self._settled:
            return
        self._settled = epoch
        for table in self.tables:
            if isinstance(table, CountedTable):
                table.settle(mode)

    def shrink(self, day: int, is_day: bool) -> dict[int, Keys]:
        """Let tables with an accessor forget; returns table -> keys whose rows are gone. A day comes once."""
        if day <= self._day:
            return {}
        self._day = day
        self.finish_snapshot()  # it counts on every row to stay in its place
        counted = {n: table for n, table in enumerate(self.tables) if isinstance(table, CountedTable)}
        gone = {n: table.shrink(is_day).keys for n, table in counted.items()}
        for n, keys in gone.items():
            log.info("day %d: table %s forgets %d rows, %d stay", day, counted[n].spec.name, keys.size, len(counted[n]))
        return gone

    def take_up(self, folder: Path, checkpoint: str) -> Part:
        """Hold the tables of a checkpoint, whatever the number of servers that wrote it; `checkpoint`: its identity.

        Returns how one of those servers described its part. Raises DataError.
        """
        self.tables, part = take_up(folder, checkpoint, self.rank, self.servers, self._spill_in)
        self.is_warm = True
        return part

    @property
    def is_copying(self) -> bool:
        """Whether a snapshot is being written."""
        return self._snapshot is not None and self._snapshot.is_copying

    @property
    def has_begun(self) -> bool:
        """Whether the tables stand and hold values."""
        return bool(self.tables) and all(not isinstance(t, DenseTable) or t.initialized for t in self.tables)

    def days(self) -> tuple[int, int]:
        """The epoch of the last complete model, and the day of the last shrink."""
        return self._settled, self._day

    def take_back(self, specs: Sequence[TableSpec], days: tuple[int, int], path: Path, sha256: str) -> None:
        """Hold the tables of an own snapshot. Raises DataError when the file is not what was written."""
        self.tables = make_tables(specs, self._spill_in)
        share = TensorFile(path, sha256)
        for table in self.tables:
            fill(table, [share], 0, 1, is_exact=True)
        self._settled, self._day = days
        self.is_warm = True

    def snapshot(self, path: Path, done: Callable[[str | ResourceError], None]) -> None:
        """Write every table as it is now into one file, while the tables go on: `advance` does the copying.

        done: is called from another thread with the file's sha256 when it is on the disk, or with what went wrong.
        """
        self.finish_snapshot()
        sparse = {table.spec.name: table for table in self.tables if isinstance(table, SparseTable)}
        dense = {table.spec.name: table.dump() for table in self.tables if isinstance(table, DenseTable)}
        self._snapshot = Snapshot(path, Content(sparse, dense), done)

    def advance(self) -> bool:
        """Between two requests: go on with the running snapshot, if there is one, for about a millisecond.

        Returns whether there is more to do at once.
        """
        return self._snapshot is not None and self._snapshot.advance(_SLICE_S)

    def finish_snapshot(self) -> None:
        """Copy what the running snapshot, if there is one, has not copied: from here on rows may even be removed."""
        if self._snapshot is not None:
            self._snapshot.finish()

    def close(self, timeout_s: float) -> None:
        """Bring a running snapshot to its end, and let go of the tables."""
        if self._snapshot is not None:
            self._snapshot.finish()
            self._snapshot.wait(timeout_s)
        for table in self.tables:
            if isinstance(table, SparseTable):
                table.close()

    def _make(self, specs: Sequence[TableSpec]) -> list[Table]:
        tables = make_tables(specs, self._spill_in)
        for folder in self._warm_from:
            warm_up(tables, folder, self.rank, self.servers)
        return tables

    def _rows_of(self, pull: Pull) -> Tensor:
        table = self.tables[pull.table]
        if isinstance(table, DenseTable):
            return table.pull()
        assert pull.keys is not None
        return table.pull(pull.keys)

    def table(self, number: int) -> Table:
        """The table of that number. Raises Refused when there is none."""
        if number >= len(self.tables):
            raise Refused(f"there is no table {number}; {len(self.tables)} are declared")
        return self.tables[number]

    def _shape(self, table: Table, keys: Tensor | None) -> tuple[int, ...]:
        """The shape that values for these keys have. Raises Refused for keys that cannot be this table's."""
        spec = table.spec
        if isinstance(table, DenseTable):
            if keys is not None:
                raise Refused(f"table {spec.name} is dense: it has no keys")
            return (spec.dim,)
        if keys is None or keys.ndim != 1 or keys.dtype != np.uint64:
            raise Refused(f"table {spec.name} is sparse: it wants keys of shape (N,) and type uint64")
        if keys.size > self._keys_max:
            raise Refused(f"table {spec.name}: {keys.size} keys in one message, at most {self._keys_max} are allowed")
        if spec.bound is not None and keys.size and int(keys.max()) >= spec.bound:
            raise Refused(f"table {spec.name}: key {int(keys.max())} is out of range 0..{spec.bound - 1}")
        if self.servers > 1 and (shard_of(keys, self.servers) != self.rank).any():
            raise Refused(f"table {spec.name}: not all keys belong to server {self.rank} of {self.servers}")
        return (keys.size, spec.dim)


def _added(table: int, pushes: Sequence[Push]) -> Push:
    """One push that is the sum of several for the same table; the table itself merges duplicate keys."""
    if len(pushes) == 1:
        return pushes[0]
    if pushes[0].keys is None:
        return Push(table, None, np.add.reduce([push.values for push in pushes]))
    keys = np.concatenate([push.keys for push in pushes if push.keys is not None])
    counts = [push.counts for push in pushes if push.counts is not None]
    values = np.concatenate([push.values for push in pushes])
    return Push(table, keys, values, np.concatenate(counts) if counts else None)


def _saved(table: Table, mode: Mode) -> Parts:
    """The part of a table that a save of this mode holds."""
    return table.dump(table.chosen(mode)) if isinstance(table, CountedTable) else table.dump()


def _check_counts(spec: TableSpec, push: Push) -> None:
    """Raises Refused unless a push counts what its table counts."""
    if (push.counts is None) != (spec.accessor is None):
        wants = "wants shows and clicks with a push" if push.counts is None else "has no accessor and counts nothing"
        raise Refused(f"table {spec.name} {wants}: same config everywhere?")
    if push.counts is None:
        return
    counts, wanted = push.counts, (push.values.shape[0], COUNTS_WIDTH)
    if counts.dtype != np.float32 or counts.shape != wanted:
        raise Refused(f"table {spec.name}: counts of shape {wanted} and type float32 were expected, got {counts.dtype} "
                      f"{counts.shape}")  # fmt: skip
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts[:, 1] <= counts[:, 0]).all()):
        raise Refused(f"table {spec.name}: counts are 0 <= clicks <= shows, and a slot of at least 0")
    if (counts[:, 2] != np.floor(counts[:, 2])).any() or (counts[:, 2] >= SLOTS_MAX).any():
        raise Refused(f"table {spec.name}: slots are whole numbers below {SLOTS_MAX}")
