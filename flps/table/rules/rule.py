"""What a table needs of its rule, and what several rules share.

A rule sees N gathered rows at once: `apply(values, state, pushed)` writes the new values (N, D) and the new state
arrays (N, S) into what it is given. Law: a row's new value depends on that row alone, so that rows may be
divided over any number of servers. Weights are w, pushed gradients g.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.floating]
State: TypeAlias = Sequence[Rows]
Bounds: TypeAlias = tuple[float, float]


class Rule(Protocol):
    """What a table needs of its rule."""

    name: ClassVar[str]
    row_local: ClassVar[bool]  # every element changes by itself, so a row may be cut into pieces
    scales_by_show: ClassVar[bool]  # where the accessor says show_scale, it wants g / (shows of this push)

    def state_widths(self, dim: int) -> tuple[int, ...]:
        """Width S of each state array, for rows of `dim` weights."""

    def first_state(self) -> tuple[float, ...]:
        """What the numbers of each state array of a new row hold, one value an array."""

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        """Change values (N, D) and the state arrays (N, S) in place by what was pushed (N, D)."""


def bounded(values: Rows, bounds: Bounds | None) -> None:
    """Keep weights within (lowest, highest)."""
    if bounds is not None:
        np.clip(values, *bounds, out=values)


def row_mean(rows: Rows) -> Rows:
    """The mean (N, 1) of each row (N, D). The sum's order depends on D alone, not on which rows stand beside."""
    mean: Rows = np.einsum("nd->n", rows)[:, None]
    mean /= max(rows.shape[1], 1)
    return mean


def row_mean_square(rows: Rows) -> Rows:
    """The mean (N, 1) of the squares of each row (N, D)."""
    mean: Rows = np.einsum("nd,nd->n", rows, rows)[:, None]
    mean /= max(rows.shape[1], 1)
    return mean


def expect_bounds(bounds: Bounds | None) -> None:
    """Raises ValueError when the lowest weight is above the highest."""
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise ValueError(f"weight_bounds [{bounds[0]:g}, {bounds[1]:g}]: the first number is the lowest weight")
