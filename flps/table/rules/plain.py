"""Rules that add what is pushed, or step along it: sum, summary, sgd, momentum."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from flps.table.rules.rule import Bounds, Rows, State, bounded, expect_bounds


class Sum(msgspec.Struct, frozen=True, tag="sum"):
    """w += u, the rule of deltas."""

    name: ClassVar[str] = "sum"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return ()

    def first_state(self) -> tuple[float, ...]:
        return ()

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        values += pushed


class Summary(msgspec.Struct, frozen=True, tag="summary"):
    """w = decay w + u: running sums that forget, the statistics of a normalisation layer in Paddle's `data_norm`."""

    name: ClassVar[str] = "summary"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    summary_decay: float = 0.999999

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return ()

    def first_state(self) -> tuple[float, ...]:
        return ()

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        values *= values.dtype.type(self.summary_decay)
        values += pushed


class Sgd(msgspec.Struct, frozen=True, tag="sgd"):
    """w -= lr g."""

    name: ClassVar[str] = "sgd"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.01
    weight_bounds: Bounds | None = None

    def __post_init__(self) -> None:
        expect_bounds(self.weight_bounds)

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return ()

    def first_state(self) -> tuple[float, ...]:
        return ()

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        values -= pushed * values.dtype.type(self.learning_rate)
        bounded(values, self.weight_bounds)


class Momentum(msgspec.Struct, frozen=True, tag="momentum"):
    """v = mu v + g; w -= lr v (Polyak 1964), or with nesterov w -= lr (g + mu v) (Sutskever et al. 2013).

    State: v (D).
    """

    name: ClassVar[str] = "momentum"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim,)

    def first_state(self) -> tuple[float, ...]:
        return (0.0,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        (velocity,) = state
        velocity *= real(self.momentum)
        velocity += pushed
        if self.nesterov:
            step = velocity * real(self.momentum)
            step += pushed
            step *= real(self.learning_rate)
        else:
            step = velocity * real(self.learning_rate)
        values -= step
