"""A dense table: one tensor, kept flat, changed as a whole by the same rules as a sparse row.

A rule that changes every number by itself sees the tensor as one row. One that keeps numbers for a whole row sees it
as rows of one number each, so that it may be divided over any number of servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.errors import Refused
from flps.table.rules import AnyRule, Rows
from flps.table.spec import TableSpec


class DenseTable:
    """One tensor of `spec.dim` numbers (or one server's block of it) with its rule state."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.values: Rows = np.zeros(spec.dim, spec.dtype)
        rule = spec.rule
        self._rows = self.values.reshape((1, spec.dim) if rule.row_local else (spec.dim, 1))  # a view
        count, width = self._rows.shape
        self._state = [
            np.full((count, numbers), first, spec.dtype)
            for numbers, first in zip(rule.state_widths(width), rule.first_state(), strict=True)
        ]
        self.initialized = False

    def start_with(self, values: Rows) -> bool:
        """Set the first values (dim,); only the first call counts. Returns whether it did."""
        self._expect(values)
        if self.initialized:
            return False
        self.values[:] = values
        self.initialized = True
        return True

    def pull(self) -> Rows:
        """A copy of the values (dim,)."""
        return self.values.copy()

    def push(self, pushed: Rows) -> None:
        """Apply the rule with `pushed` (dim,)."""
        self._expect(pushed)
        self.spec.rule.apply(self._rows, self._state, pushed.reshape(self._rows.shape))

    def dump(self) -> dict[str, NDArray[Any]]:
        """Everything the table holds: values (dim,), state.0, state.1, ... (S,)."""
        state = {f"state.{n}": array.reshape(-1).copy() for n, array in enumerate(self._state)}
        return {"values": self.values.copy(), **state}

    def load(self, dumped: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `dump` gave."""
        self._expect(dumped["values"])
        self.values[:] = dumped["values"]
        for n, array in enumerate(self._state):
            array[:] = dumped[f"state.{n}"].reshape(array.shape)
        self.initialized = True

    def _expect(self, values: Rows) -> None:
        if values.shape != self.values.shape:
            raise Refused(f"table {self.spec.name} holds {self.values.shape[0]} numbers, got shape {values.shape}")


def state_sizes(rule: AnyRule, dim: int) -> tuple[int, ...]:
    """Numbers in each state array of a dense table of `dim` numbers: `dim` where it is divided with the tensor."""
    return rule.state_widths(dim) if rule.row_local else tuple(dim * width for width in rule.state_widths(1))
