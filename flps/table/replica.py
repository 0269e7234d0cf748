"""geo: a worker's own copy of a shared table, beside what it knows of the servers' copy.

The worker trains its copy x by its own rule. Per window it sends delta = x - base, where base is what the servers
hold as far as the worker knows; the servers add weight * delta, and so does the worker to base. Rows that others
changed come back as s: x += s - base; base = s. What the weight kept back stays in x and goes with later windows.
"""

from __future__ import annotations

import msgspec
import numpy as np

from flps.table.dense import DenseTable
from flps.table.distinct import union
from flps.table.files import TensorFile
from flps.table.index import Keys, Slots
from flps.table.rules import Rows, Sum
from flps.table.snapshot import Content
from flps.table.sparse import SparseTable
from flps.table.spec import TableSpec


def servers_spec(spec: TableSpec) -> TableSpec:
    """How the servers hold a table that is trained in windows: deltas are added."""
    return msgspec.structs.replace(spec, rule=Sum())


class SparseReplica:
    """A sparse table that is trained here and exchanged in windows."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = msgspec.structs.replace(spec, accessor=None)  # the servers count
        self._mine = SparseTable(self.spec)
        self._base = SparseTable(servers_spec(self.spec))
        self._touched: list[Slots] = []

    def pull(self, keys: Keys) -> Rows:
        """The worker's rows (N, dim)."""
        return self._mine.pull(keys)

    def push(self, keys: Keys, pushed: Rows, unique: bool = False) -> None:
        """One local step; `unique`: no key comes twice."""
        self._touched.append(self._mine.push(keys, pushed, unique))

    def delta(self) -> tuple[Keys, Rows]:
        """Keys (N,) and deltas (N, dim) of the rows trained since the last call."""
        touched, self._touched = self._touched, []
        slots = union(touched)
        keys = self._mine.keys(slots)
        return keys, self._mine.read(slots) - self._base.pull(keys)

    def sent(self, keys: Keys, applied: Rows) -> None:
        """The servers added `applied` (N, dim) to the rows of `keys`."""
        self._base.push(keys, applied, unique=True)

    def keep(self, keys: Keys, delta: Rows) -> None:
        """The servers refused `delta` (N, dim) of `keys`: rows of it that hold NaN or Inf become the servers' again,
        their rule state new; the others are sent once more with the next window.
        """
        is_sound = np.isfinite(delta).all(axis=1)
        self._touched.append(self._mine.slots(keys[is_sound]))
        lost = keys[~is_sound]
        rule = self.spec.rule
        state = {
            f"state.{n}": np.full((lost.size, width), first, self.spec.dtype)
            for n, (width, first) in enumerate(zip(rule.state_widths(self.spec.dim), rule.first_state(), strict=True))
        }
        self._mine.load({"keys": lost, "values": self._base.pull(lost), **state})

    def receive(self, keys: Keys, rows: Rows) -> None:
        """The servers now hold `rows` (N, dim) at `keys`."""
        base, mine = self._base.slots(keys), self._mine.slots(keys)
        self._mine.write(mine, self._mine.read(mine) + (rows - self._base.read(base)))
        self._base.write(base, rows)

    def content(self, name: str) -> Content:
        """Everything that a worker remembers of the table, for a snapshot on its own disk."""
        touched = self._mine.keys(union(self._touched))
        rows = {f"mine/{name}": self._mine, f"base/{name}": self._base}
        return Content(rows, {f"touched/{name}": {"keys": touched}})

    def take_up(self, name: str, file: TensorFile) -> None:
        """Remember what `content` gave. Raises DataError."""
        for table, held in ((self._mine, f"mine/{name}"), (self._base, f"base/{name}")):
            for piece in file.pieces(held, table.columns):
                table.load(piece)
        self._touched = [self._mine.slots(file.read(f"touched/{name}", "keys"))]

    @property
    def servers_view(self) -> SparseTable:
        """What the servers hold, as far as this worker knows; for measuring, not for training."""
        return self._base


class DenseReplica:
    """A dense table that is trained here and exchanged in windows."""

    def __init__(self, spec: TableSpec, first: Rows) -> None:
        self.spec = spec
        self._mine = DenseTable(spec)
        self._mine.start_with(first)
        self._base = first.copy()

    @property
    def own_view(self) -> Rows:
        """The worker's values (dim,)."""
        return self._mine.values

    def push(self, pushed: Rows) -> None:
        """One local step."""
        self._mine.push(pushed)

    def delta(self) -> Rows:
        """What was trained here and not sent yet (dim,)."""
        return self._mine.values - self._base

    def sent(self, applied: Rows) -> None:
        """The servers added `applied` (dim,)."""
        self._base += applied

    def keep(self, delta: Rows) -> None:
        """The servers refused `delta` (dim,): where it holds NaN or Inf the servers' values are taken, and what the
        rule remembers there is new; the rest is sent once more with the next window.
        """
        lost = ~np.isfinite(delta)
        mine = self._mine.dump()
        mine["values"][lost] = self._base[lost]
        for n, first in enumerate(self.spec.rule.first_state()):
            if mine[f"state.{n}"].size == lost.size:
                mine[f"state.{n}"][lost] = first
        self._mine.load(mine)

    def receive(self, values: Rows, places: Keys | None = None) -> None:
        """The servers now hold `values`; `places` (N,): which of the numbers they are, all of them when None."""
        where = slice(None) if places is None else places.astype(np.int64)
        self._mine.values[where] += values - self._base[where]
        self._base[where] = values

    def content(self, name: str) -> Content:
        """Everything that a worker remembers of the tensor, for a snapshot on its own disk."""
        return Content({}, {f"mine/{name}": self._mine.dump(), f"base/{name}": {"values": self._base.copy()}})

    def take_up(self, name: str, file: TensorFile) -> None:
        """Remember what `content` gave. Raises DataError."""
        held = f"mine/{name}"
        self._mine.load({part: file.read(held, part) for part in self._mine.dump()})
        self._base = file.read(f"base/{name}", "values")

    @property
    def servers_view(self) -> Rows:
        """What the servers hold (dim,), as far as this worker knows."""
        return self._base.copy()
