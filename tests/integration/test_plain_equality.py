"""Equality with an independent loop of plain torch, all tables and dense parameters compared at the end.

sync: N workers are one process on the union batch. async with one worker: each gradient is taken one step late, since
the rows of the next batch are asked for before this batch's gradient is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from flps.config import load
from flps.data.train import Sampling, TrainSet, open_train
from flps.models.catalog import resolve, schemas
from flps.worker.parameters import place

Tensors = dict[str, torch.Tensor]


class LazyAdam:
    """Adam on a matrix whose rows count their own steps; a row without samples does not move."""

    def __init__(self, rows: torch.Tensor, lr: float) -> None:
        self.rows, self.lr = rows, lr
        self.m, self.v = torch.zeros_like(rows), torch.zeros_like(rows)
        self.t = torch.zeros(len(rows), 1, dtype=rows.dtype)

    def step(self, gradient: torch.Tensor, seen: torch.Tensor) -> None:
        self.t[seen] += 1
        self.m[seen] = 0.9 * self.m[seen] + 0.1 * gradient[seen]
        self.v[seen] = 0.999 * self.v[seen] + 0.001 * gradient[seen] ** 2
        first = self.m[seen] / (1 - 0.9 ** self.t[seen])
        second = self.v[seen] / (1 - 0.999 ** self.t[seen])
        self.rows[seen] -= self.lr * first / (second.sqrt() + 1e-8)


class Torch:
    """NeuMF written down once more, with whole embedding matrices and the optimizers of torch."""

    def __init__(self, tensors: Tensors, rule: str, lr: float, mf_dim: int) -> None:
        self.tensors = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        self.mf_dim = mf_dim
        self.lazy: dict[str, LazyAdam] = {}
        leaves = list(self.tensors.values())
        if rule == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(leaves, lr=lr)
        elif rule == "adagrad":
            self.optimizer = torch.optim.Adagrad(leaves, lr=lr)
        else:
            self.lazy = {name: LazyAdam(self.tensors[name].detach(), lr) for name in ("user", "item")}
            self.optimizer = torch.optim.Adam([t for n, t in self.tensors.items() if n not in self.lazy], lr=lr)

    def logits(self, t: Tensors, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        user, item = t["user"][users], t["item"][items]
        hidden = torch.cat((user[:, self.mf_dim :], item[:, self.mf_dim :]), 1)
        for layer in ("tower.0", "tower.2"):
            hidden = F.relu(F.linear(hidden, t[f"{layer}.weight"], t[f"{layer}.bias"]))
        product = user[:, : self.mf_dim] * item[:, : self.mf_dim]
        return F.linear(torch.cat((product, hidden), 1), t["prediction.weight"], t["prediction.bias"]).squeeze(1)

    def snapshot(self) -> Tensors:
        return {name: tensor.detach().clone().requires_grad_() for name, tensor in self.tensors.items()}

    def step(self, users: torch.Tensor, items: torch.Tensor, labels: torch.Tensor, at: Tensors | None = None) -> None:
        """One step; `at`: the numbers at which the gradient is taken, when they are not the newest ones."""
        at = at or self.snapshot()
        logits = self.logits(at, users, items)
        F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)).backward()
        for name, tensor in self.tensors.items():
            tensor.grad = at[name].grad
        self.optimizer.step()
        for name, ids in (("user", users), ("item", items)):
            gradient = self.tensors[name].grad
            if name in self.lazy and gradient is not None:
                self.lazy[name].step(gradient, torch.unique(ids))


def first_tensors(config: Any, dtype: torch.dtype) -> Tensors:
    """The numbers that a federation of this config starts from."""
    model = resolve(config.model, "")(config.hyper_parameters, config.seed)
    tensors = {name: tensor.detach().to(dtype).clone() for name, tensor in model.named_parameters()}
    specs = {p.parameter.spec.name: p.parameter.spec for p in place(model, config)}
    for name in ("user", "item"):
        spec = specs[f"{name}_embedding"]
        rows = spec.init.rows(np.arange(spec.bound, dtype=np.uint64), spec.dim, spec.seed, spec.dtype)
        tensors[name] = torch.from_numpy(rows)
    return tensors


def union_batches(sets: list[TrainSet], epoch: int) -> list[tuple[torch.Tensor, ...]]:
    """Step s of the union: the batches s of all clients that still have one, behind one another."""
    streams = [list(one.epoch(epoch)) for one in sets]
    steps = []
    for number in range(max(map(len, streams))):
        parts = [stream[number] for stream in streams if number < len(stream)]
        steps.append(tuple(torch.from_numpy(np.concatenate(columns)) for columns in zip(*parts, strict=True)))
    return steps


def trained_alone(config: Any, clients: int, dtype: torch.dtype, delay: int = 0) -> tuple[Tensors, int]:
    """The same job in one loop; its numbers at the end, and how many steps it took.

    delay: the gradient of a step is taken at the numbers of so many steps ago; an epoch begins with the newest ones.
    """
    runner = config.runner
    sampling = Sampling(batch_size=runner.train_batch_size, seed=config.seed, negatives="fixed")
    sets = [open_train(runner.train_data_dir, client, clients, sampling=sampling) for client in range(clients)]
    optimizer = config.hyper_parameters["optimizer"]
    alone = Torch(first_tensors(config, dtype), optimizer["class"], optimizer["learning_rate"], mf_dim=4)
    steps = 0
    for epoch in range(runner.epochs):
        versions = [alone.snapshot()]
        for number, batch in enumerate(union_batches(sets, epoch)):
            at = {name: tensor.detach().requires_grad_() for name, tensor in versions[max(0, number - delay)].items()}
            alone.step(*batch, at=at)
            versions.append(alone.snapshot())
            steps += 1
    return {name: tensor.detach() for name, tensor in alone.tensors.items()}, steps


def largest_difference(parameters: dict[str, NDArray[Any]], alone: Tensors) -> float:
    """Over every table and every dense parameter."""
    differences = []
    for name in ("user", "item"):
        keys = parameters[f"{name}_embedding.keys"].astype(np.int64)
        assert len(keys) == len(alone[name])
        differences.append(np.abs(parameters[f"{name}_embedding.values"] - alone[name].numpy()[keys]).max())
    dense = np.concatenate([tensor.numpy().ravel() for name, tensor in alone.items() if name not in ("user", "item")])
    return float(max(*differences, np.abs(parameters["dense.values"] - dense).max()))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(("rule", "lr"), [("sgd", 0.5), ("adagrad", 0.05), ("adam", 0.002)])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_sync_is_one_process_on_the_union_batch(
    shards: Callable[..., Path],
    federate: Callable[..., Any],
    workers: int,
    rule: str,
    lr: float,
    dtype: str,
    bound: float,
    private: bool,
) -> None:
    settings = {
        "runner": {"sync_mode": "sync", "epochs": 3 if workers == 4 else 2}
        | ({"local_sparse": ["user_embedding"]} if private else {}),
        "hyper_parameters": {"optimizer": {"class": rule, "learning_rate": lr}},
        "table_parameters": {name: {"dtype": dtype} for name in ("user_embedding", "item_embedding", "dense")},
    }
    saved = federate(shards(4), settings, workers=workers)
    config = load(saved.run_dir / "config.yaml", (), schemas())
    alone, steps = trained_alone(config, workers, getattr(torch, dtype))
    assert steps >= 50
    parameters = saved.parameters()
    assert parameters["user_embedding.values"].dtype == dtype
    first = first_tensors(config, getattr(torch, dtype))
    assert min(float((alone[name] - first[name]).abs().max()) for name in first) > 1e-3
    assert largest_difference(parameters, alone) <= bound


@pytest.mark.parametrize(("rule", "lr"), [("sgd", 0.5), ("adagrad", 0.05), ("adam", 0.002)])
def test_async_with_one_worker_is_one_step_late(
    shards: Callable[..., Path], federate: Callable[..., Any], rule: str, lr: float
) -> None:
    settings = {
        "runner": {"sync_mode": "async"},
        "hyper_parameters": {"optimizer": {"class": rule, "learning_rate": lr}},
        "table_parameters": {name: {"dtype": "float64"} for name in ("user_embedding", "item_embedding", "dense")},
    }
    saved = federate(shards(4), settings, workers=1, servers=2)
    config = load(saved.run_dir / "config.yaml", (), schemas())
    late, steps = trained_alone(config, 1, torch.float64, delay=1)
    in_time, _ = trained_alone(config, 1, torch.float64)
    assert steps >= 50
    assert largest_difference(saved.parameters(), late) <= 1e-12
    assert largest_difference(saved.parameters(), in_time) > 1e-4
