"""Every rule against plain loops over elements, and against torch's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from flps.table import Adagrad, AdagradRow, Adam, DenseTable, Sgd, SparseTable, Sum, TableSpec, make_rule
from flps.table.rules import RULES, AnyRule

RULE_LIST: list[AnyRule] = [
    Sum(),
    Sgd(0.1),
    Adagrad(0.1, initial_g2sum=0.5, epsilon=1e-6),
    AdagradRow(0.1, initial_g2sum=0.5, epsilon=1e-6),
    Adam(0.01, beta1=0.8, beta2=0.95, epsilon=1e-6),
]
PRECISION = {"float32": 2e-5, "float64": 1e-12}


class PlainRow:
    """One row and its state as Python floats, changed by the formulas of the rules' docstrings."""

    def __init__(self, weights: list[float], rule: Any) -> None:
        self.w = list(weights)
        self.rule = rule
        start = getattr(rule, "initial_g2sum", 0.0)
        self.squares = [start] * len(weights)
        self.row_square = start
        self.m = [0.0] * len(weights)
        self.v = [0.0] * len(weights)
        self.t = 0

    def push(self, g: list[float]) -> None:
        getattr(self, self.rule.name)(g)

    def sum(self, g: list[float]) -> None:
        self.w = [w + x for w, x in zip(self.w, g, strict=True)]

    def sgd(self, g: list[float]) -> None:
        self.w = [w - self.rule.learning_rate * x for w, x in zip(self.w, g, strict=True)]

    def adagrad(self, g: list[float]) -> None:
        for i, x in enumerate(g):
            self.squares[i] += x * x
            self.w[i] -= self.rule.learning_rate * x / (math.sqrt(self.squares[i]) + self.rule.epsilon)

    def adagrad_row(self, g: list[float]) -> None:
        self.row_square += sum(x * x for x in g) / len(g)
        for i, x in enumerate(g):
            self.w[i] -= self.rule.learning_rate * x / (math.sqrt(self.row_square) + self.rule.epsilon)

    def adam(self, g: list[float]) -> None:
        rule = self.rule
        self.t += 1
        for i, x in enumerate(g):
            self.m[i] = rule.beta1 * self.m[i] + (1 - rule.beta1) * x
            self.v[i] = rule.beta2 * self.v[i] + (1 - rule.beta2) * x * x
            m, v = self.m[i] / (1 - rule.beta1**self.t), self.v[i] / (1 - rule.beta2**self.t)
            self.w[i] -= rule.learning_rate * m / (math.sqrt(v) + rule.epsilon)


def sparse(rule: AnyRule, dtype: Any = "float64", dim: int = 3) -> SparseTable:
    return SparseTable(TableSpec(name="t", kind="sparse", dim=dim, rule=rule, bound=50, dtype=dtype))


