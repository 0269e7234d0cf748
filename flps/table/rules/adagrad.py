"""Rules that divide by the squares that they have seen: adagrad and the three forms of Paddle's parameter server.

| | numbers a row | step |
|---|---|---|
| adagrad | D | g / (sqrt(G) + eps), G with this g |
| std_adagrad | D | g sqrt(G0 / (G0 + G)), G before this g |
| sparse_adagrad | 1 | as std_adagrad, with the mean of the row's squares |
| adagrad_v2 | 1 | as adagrad, with the mean of the row's squares |
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np

from flps.table.rules.rule import Bounds, Rows, State, bounded, expect_bounds, row_mean_square


class Adagrad(msgspec.Struct, frozen=True, tag="adagrad"):
    """Per element: G += g**2; w -= lr g / (sqrt(G) + eps) (Duchi, Hazan and Singer 2011). State: G (D)."""

    name: ClassVar[str] = "adagrad"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = True
    learning_rate: float = 0.05
    initial_g2sum: float = 0.0
    epsilon: float = 1e-10

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim,)

    def first_state(self) -> tuple[float, ...]:
        return (self.initial_g2sum,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        (squares,) = state
        step = pushed * pushed
        squares += step
        np.sqrt(squares, out=step)
        step += real(self.epsilon)
        np.divide(pushed, step, out=step)
        step *= real(self.learning_rate)
        values -= step


class AdagradV2(msgspec.Struct, frozen=True, tag="adagrad_v2"):
    """One number a row: G += mean(g**2); w -= lr g / (sqrt(G) + eps); weights within bounds. State: G (1).

    Paddle's SparseAdaGradV2SGDRule, which begins with G = 0.
    """

    name: ClassVar[str] = "adagrad_v2"
    row_local: ClassVar[bool] = False
    scales_by_show: ClassVar[bool] = True
    learning_rate: float = 0.05
    initial_g2sum: float = 0.0
    epsilon: float = 1e-8
    weight_bounds: Bounds | None = (-10.0, 10.0)

    def __post_init__(self) -> None:
        expect_bounds(self.weight_bounds)

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (1,)

    def first_state(self) -> tuple[float, ...]:
        return (self.initial_g2sum,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        (squares,) = state
        squares += row_mean_square(pushed)
        rate = np.sqrt(squares)
        rate += real(self.epsilon)
        np.divide(real(self.learning_rate), rate, out=rate)
        values -= pushed * rate
        bounded(values, self.weight_bounds)


class _ByFirstSquares(msgspec.Struct, frozen=True):
    """G0 is `initial_g2sum`; G begins with 0, and a step is scaled by the G before it."""

    scales_by_show: ClassVar[bool] = True
    learning_rate: float = 0.05
    initial_g2sum: float = 3.0
    weight_bounds: Bounds | None = (-10.0, 10.0)

    def __post_init__(self) -> None:
        if not self.initial_g2sum > 0:
            first = f"initial_g2sum {self.initial_g2sum:g}"
            raise ValueError(f"{first}: the step is scaled by sqrt(G0 / (G0 + G)), so it must be above 0")
        expect_bounds(self.weight_bounds)

    def first_state(self) -> tuple[float, ...]:
        return (0.0,)

    def _rate(self, squares: Rows) -> Rows:
        """lr sqrt(G0 / (G0 + G)) in the shape of G."""
        real, first = squares.dtype.type, self.initial_g2sum
        rate = squares + real(first)
        np.divide(real(first * self.learning_rate * self.learning_rate), rate, out=rate)
        return np.sqrt(rate, out=rate)


class SparseAdagrad(_ByFirstSquares, frozen=True, tag="sparse_adagrad"):
    """One number a row: w -= lr g sqrt(G0 / (G0 + G)), weights within bounds; then G += mean(g**2). State: G (1).

    Paddle's SparseAdaGradSGDRule.
    """

    name: ClassVar[str] = "sparse_adagrad"
    row_local: ClassVar[bool] = False

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (1,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        (squares,) = state
        values -= pushed * self._rate(squares)
        bounded(values, self.weight_bounds)
        squares += row_mean_square(pushed)


class StdAdagrad(_ByFirstSquares, frozen=True, tag="std_adagrad"):
    """Per element: w -= lr g sqrt(G0 / (G0 + G)), weights within bounds; then G += g**2. State: G (D).

    Paddle's StdAdaGradSGDRule.
    """

    name: ClassVar[str] = "std_adagrad"
    row_local: ClassVar[bool] = True

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        (squares,) = state
        step = self._rate(squares)
        step *= pushed
        values -= step
        bounded(values, self.weight_bounds)
        squares += np.multiply(pushed, pushed, out=step)
