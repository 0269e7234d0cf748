"""How a push changes rows.

A rule sees N gathered rows at once: `apply(values, state, pushed)` writes the new values (N, D) and the new state
arrays (N, S) into what it is given. Law: a row's new value depends on that row alone, so that rows may be
divided over any number of servers. Weights are w, pushed gradients g.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.floating]
State: TypeAlias = Sequence[Rows]

_TABLED_STEPS = 1 << 16
_TABLED_DECAY = 0.9994  # to the power of _TABLED_STEPS it is below what a float64 adds to 1


class Rule(Protocol):
    """What a table needs of its rule."""

    name: ClassVar[str]
    row_local: ClassVar[bool]  # every element changes by itself, so a row may be cut into pieces

    def state_widths(self, dim: int) -> tuple[int, ...]:
        """Width S of each state array, for rows of `dim` weights."""

    def first_state(self) -> tuple[float, ...]:
        """What the numbers of each state array of a new row hold, one value an array."""

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        """Change values (N, D) and the state arrays (N, S) in place by what was pushed (N, D)."""


class Sum(msgspec.Struct, frozen=True, tag="sum"):
    """w += u, the rule of deltas."""

    name: ClassVar[str] = "sum"
    row_local: ClassVar[bool] = True

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return ()

    def first_state(self) -> tuple[float, ...]:
        return ()

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        values += pushed


class Sgd(msgspec.Struct, frozen=True, tag="sgd"):
    """w -= lr g."""

    name: ClassVar[str] = "sgd"
    row_local: ClassVar[bool] = True
    learning_rate: float = 0.01

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return ()

    def first_state(self) -> tuple[float, ...]:
        return ()

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        values -= pushed * values.dtype.type(self.learning_rate)


class Adagrad(msgspec.Struct, frozen=True, tag="adagrad"):
    """Per element: G += g**2; w -= lr g / (sqrt(G) + eps) (Duchi, Hazan and Singer 2011)."""

    name: ClassVar[str] = "adagrad"
    row_local: ClassVar[bool] = True
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
        squares += pushed * pushed
        values -= real(self.learning_rate) * pushed / (np.sqrt(squares) + real(self.epsilon))


class AdagradRow(msgspec.Struct, frozen=True, tag="adagrad_row"):
    """One number a row: G += mean(g**2); w -= lr g / (sqrt(G) + eps)."""

    name: ClassVar[str] = "adagrad_row"
    row_local: ClassVar[bool] = False
    learning_rate: float = 0.05
    initial_g2sum: float = 0.0
    epsilon: float = 1e-8

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (1,)

    def first_state(self) -> tuple[float, ...]:
        return (self.initial_g2sum,)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        (squares,) = state
        squares += np.mean(pushed * pushed, axis=1, keepdims=True)
        values -= real(self.learning_rate) * pushed / (np.sqrt(squares) + real(self.epsilon))


class Adam(msgspec.Struct, frozen=True, tag="adam"):
    """Lazy Adam: a row that is not pushed does not move, and counts its own steps t.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g**2;
    w -= lr / (1 - b1**t) * m / (sqrt(v / (1 - b2**t)) + eps)   (Kingma and Ba 2015, algorithm 1)
    State: m (D), v (D), t (1).
    """

    name: ClassVar[str] = "adam"
    row_local: ClassVar[bool] = True
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

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
        rate, epsilon = self._corrections(steps)
        step = np.sqrt(second, out=square)
        step += epsilon
        np.divide(first, step, out=step)
        step *= rate
        values -= step

    def _corrections(self, steps: Rows) -> tuple[Rows, Rows]:
        """lr sqrt(1 - b2**t) / (1 - b1**t) and eps sqrt(1 - b2**t), each (N, 1), for the steps t (N, 1)."""
        if max(self.beta1, self.beta2) > _TABLED_DECAY:
            return _adam_corrections(self, steps)
        rate, epsilon = _tabled_corrections(self, steps.dtype)
        count = steps.astype(np.int64)
        return rate.take(count, mode="clip"), epsilon.take(count, mode="clip")


def _adam_corrections(rule: Adam, steps: Rows) -> tuple[Rows, Rows]:
    count = steps.astype(np.float64)
    unbias = np.sqrt(1.0 - rule.beta2**count)
    rate = rule.learning_rate * unbias / (1.0 - rule.beta1**count)
    return rate.astype(steps.dtype), (rule.epsilon * unbias).astype(steps.dtype)


@functools.lru_cache(maxsize=16)
def _tabled_corrections(rule: Adam, dtype: np.dtype[Any]) -> tuple[Rows, Rows]:
    """The corrections of every step until they no longer change: looking them up is quicker than two powers a row."""
    count = np.arange(_TABLED_STEPS)
    count[0] = 1  # a row that is changed has been pushed
    return _adam_corrections(rule, count.astype(dtype))


AnyRule: TypeAlias = Sum | Sgd | Adagrad | AdagradRow | Adam
RULES: dict[str, type[AnyRule]] = {rule.name: rule for rule in (Sum, Sgd, Adagrad, AdagradRow, Adam)}


def make_rule(name: str, **settings: float) -> AnyRule:
    """The rule of that name, with those of the settings that it knows; the others belong to other rules."""
    rule = RULES[name]
    known = set(rule.__struct_fields__)
    return rule(**{key: value for key, value in settings.items() if key in known and value is not None})
