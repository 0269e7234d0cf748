"""Error feedback: what packing takes from a gradient goes with the next one (Seide et al. 2014).

Without it numbers that are small beside the largest of their row would never arrive.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from flps.message import Push
from flps.table import DenseTable, Initializer, SparseTable, Sum, TableSpec
from flps.table.files import TensorFile
from flps.table.snapshot import Content
from flps.worker.parameters import Rows


class Feedback:
    """What was kept back of the gradients of some tables, by the number that the servers know them by."""

    def __init__(self, specs: Mapping[int, TableSpec]) -> None:
        kept = {
            number: msgspec.structs.replace(spec, rule=Sum(), init=Initializer("zeros"), accessor=None)
            for number, spec in specs.items()
        }
        self._tables = {
            number: SparseTable(spec) if spec.kind == "sparse" else DenseTable(spec) for number, spec in kept.items()
        }

    def added_to(self, push: Push) -> Push:
        """The push with what was kept back of earlier ones; of another table, as it is."""
        table = self._tables.get(push.table)
        if table is None:
            return push
        if isinstance(table, DenseTable):
            return msgspec.structs.replace(push, values=push.values + table.values)
        assert push.keys is not None
        return msgspec.structs.replace(push, values=push.values + table.pull(push.keys))

    def keep(self, push: Push, arriving: Rows) -> None:
        """Of `push` only `arriving`, of the same shape, gets to the servers."""
        table, kept = self._tables[push.table], push.values - arriving
        kept[~np.isfinite(kept)] = 0  # the servers refuse such a push; it is not tried again
        if isinstance(table, DenseTable):
            table.values[:] = kept
        else:
            assert push.keys is not None
            table.write(table.slots(push.keys), kept)

    def content(self) -> Content:
        """All of it, for a checkpoint."""
        sparse = {_held(t): t for t in self._tables.values() if isinstance(t, SparseTable)}
        return Content(sparse, {_held(t): t.dump() for t in self._tables.values() if isinstance(t, DenseTable)})

    def take_up(self, file: TensorFile) -> None:
        """Go on from a checkpoint. Raises DataError."""
        for table in self._tables.values():
            if isinstance(table, DenseTable):
                table.load({part: file.read(_held(table), part) for part in table.dump()})
            else:
                for piece in file.pieces(_held(table), table.columns):
                    table.load(piece)


def _held(table: SparseTable | DenseTable) -> str:
    return f"kept_back/{table.spec.name}"
