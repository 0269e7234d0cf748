"""The rules that torch has, too, against torch's optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.table import SparseTable, TableSpec
from flps.table.rules import Adagrad, Adam, AnyRule, Momentum, Sgd

PAIRS: dict[str, tuple[AnyRule, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(0.1), lambda w: torch.optim.SGD(w, 0.1)),
    "momentum": (Momentum(0.1, 0.7), lambda w: torch.optim.SGD(w, 0.1, momentum=0.7)),
    "momentum, default": (Momentum(), lambda w: torch.optim.SGD(w, 0.01, momentum=0.9)),
    "nesterov": (Momentum(0.1, 0.7, nesterov=True), lambda w: torch.optim.SGD(w, 0.1, momentum=0.7, nesterov=True)),
    "adagrad": (
        Adagrad(0.1, 0.5, 1e-6),
        lambda w: torch.optim.Adagrad(w, 0.1, initial_accumulator_value=0.5, eps=1e-6),
    ),
    "adagrad, default": (Adagrad(), lambda w: torch.optim.Adagrad(w, 0.05)),
    "adam": (Adam(0.01, 0.8, 0.95, 1e-6), lambda w: torch.optim.Adam(w, 0.01, (0.8, 0.95), 1e-6)),
}


@pytest.mark.parametrize("pair", PAIRS)
@given(dim=st.integers(1, 8), steps=st.integers(1, 30), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_one_row_moves_as_torch_moves_it(pair: str, dim: int, steps: int, seed: int) -> None:
    rule, make = PAIRS[pair]
    rng = np.random.default_rng(seed)
    key = np.array([7], np.uint64)
    table = SparseTable(TableSpec(name="t", kind="sparse", dim=dim, rule=rule, bound=50, dtype="float64"))
    weights = torch.from_numpy(table.pull(key)[0]).requires_grad_()
    optimizer = make([weights])
    for _ in range(steps):
        g = rng.normal(size=dim)
        weights.grad = torch.from_numpy(g.copy())
        optimizer.step()
        table.push(key, g[None])
    assert table.pull(key)[0] == pytest.approx(weights.detach().numpy(), rel=1e-11, abs=1e-12)
