"""What privacy was spent: numbers that add up over steps and epochs, and say what they are about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from flps.split.privacy.check import WrongValue, positive


class Spent(NamedTuple):
    """What a mechanism has spent so far, for one row; never less than what is true."""

    mechanism: str
    epsilon: float  # infinite: nothing is promised
    delta: float
    releases: int  # how often the row has gone out, at most
    more: dict[str, float]  # figures of this mechanism alone


class Mechanism(Protocol):
    """What a budget is made of."""

    @property
    def spent(self) -> Spent:
        """What was spent so far."""

    @property
    def statement(self) -> str:
        """What the epsilon is, what it covers and what not."""


class Budget:
    """All mechanisms of a party.

    They are not summed: each is about something else (a row's label, a row's activation, what one gradient says), and
    its statement says what.
    """

    def __init__(self, mechanisms: Iterable[Mechanism]) -> None:
        self._mechanisms = tuple(mechanisms)

    @property
    def spent(self) -> tuple[Spent, ...]:
        """Of each mechanism, in order."""
        return tuple(mechanism.spent for mechanism in self._mechanisms)

    def numbers(self) -> dict[str, float]:
        """For metrics: `label_dp_epsilon`, `label_dp_releases`, `cut_noise_delta`, ... An infinite epsilon is `inf`."""
        found: dict[str, float] = {}
        for spent in self.spent:
            figures = {"epsilon": spent.epsilon, "delta": spent.delta, "releases": spent.releases, **spent.more}
            found |= {f"{spent.mechanism}_{name}": float(value) for name, value in figures.items()}
        return found

    def statements(self) -> list[str]:
        """For the log, once."""
        return [mechanism.statement for mechanism in self._mechanisms]


class Releases:
    """How often one row has gone out, at most.

    With `rows_per_epoch`, how many rows go out in an epoch, each once: as often as epochs have begun. Without it: in
    every call.
    """

    def __init__(self, rows_per_epoch: int | None) -> None:
        if rows_per_epoch is not None and (type(rows_per_epoch) is not int or rows_per_epoch < 1):
            raise WrongValue(f"rows_per_epoch must be a whole number from 1, got {rows_per_epoch!r}")
        self._rows_per_epoch = rows_per_epoch
        self.calls = self.rows = 0

    def count(self, rows: int) -> int:
        """Note a call with this many rows; returns its number, from 0."""
        self.calls += 1
        self.rows += rows
        return self.calls - 1

    @property
    def of_a_row(self) -> int:
        """How often the row that went out most may have."""
        if self._rows_per_epoch is None:
            return self.calls
        return -(-self.rows // self._rows_per_epoch)


def gaussian_epsilon(releases: int, multiplier: float, delta: float) -> float:
    """Epsilon of `releases` Gaussian mechanisms at `delta`, by Renyi differential privacy.

    multiplier: standard deviation of the noise / sensitivity. One release has an RDP of a / (2 multiplier**2) at order
    a, releases add up to c a with c = releases / (2 multiplier**2), and c a + log(1/delta) / (a - 1) is an epsilon at
    every order a > 1 (Mironov 2017, propositions 1, 3 and 7). Its least value, at a = 1 + sqrt(log(1/delta) / c), is
    c + 2 sqrt(c log(1/delta)).
    """
    if not 0 < positive("delta", delta) < 1:
        raise WrongValue(f"delta must be above 0 and below 1, got {delta}")
    if releases == 0:
        return 0.0
    if multiplier == 0:
        return math.inf
    each = releases / (2 * multiplier**2)
    return each + 2 * math.sqrt(each * math.log(1 / delta))