def keys_of(*numbers: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("rule", RULE_LIST, ids=lambda rule: rule.name)
def test_a_rule_is_its_formula_row_by_row(rule: AnyRule, dtype: str) -> None:
    rng = np.random.default_rng(1)
    table = sparse(rule, dtype)
    plain = {k: PlainRow(table.pull(keys_of(k))[0].tolist(), rule) for k in range(10)}
    for _ in range(30):
        picked = rng.permutation(10)[: rng.integers(1, 10)].astype(np.uint64)
        pushed = rng.normal(size=(picked.size, 3)).astype(dtype)
        table.push(picked, pushed)
        for key, g in zip(picked.tolist(), pushed.tolist(), strict=True):
            plain[key].push(g)
    assert table.pull(np.arange(10, dtype=np.uint64)) == pytest.approx(
        np.array([plain[k].w for k in range(10)]), rel=PRECISION[dtype], abs=PRECISION[dtype]
    )


@pytest.mark.parametrize("rule", RULE_LIST, ids=lambda rule: rule.name)
def test_untouched_rows_do_not_move(rule: AnyRule) -> None:
    table = sparse(rule)
    before = table.pull(np.arange(6, dtype=np.uint64))
    state = table.dump()
    for _ in range(3):
        table.push(keys_of(1, 4), np.ones((2, 3)))
    after, state_after = table.pull(np.arange(6, dtype=np.uint64)), table.dump()
    still = [0, 2, 3, 5]
    assert np.array_equal(before[still], after[still])
    assert not np.equal(before[[1, 4]], after[[1, 4]]).any()
    assert all(np.array_equal(state[part][still], state_after[part][still]) for part in state)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("rule", [rule for rule in RULE_LIST if rule.row_local], ids=lambda rule: rule.name)
def test_a_dense_table_is_a_sparse_one_of_one_row(rule: AnyRule, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    row = sparse(rule, dtype, dim=7)
    dense = DenseTable(TableSpec(name="d", kind="dense", dim=7, rule=rule, dtype=dtype))
    assert dense.start_with(row.pull(keys_of(3))[0])
    for _ in range(10):
        pushed = rng.normal(size=7).astype(dtype)
        row.push(keys_of(3), pushed[None])
        dense.push(pushed)
    assert np.array_equal(dense.pull(), row.pull(keys_of(3))[0])


def _torch_run(make: Callable[[list[torch.Tensor]], torch.optim.Optimizer], rule: AnyRule) -> tuple[Any, Any]:
    """One row after 25 pushes: ours, torch's."""
    rng = np.random.default_rng(3)
    table = sparse(rule)
    weights = torch.from_numpy(table.pull(keys_of(7))[0]).requires_grad_()
    optimizer = make([weights])
    for _ in range(25):
        g = rng.normal(size=3)
        weights.grad = torch.from_numpy(g.copy())
        optimizer.step()
        table.push(keys_of(7), g[None])
    return table.pull(keys_of(7))[0], weights.detach().numpy()


def test_adam_of_one_row_is_torch_adam() -> None:
    ours, theirs = _torch_run(lambda w: torch.optim.Adam(w, 0.01, (0.8, 0.95), 1e-6), Adam(0.01, 0.8, 0.95, 1e-6))
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_adagrad_of_one_row_is_torch_adagrad() -> None:
    """Same formula; torch's names for the first sum and for epsilon, whose defaults (0, 1e-10) are ours as well."""
    ours, theirs = _torch_run(
        lambda w: torch.optim.Adagrad(w, 0.1, initial_accumulator_value=0.5, eps=1e-6), Adagrad(0.1, 0.5, 1e-6)
    )
    assert ours == pytest.approx(theirs, rel=1e-12)
    ours, theirs = _torch_run(lambda w: torch.optim.Adagrad(w, 0.05), Adagrad())
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_sgd_of_one_row_is_torch_sgd() -> None:
    ours, theirs = _torch_run(lambda w: torch.optim.SGD(w, 0.1), Sgd(0.1))
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_adam_counts_the_steps_of_each_row_by_itself() -> None:
    """Row 0 is pushed every step, row 1 every third; each is what it would be alone."""
    table, alone = sparse(Adam(0.1)), sparse(Adam(0.1))
    for step in range(9):
        keys = keys_of(0, 1) if step % 3 == 0 else keys_of(0)
        table.push(keys, np.full((keys.size, 3), 0.5 + step))
        if step % 3 == 0:
            alone.push(keys_of(1), np.full((1, 3), 0.5 + step))
    assert np.array_equal(table.pull(keys_of(1)), alone.pull(keys_of(1)))


@pytest.mark.parametrize("rule", RULE_LIST, ids=lambda rule: rule.name)
def test_a_rule_writes_into_what_it_is_given_and_keeps_the_type(rule: AnyRule) -> None:
    values = np.ones((2, 4), np.float32)
    state = [np.full((2, w), x, np.float32) for w, x in zip(rule.state_widths(4), rule.first_state(), strict=True)]
    pushed = np.full((2, 4), 0.25, np.float32)
    rule.apply(values, state, pushed)
    assert values.dtype == np.float32
    assert (values != 1).all()
    assert (pushed == 0.25).all()


def test_make_rule_takes_the_settings_that_the_rule_knows() -> None:
    assert make_rule("sgd", learning_rate=0.5, beta1=0.1) == Sgd(0.5)
    assert make_rule("adam", epsilon=1e-3) == Adam(epsilon=1e-3)
    assert {make_rule(name).name for name in RULES} == {"sum", "sgd", "adagrad", "adagrad_row", "adam"}
