"""Rules with moments: adam and what grew from it.

| | state | how it differs |
|---|---|---|
| adam | m (D), v (D), t (1) | Kingma and Ba 2015, lazy: a row counts its own steps |
| shared_adam | m (1), v (1), t (1) | Paddle's: one first and one second moment a row |
| adam_d2sum | D (1), G (D), m (D) | Paddle's: sums that forget slowly, for dense tensors |
| yogi | m (D), v (D) | Zaheer et al. 2018: v moves by at most g**2 |
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, TypeAlias

import msgspec
import numpy as np

from flps.table.rules.rule import Bounds, Rows, State, bounded, expect_bounds, row_mean

_TABLED_STEPS = 1 << 16
_TABLED_DECAY = 0.9994  # to the power of _TABLED_STEPS it is below what a float64 adds to 1


class Adam(msgspec.Struct, frozen=True, tag="adam"):
    """Lazy Adam: a row that is not pushed does not move, and counts its own steps t.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g**2;
    w -= lr / (1 - b1**t) * m / (sqrt(v / (1 - b2**t)) + eps)   (Kingma and Ba 2015, algorithm 1)
    State: m (D), v (D), t (1).
    """

    name: ClassVar[str] = "adam"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_bounds: Bounds | None = None

    def __post_init__(self) -> None:
        expect_bounds(self.weight_bounds)

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim, dim, 1)

    def first_state(self) -> tuple[float, ...]:
        return (0.0, 0.0, 0.0)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        first, second, steps = state
        steps += 1
        first *= real(self.beta1)
        first += pushed * real(1 - self.beta1)
        square = pushed * pushed
        square *= real(1 - self.beta2)
        second *= real(self.beta2)
        second += square
        # The corrections are one number a row; folding them into the step saves two passes over (N, D).
        rate, epsilon = _corrections(self, steps)
        step = np.sqrt(second, out=square)
        step += epsilon
        np.divide(first, step, out=step)
        step *= rate
        values -= step
        bounded(values, self.weight_bounds)


class SharedAdam(msgspec.Struct, frozen=True, tag="shared_adam"):
    """One m and one v a row: m_i = b1 m + (1 - b1) g_i;  v_i = b2 v + (1 - b2) g_i**2;
    w_i -= lr sqrt(1 - b2**t) / (1 - b1**t) * m_i / (sqrt(v_i) + eps), within bounds;  m = mean(m_i);  v = mean(v_i).

    Paddle's SparseSharedAdamSGDRule. State: m (1), v (1), t (1).
    """

    name: ClassVar[str] = "shared_adam"
    row_local: ClassVar[bool] = False
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_bounds: Bounds | None = (-10.0, 10.0)

    def __post_init__(self) -> None:
        expect_bounds(self.weight_bounds)

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (1, 1, 1)

    def first_state(self) -> tuple[float, ...]:
        return (0.0, 0.0, 0.0)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        shared_first, shared_second, steps = state
        steps += 1
        first = pushed * real(1 - self.beta1)
        first += shared_first * real(self.beta1)
        second = pushed * pushed
        second *= real(1 - self.beta2)
        second += shared_second * real(self.beta2)
        shared_first[:] = row_mean(first)
        shared_second[:] = row_mean(second)
        step = np.sqrt(second, out=second)
        step += real(self.epsilon)
        np.divide(first, step, out=step)
        step *= _corrections(self, steps)[0]
        values -= step
        bounded(values, self.weight_bounds)


class AdamD2sum(msgspec.Struct, frozen=True, tag="adam_d2sum"):
    """D = a D + 1;  G = a G + g**2;  m = c m + (1 - c) g;  w -= lr m sqrt((D + D eps) / (G + D eps)).

    Paddle's dense rule of that name; a is `ada_decay_rate`, c is `mom_decay_rate`, eps is `epsilon`.
    State: D (1), G (D), m (D).
    """

    name: ClassVar[str] = "adam_d2sum"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.001
    ada_decay_rate: float = 0.9999
    mom_decay_rate: float = 0.99
    epsilon: float = 1e-8

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (1, dim, dim)

    def first_state(self) -> tuple[float, ...]:
        return (0.0, 0.0, 0.0)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        count, squares, first = state
        count *= real(self.ada_decay_rate)
        count += 1
        step = pushed * pushed
        squares *= real(self.ada_decay_rate)
        squares += step
        first -= pushed
        first *= real(self.mom_decay_rate)
        first += pushed
        floor = count * real(self.epsilon)
        np.add(squares, floor, out=step)
        np.divide(count + floor, step, out=step)
        np.sqrt(step, out=step)
        step *= first
        step *= real(self.learning_rate)
        values -= step


class Yogi(msgspec.Struct, frozen=True, tag="yogi"):
    """m = b1 m + (1 - b1) g;  v -= (1 - b2) sign(v - g**2) g**2;  w -= lr m / (sqrt(v) + eps).

    Zaheer et al. 2018, algorithm 2, without bias correction. State: m (D), v (D); v begins with `initial_v`.
    """

    name: ClassVar[str] = "yogi"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-3
    initial_v: float = 1e-6

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim, dim)

    def first_state(self) -> tuple[float, ...]:
        return (0.0, self.initial_v)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        first, second = state
        first *= real(self.beta1)
        first += pushed * real(1 - self.beta1)
        square = pushed * pushed
        towards = np.sign(square - second)
        square *= real(1 - self.beta2)
        square *= towards
        second += square
        step = np.sqrt(second, out=square)
        step += real(self.epsilon)
        np.divide(first, step, out=step)
        step *= real(self.learning_rate)
        values -= step


Corrected: TypeAlias = Adam | SharedAdam


def _corrections(rule: Corrected, steps: Rows) -> tuple[Rows, Rows]:
    """lr sqrt(1 - b2**t) / (1 - b1**t) and eps sqrt(1 - b2**t), each (N, 1), for the steps t (N, 1)."""
    if max(rule.beta1, rule.beta2) > _TABLED_DECAY:
        return _computed_corrections(rule, steps)
    rate, epsilon = _tabled_corrections(rule, steps.dtype)
    count = steps.astype(np.int64)
    return rate.take(count, mode="clip"), epsilon.take(count, mode="clip")


def _computed_corrections(rule: Corrected, steps: Rows) -> tuple[Rows, Rows]:
    count = steps.astype(np.float64)
    unbias = np.sqrt(1.0 - rule.beta2**count)
    rate = rule.learning_rate * unbias / (1.0 - rule.beta1**count)
    return rate.astype(steps.dtype), (rule.epsilon * unbias).astype(steps.dtype)


@functools.lru_cache(maxsize=16)
def _tabled_corrections(rule: Corrected, dtype: np.dtype[Any]) -> tuple[Rows, Rows]:
    """The corrections of every step until they no longer change: looking them up is quicker than two powers a row."""
    count = np.arange(_TABLED_STEPS)
    count[0] = 1  # a row that is changed has been pushed
    return _computed_corrections(rule, count.astype(dtype))
