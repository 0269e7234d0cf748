"""Every rule against plain loops over elements, written from the formulas."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.table import DenseTable, Initializer, SparseTable, TableSpec
from flps.table.rules import (
    ALIASES,
    RULES,
    Adagrad,
    AdagradV2,
    Adam,
    AdamD2sum,
    AnyRule,
    Ftrl,
    Momentum,
    Sgd,
    SharedAdam,
    SparseAdagrad,
    StdAdagrad,
    Sum,
    Summary,
    Yogi,
    make_rule,
)

RULE_LIST: list[AnyRule] = [
    Sum(),
    Summary(0.9),
    Sgd(0.1),
    Momentum(0.1, 0.8),
    Momentum(0.1, 0.8, nesterov=True),
    Adagrad(0.1, initial_g2sum=0.5, epsilon=1e-6),
    AdagradV2(0.1, initial_g2sum=0.5, epsilon=1e-6),
    SparseAdagrad(0.1, 2.0),
    StdAdagrad(0.1, 2.0),
    Adam(0.01, beta1=0.8, beta2=0.95, epsilon=1e-6),
    SharedAdam(0.01, beta1=0.8, beta2=0.95, epsilon=1e-6),
    AdamD2sum(0.01, ada_decay_rate=0.95, mom_decay_rate=0.8, epsilon=1e-6),
    Yogi(0.01, beta1=0.8, beta2=0.95),
    Ftrl(0.2, beta=0.5, l1=0.05, l2=0.1),
]
PRECISION = {"float32": 5e-5, "float64": 1e-11}


def name_of(rule: AnyRule) -> str:
    return rule.name + ".nesterov" * getattr(rule, "nesterov", False)


class PlainRow:
    """One row and its state as Python floats, changed by the formulas of the rules' docstrings."""

    def __init__(self, weights: list[float], rule: Any) -> None:
        self.w = list(weights)
        self.rule = rule
        dim = len(weights)
        begins_with_g0 = rule.name in ("adagrad", "adagrad_v2")
        self.one_square = rule.initial_g2sum if begins_with_g0 else 0.0
        self.squares = [self.one_square] * dim
        self.m, self.z = [0.0] * dim, [0.0] * dim
        self.v = [getattr(rule, "initial_v", 0.0)] * dim
        self.one_m = self.one_v = self.count = 0.0
        self.t = 0

    def push(self, g: list[float]) -> None:
        getattr(self, self.rule.name)(g)
        low, high = getattr(self.rule, "weight_bounds", None) or (-math.inf, math.inf)
        self.w = [min(max(w, low), high) for w in self.w]

    def sum(self, g: list[float]) -> None:
        self.w = [w + x for w, x in zip(self.w, g, strict=True)]

    def summary(self, g: list[float]) -> None:
        self.w = [w * self.rule.summary_decay + x for w, x in zip(self.w, g, strict=True)]

    def sgd(self, g: list[float]) -> None:
        self.w = [w - self.rule.learning_rate * x for w, x in zip(self.w, g, strict=True)]

    def momentum(self, g: list[float]) -> None:
        mu = self.rule.momentum
        for i, x in enumerate(g):
            self.v[i] = mu * self.v[i] + x
            self.w[i] -= self.rule.learning_rate * (x + mu * self.v[i] if self.rule.nesterov else self.v[i])

    def adagrad(self, g: list[float]) -> None:
        for i, x in enumerate(g):
            self.squares[i] += x * x
            self.w[i] -= self.rule.learning_rate * x / (math.sqrt(self.squares[i]) + self.rule.epsilon)

    def adagrad_v2(self, g: list[float]) -> None:
        self.one_square += sum(x * x for x in g) / len(g)
        for i, x in enumerate(g):
            self.w[i] -= self.rule.learning_rate * x / (math.sqrt(self.one_square) + self.rule.epsilon)

    def sparse_adagrad(self, g: list[float]) -> None:
        start = self.rule.initial_g2sum
        for i, x in enumerate(g):
            self.w[i] -= self.rule.learning_rate * x * math.sqrt(start / (start + self.one_square))
        self.one_square += sum(x * x for x in g) / len(g)

    def std_adagrad(self, g: list[float]) -> None:
        start = self.rule.initial_g2sum
        for i, x in enumerate(g):
            self.w[i] -= self.rule.learning_rate * x * math.sqrt(start / (start + self.squares[i]))
            self.squares[i] += x * x

    def adam(self, g: list[float]) -> None:
        rule = self.rule
        self.t += 1
        for i, x in enumerate(g):
            self.m[i] = rule.beta1 * self.m[i] + (1 - rule.beta1) * x
            self.v[i] = rule.beta2 * self.v[i] + (1 - rule.beta2) * x * x
            m, v = self.m[i] / (1 - rule.beta1**self.t), self.v[i] / (1 - rule.beta2**self.t)
            self.w[i] -= rule.learning_rate * m / (math.sqrt(v) + rule.epsilon)

    def shared_adam(self, g: list[float]) -> None:
        rule = self.rule
        self.t += 1
        rate = rule.learning_rate * math.sqrt(1 - rule.beta2**self.t) / (1 - rule.beta1**self.t)
        m = [rule.beta1 * self.one_m + (1 - rule.beta1) * x for x in g]
        v = [rule.beta2 * self.one_v + (1 - rule.beta2) * x * x for x in g]
        self.w = [w - rate * a / (math.sqrt(b) + rule.epsilon) for w, a, b in zip(self.w, m, v, strict=True)]
        self.one_m, self.one_v = sum(m) / len(m), sum(v) / len(v)

    def adam_d2sum(self, g: list[float]) -> None:
        rule = self.rule
        self.count = self.count * rule.ada_decay_rate + 1
        for i, x in enumerate(g):
            self.v[i] = self.v[i] * rule.ada_decay_rate + x * x
            floor = self.count * rule.epsilon
            scale = math.sqrt((self.count + floor) / (self.v[i] + floor))
            self.m[i] = (self.m[i] - x) * rule.mom_decay_rate + x
            self.w[i] -= rule.learning_rate * self.m[i] * scale

    def yogi(self, g: list[float]) -> None:
        rule = self.rule
        for i, x in enumerate(g):
            self.m[i] = rule.beta1 * self.m[i] + (1 - rule.beta1) * x
            sign = (self.v[i] > x * x) - (self.v[i] < x * x)
            self.v[i] -= (1 - rule.beta2) * sign * x * x
            self.w[i] -= rule.learning_rate * self.m[i] / (math.sqrt(self.v[i]) + rule.epsilon)

    def ftrl(self, g: list[float]) -> None:
        rule = self.rule
        for i, x in enumerate(g):
            sigma = (math.sqrt(self.squares[i] + x * x) - math.sqrt(self.squares[i])) / rule.learning_rate
            self.z[i] += x - sigma * self.w[i]
            self.squares[i] += x * x
            shrunk = self.z[i] - math.copysign(min(abs(self.z[i]), rule.l1), self.z[i])
            self.w[i] = -shrunk / ((rule.beta + math.sqrt(self.squares[i])) / rule.learning_rate + rule.l2)


