"""Follow the regularised leader, proximal: sparse weights by L1."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np

from flps.table.rules.rule import Rows, State


class Ftrl(msgspec.Struct, frozen=True, tag="ftrl"):
    """Per coordinate (McMahan et al. 2013, algorithm 1), `learning_rate` is the paper's alpha:

    s = (sqrt(n + g**2) - sqrt(n)) / alpha;  z += g - s w;  n += g**2;
    w = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2).
    State: z (D), n (D). A weight follows from z and n, so a first value that is not 0 counts only through s w.
    """

    name: ClassVar[str] = "ftrl"
    row_local: ClassVar[bool] = True
    scales_by_show: ClassVar[bool] = False
    learning_rate: float = 0.05
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.beta >= 0 and self.l1 >= 0 and self.l2 >= 0):
            raise ValueError("ftrl wants a learning_rate above 0, and beta, l1 and l2 of at least 0")
        if not self.beta + self.l2 > 0:
            raise ValueError("ftrl with beta 0 and l2 0 divides by 0 where nothing was pushed; raise one of them")

    def state_widths(self, dim: int) -> tuple[int, ...]:
        return (dim, dim)

    def first_state(self) -> tuple[float, ...]:
        return (0.0, 0.0)

    def apply(self, values: Rows, state: State, pushed: Rows) -> None:
        real = values.dtype.type
        linear, squares = state
        before = np.sqrt(squares)
        squares += pushed * pushed
        root = np.sqrt(squares)
        np.subtract(root, before, out=before)
        before *= values
        before *= real(1 / self.learning_rate)
        linear += pushed
        linear -= before
        root += real(self.beta)
        root *= real(1 / self.learning_rate)
        root += real(self.l2)
        # z shrunk towards 0 by l1: what lies within stays 0
        np.clip(linear, -self.l1, self.l1, out=before)
        np.subtract(before, linear, out=values)
        values /= root
