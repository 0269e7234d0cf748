"""Optimizers by name: FTRL and AdamWeightDecay against loops, the table rule and the names of both worlds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from flps.errors import ConfigError
from flps.split.optimizers import FTRL, AdamWeightDecay, is_known, make_optimizer
from flps.table.rules import Ftrl

SIZE, STEPS = 6, 12


def pushes(steps: int = STEPS) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(5)
    gradients = [torch.randn(SIZE, generator=source, dtype=torch.float64) for _ in range(steps)]
    for gradient in gradients:
        gradient[0] = 0.0  # a weight that never gets any
    return gradients


def trained(optimizer: torch.optim.Optimizer, weight: Parameter) -> Parameter:
    for gradient in pushes():
        weight.grad = gradient.clone()
        optimizer.step()
    return weight


def start() -> Parameter:
    return Parameter(torch.linspace(-1, 1, SIZE, dtype=torch.float64))


rates, strengths, firsts = st.floats(0.01, 2), st.floats(0, 0.5), st.floats(0, 2)


@settings(max_examples=30)
@given(rates, strengths, strengths, firsts)
def test_ftrl_is_the_table_rule(rate: float, l1: float, l2: float, initial: float) -> None:
    l2 += 1e-3 * (initial == 0)  # the rule refuses what would divide by 0
    weight = trained(FTRL([weight := start()], rate, initial_accum=initial, l1=l1, l2=l2), weight)
    rule = Ftrl(rate, beta=0.0, l1=l1, l2=2 * l2 + 1e-300)
    values = start().detach().numpy()[None]
    state = [np.zeros((1, SIZE)), np.full((1, SIZE), initial)]
    for gradient in pushes():
        rule.apply(values, state, gradient.numpy()[None])
    np.testing.assert_allclose(weight.detach().numpy()[None], values, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("power", [-0.5, -0.3, 0.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_ftrl_is_its_formula(power: float, decay: float) -> None:
    rate, l1, l2, initial = 0.3, 0.05, 0.02, 0.1
    optimizer = FTRL([weight := start()], rate, initial, power, l1, l2, decay)
    w, n, z = start().tolist(), [initial] * SIZE, [0.0] * SIZE
    for gradient in pushes():
        for index in range(SIZE):
            g = gradient[index].item() + decay * w[index]
            before, n[index] = n[index], n[index] + g * g
            z[index] += g - (n[index] ** -power - before**-power) / rate * w[index]
            is_kept = abs(z[index]) > l1
            w[index] = (math.copysign(l1, z[index]) - z[index]) / (n[index] ** -power / rate + 2 * l2) * is_kept
    np.testing.assert_allclose(trained(optimizer, weight).detach().numpy(), w, rtol=1e-12, atol=1e-14)


def test_ftrl_divides_by_nothing_where_nothing_came() -> None:
    weight = trained(FTRL([weight := start()], 0.1, initial_accum=0.0), weight)
    assert weight[0] == 0
    assert weight.isfinite().all()


def test_adam_weight_decay_is_its_formula() -> None:
    rate, beta1, beta2, eps, decay = 0.1, 0.8, 0.95, 1e-6, 0.1
    optimizer = AdamWeightDecay([weight := start()], rate, (beta1, beta2), eps, decay)
    w, m, v = start().tolist(), [0.0] * SIZE, [0.0] * SIZE
    for gradient in pushes():
        for index, g in enumerate(gradient.tolist()):
            m[index] = beta1 * m[index] + (1 - beta1) * g
            v[index] = beta2 * v[index] + (1 - beta2) * g * g
            w[index] -= rate * (m[index] / (math.sqrt(v[index]) + eps) + decay * w[index])
    np.testing.assert_allclose(trained(optimizer, weight).detach().numpy(), w, rtol=1e-12)


ALL = [
    name
    for name in dir(torch.optim)
    if isinstance(getattr(torch.optim, name), type) and name not in ("Optimizer", "LBFGS", "SparseAdam")
]


@pytest.mark.parametrize("name", [*ALL, "FTRL", "AdamWeightDecay", "Momentum", "RMSProp", "AdaMax"])
def test_every_optimizer_is_made_by_its_name_and_trains(name: str) -> None:
    weight = Parameter(torch.ones(2, 2))
    settings = {"momentum": 0.9} if name == "Momentum" else {}
    optimizer = make_optimizer(name, [weight], {"learning_rate": 0.1, **settings, "loss_scale": 1024.0}, "x.yaml:3")
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert is_known(name)
    assert not torch.equal(weight, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("Adam", {"learning_rate": 1e-3, "beta1": 0.5, "use_amsgrad": True},
         {"lr": 1e-3, "betas": (0.5, 0.999), "amsgrad": True}),
        ("Adam", {"learning_rate": "5e-6", "betas": [0.9, 0.95], "eps": 1e-6, "use_locking": False},
         {"lr": 5e-6, "betas": (0.9, 0.95), "eps": 1e-6}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True}, {"lr": 0.1, "momentum": 0.8}),
        ("Momentum", {"learning_rate": 0.1, "momentum": 0.9, "use_nesterov": True}, {"nesterov": True}),
        ("RMSProp", {"learning_rate": 0.1, "decay": 0.8, "epsilon": 1e-4}, {"alpha": 0.8, "eps": 1e-4}),
        ("Adagrad", {"learning_rate": 0.1, "accum": 0.2}, {"initial_accumulator_value": 0.2}),
        ("AdamWeightDecay", {"beta2": 0.95, "weight_decay": 0.1}, {"betas": (0.9, 0.95), "weight_decay": 0.1}),
        ("FTRL", {"learning_rate": 5e-2, "initial_accum": 1.0, "l1": 1e-8}, {"lr": 5e-2, "initial_accum": 1.0}),
    ],
)  # fmt: skip
def test_names_of_both_worlds(name: str, written: dict[str, Any], expected: dict[str, Any]) -> None:
    optimizer = make_optimizer(name, [Parameter(torch.ones(2))], written, "x.yaml:3")
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("Adm", {}, "x.yaml:3: no optimizer 'Adm'; did you mean Adam?.*optimizers="),
        ("LBFGS", {}, "x.yaml:3: optimizer LBFGS is not offered"),
        ("Optimizer", {}, "no optimizer"),
        ("lr_scheduler", {}, "no optimizer"),
        (
            "Adam",
            {"learning_rat": 0.1},
            "x.yaml:3: Adam has no hyper parameter 'learning_rat'; did you mean learning_rate?",
        ),
        ("SGD", {"beta1": 0.1}, "SGD has no hyper parameter 'beta1'"),
        ("Adam", {"learning_rate": -1.0}, "x.yaml:3: optimizer Adam cannot be made"),
        ("Adam", {"learning_rate": "fast"}, "x.yaml:3: optimizer Adam cannot be made"),
        ("FTRL", {"l1": -1}, "x.yaml:3: optimizer FTRL cannot be made"),
        ("AdamWeightDecay", {"beta1": 1.0}, "x.yaml:3: optimizer AdamWeightDecay cannot be made"),
    ],
)
def test_what_cannot_be_made_is_said_with_its_line(name: str, written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_optimizer(name, [Parameter(torch.ones(2))], written, "x.yaml:3")


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_in_one_pass_is_adam(name: str) -> None:
    """In float64 to the last digits; what the yaml says of the form holds."""
    start = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {form: Parameter(start.clone()) for form in ("fused", "plain")}
    fused = make_optimizer(name, [weights["fused"]], {"lr": 0.1}, "x.yaml:3")
    plain = make_optimizer(name, [weights["plain"]], {"lr": 0.1, "fused": False}, "x.yaml:3")
    assert (fused.param_groups[0]["fused"], plain.param_groups[0]["fused"]) == (True, False)
    for step in range(20):
        for weight, optimizer in zip(weights.values(), (fused, plain), strict=True):
            weight.grad = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1 + step))
            optimizer.step()
    torch.testing.assert_close(weights["fused"], weights["plain"], atol=1e-12, rtol=1e-12)
    assert make_optimizer(name, [weights["fused"]], {"foreach": True}, "x.yaml:3").param_groups[0]["fused"] is None


def test_a_sparse_gradient_moves_its_rows_as_a_dense_one_would() -> None:
    start = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    tables = [torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=kind) for kind in (True, False)]
    optimizers = [FTRL(table.parameters(), 0.3, l1=0.01, weight_decay=0.1) for table in tables]
    rows = torch.tensor([1, 4, 1])
    for _ in range(5):
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            table(rows).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight[rows], tables[1].weight[rows], rtol=1e-12, atol=1e-14)
    assert torch.equal(tables[0].weight[[0, 2, 3, 5]], start[[0, 2, 3, 5]])


def test_adam_weight_decay_refuses_sparse_gradients() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match="sparse=False"):
        AdamWeightDecay(table.parameters()).step()