def sparse(rule: AnyRule, dtype: Any = "float64", dim: int = 3) -> SparseTable:
    init = Initializer(scale=0.1)
    return SparseTable(TableSpec(name="t", kind="sparse", dim=dim, rule=rule, bound=50, dtype=dtype, init=init))


def keys_of(*numbers: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


def train_both(rule: AnyRule, dtype: str, dim: int, rows: int, steps: int, seed: int, scale: float) -> tuple[Any, Any]:
    """The rows of a table, and of plain loops, after the same pushes to random ones of them."""
    rng = np.random.default_rng(seed)
    table = sparse(rule, dtype, dim)
    plain = {k: PlainRow(table.pull(keys_of(k))[0].tolist(), rule) for k in range(rows)}
    for _ in range(steps):
        picked = rng.permutation(rows)[: rng.integers(1, rows + 1)].astype(np.uint64)
        pushed = (scale * rng.normal(size=(picked.size, dim))).astype(dtype)
        table.push(picked, pushed)
        for key, g in zip(picked.tolist(), pushed.tolist(), strict=True):
            plain[key].push(g)
    return table.pull(np.arange(rows, dtype=np.uint64)), np.array([plain[k].w for k in range(rows)])


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("rule", RULE_LIST, ids=name_of)
def test_a_rule_is_its_formula_row_by_row(rule: AnyRule, dtype: str) -> None:
    got, wanted = train_both(rule, dtype, dim=3, rows=10, steps=30, seed=1, scale=1.0)
    assert got == pytest.approx(wanted, rel=PRECISION[dtype], abs=PRECISION[dtype])


def some(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


BOUNDS = st.one_of(st.none(), st.tuples(some(-0.5, -0.01), some(0.01, 0.5)))
RATE = some(1e-4, 1.0)
BETAS = {"beta1": some(0.0, 0.99), "beta2": some(0.0, 0.9999)}
EPSILON = some(1e-8, 1e-2)
SETTINGS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "sum": {},
    "summary": {"summary_decay": some(0.5, 1.0)},
    "sgd": {"learning_rate": RATE, "weight_bounds": BOUNDS},
    "momentum": {"learning_rate": RATE, "momentum": some(0.0, 0.95), "nesterov": st.booleans()},
    "adagrad": {"learning_rate": RATE, "initial_g2sum": some(0.0, 5.0), "epsilon": EPSILON},
    "adagrad_v2": {
        "learning_rate": RATE, "initial_g2sum": some(0.0, 5.0), "epsilon": EPSILON, "weight_bounds": BOUNDS,
    },
    "sparse_adagrad": {"learning_rate": RATE, "initial_g2sum": some(0.01, 5.0), "weight_bounds": BOUNDS},
    "std_adagrad": {"learning_rate": RATE, "initial_g2sum": some(0.01, 5.0), "weight_bounds": BOUNDS},
    "adam": {"learning_rate": RATE, **BETAS, "epsilon": EPSILON, "weight_bounds": BOUNDS},
    "shared_adam": {"learning_rate": RATE, **BETAS, "epsilon": EPSILON, "weight_bounds": BOUNDS},
    "adam_d2sum": {
        "learning_rate": RATE, "epsilon": EPSILON,
        "ada_decay_rate": some(0.0, 0.9999), "mom_decay_rate": some(0.0, 0.99),
    },
    "yogi": {"learning_rate": RATE, **BETAS, "epsilon": some(1e-4, 1e-2), "initial_v": some(1e-6, 1.0)},
    "ftrl": {"learning_rate": some(1e-2, 1.0), "beta": some(0.1, 2.0), "l1": some(0.0, 0.5), "l2": some(0.0, 1.0)},
}  # fmt: skip


def test_every_rule_is_drawn() -> None:
    assert SETTINGS.keys() == RULES.keys() == {rule.name for rule in RULE_LIST}
    for name, drawn in SETTINGS.items():
        assert drawn.keys() == set(RULES[name].__struct_fields__)
    assert set(get_args(AnyRule)) == set(RULES.values())


@pytest.mark.parametrize("name", SETTINGS)
@given(
    drawn=st.data(), dim=st.integers(1, 6), rows=st.integers(1, 8), steps=st.integers(1, 12), seed=st.integers(0, 99)
)
@settings(max_examples=12, deadline=None)
def test_a_rule_is_its_formula_for_all_settings(
    name: str, drawn: st.DataObject, dim: int, rows: int, steps: int, seed: int
) -> None:
    rule = RULES[name](**{key: drawn.draw(values, key) for key, values in SETTINGS[name].items()})
    got, wanted = train_both(rule, "float64", dim, rows, steps, seed, scale=drawn.draw(some(0.01, 3.0)))
    assert got == pytest.approx(wanted, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("rule", RULE_LIST, ids=name_of)
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
@pytest.mark.parametrize("rule", RULE_LIST, ids=name_of)
def test_a_dense_table_is_a_sparse_one_of_one_row_or_of_rows_of_one_number(rule: AnyRule, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    shape = (1, 7) if rule.row_local else (7, 1)
    rows = sparse(rule, dtype, dim=shape[1])
    keys = np.arange(shape[0], dtype=np.uint64)
    dense = DenseTable(TableSpec(name="d", kind="dense", dim=7, rule=rule, dtype=dtype))
    assert dense.start_with(rows.pull(keys).reshape(-1))
    for _ in range(10):
        pushed = rng.normal(size=7).astype(dtype)
        rows.push(keys, pushed.reshape(shape))
        dense.push(pushed)
    assert np.array_equal(dense.pull(), rows.pull(keys).reshape(-1))
    again = DenseTable(dense.spec)
    again.load(dense.dump())
    for table in (dense, again):
        table.push(np.ones(7, dtype))
    assert np.array_equal(dense.pull(), again.pull())


@pytest.mark.parametrize("name", ["adam", "shared_adam"])
def test_rows_count_their_steps_by_themselves(name: str) -> None:
    """Row 0 is pushed every step, row 1 every third; each is what it would be alone."""
    table, alone = sparse(make_rule(name, learning_rate=0.1)), sparse(make_rule(name, learning_rate=0.1))
    for step in range(9):
        keys = keys_of(0, 1) if step % 3 == 0 else keys_of(0)
        table.push(keys, np.full((keys.size, 3), 0.5 + step))
        if step % 3 == 0:
            alone.push(keys_of(1), np.full((1, 3), 0.5 + step))
    assert np.array_equal(table.pull(keys_of(1)), alone.pull(keys_of(1)))


@pytest.mark.parametrize("rule", RULE_LIST, ids=name_of)
def test_a_rule_writes_into_what_it_is_given_and_keeps_the_type(rule: AnyRule) -> None:
    values = np.ones((2, 4), np.float32)
    state = [np.full((2, w), x, np.float32) for w, x in zip(rule.state_widths(4), rule.first_state(), strict=True)]
    given_state = list(state)
    pushed = np.full((2, 4), 0.25, np.float32)
    rule.apply(values, state, pushed)
    assert values.dtype == np.float32
    assert (values != 1).all()
    assert (pushed == 0.25).all()
    assert all(one is other and one.dtype == np.float32 for one, other in zip(state, given_state, strict=True))


# --- settings --------------------------------------------------------------------------------------------------------


def test_make_rule_takes_the_settings_that_the_rule_knows() -> None:
    assert make_rule("sgd", learning_rate=0.5, beta1=0.1) == Sgd(0.5)
    assert make_rule("adam", epsilon=1e-3, learning_rate=None) == Adam(epsilon=1e-3)
    assert {make_rule(name).name for name in RULES} == RULES.keys()
    assert {make_rule(alias).name: name for alias, name in ALIASES.items()} == {"adagrad_v2": "adagrad_v2"}


def test_the_defaults_of_paddles_rules_are_paddles() -> None:
    for name in ("adagrad_v2", "sparse_adagrad", "std_adagrad"):
        assert make_rule(name).learning_rate == 0.05  # type: ignore[union-attr]
    assert SparseAdagrad().initial_g2sum == StdAdagrad().initial_g2sum == 3
    assert SharedAdam() == SharedAdam(0.001, 0.9, 0.999, 1e-8, (-10, 10))
    assert Adam() == Adam(0.001, 0.9, 0.999, 1e-8)
    for rule in (AdagradV2(), SparseAdagrad(), StdAdagrad(), SharedAdam()):
        assert rule.weight_bounds == (-10, 10)


@pytest.mark.parametrize("rule", [Sgd(1.0, (-10, 10)), AdagradV2(9.0), SparseAdagrad(9.0), StdAdagrad(9.0),
                                  Adam(9.0, weight_bounds=(-10, 10)), SharedAdam(9.0)], ids=name_of)  # fmt: skip
def test_weights_stay_within_their_bounds(rule: AnyRule) -> None:
    table = sparse(rule)
    for _ in range(6):
        table.push(keys_of(1), np.array([[3.0, -3.0, 0.0]]))
    assert table.pull(keys_of(1))[0, :2].tolist() == [-10, 10]


def test_betas_of_the_user_are_used() -> None:
    """The original puts 0.9 and 0.999 in their place."""
    for name in ("adam", "shared_adam"):
        default, said = (sparse(make_rule(name, **betas)) for betas in ({}, {"beta1": 0.2, "beta2": 0.5}))
        for table in (default, said):
            for g in (1.0, 4.0):
                table.push(keys_of(1), np.full((1, 3), g))
        assert abs(default.pull(keys_of(1)) - said.pull(keys_of(1))).min() > 1e-5


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("std_adagrad", {"initial_g2sum": 0.0}, "initial_g2sum 0: .*must be above 0"),
        ("sparse_adagrad", {"initial_g2sum": -1.0}, "initial_g2sum -1: .*must be above 0"),
        ("shared_adam", {"weight_bounds": (1.0, -1.0)}, r"weight_bounds \[1, -1\]: the first number is the lowest"),
        ("ftrl", {"learning_rate": 0.0}, "ftrl wants a learning_rate above 0"),
        ("ftrl", {"beta": 0.0}, "divides by 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_rule(name, **wrong)
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"type": name, **wrong}, AnyRule)
