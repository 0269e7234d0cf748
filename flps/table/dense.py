"""A dense table: one tensor, kept flat, changed as a whole by the same rules as a sparse row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.errors import ConfigError, Refused
from flps.table.rules import Rows
from flps.table.spec import TableSpec


class DenseTable:
    """One tensor of `spec.dim` numbers (or one server's block of it) with its rule state."""

    def __init__(self, spec: TableSpec) -> None:
        if not spec.rule.row_local:
            raise ConfigError(
                f"table {spec.name}: rule {spec.rule.name} keeps one number for a whole row, which a dense tensor "
                "that is divided over servers does not have; use its element-wise form"
            )
        self.spec = spec
        self.values: Rows = np.zeros(spec.dim, spec.dtype)
        rule = spec.rule
        self._state = [
            np.full((1, width), first, spec.dtype)
            for width, first in zip(rule.state_widths(spec.dim), rule.first_state(), strict=True)
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
        self.spec.rule.apply(self.values[None, :], self._state, pushed[None, :])

    def dump(self) -> dict[str, NDArray[Any]]:
        """Everything the table holds: values (dim,), state.0, state.1, ... (S,)."""
        state = {f"state.{n}": array[0].copy() for n, array in enumerate(self._state)}
        return {"values": self.values.copy(), **state}

    def load(self, dumped: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `dump` gave."""
        self._expect(dumped["values"])
        self.values[:] = dumped["values"]
        for n, array in enumerate(self._state):
            array[0] = dumped[f"state.{n}"]
        self.initialized = True

    def _expect(self, values: Rows) -> None:
        if values.shape != self.values.shape:
            raise Refused(f"table {self.spec.name} holds {self.values.shape[0]} numbers, got shape {values.shape}")
