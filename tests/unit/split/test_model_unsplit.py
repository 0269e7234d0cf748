"""Split == unsplit: parties' nets in one process against one hand-written model with the same weights.

B samples; columns of the leader and of every follower; wide and deep parts that meet in the leader's top net, as in
Wide&Deep, with FTRL on wide, Adam on deep, an l2 term that stays at home, a loss scale of 1024, and dropout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flps.split.model import FLModel
from flps.split.optimizers import FTRL

SAMPLES, COLUMNS, STEPS = 16, 5, 100
SCALE = 1024.0
Described = Callable[[str, dict[str, Any]], Any]


class Bottom(nn.Module):
    """Columns (B, C) -> wide (B, 1), deep (B, 1), l2 term."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.wide = nn.Linear(COLUMNS, 1)
        self.deep = nn.Linear(COLUMNS, 8)
        self.dense_layer = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, x_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        l2 = 0.01 * self.deep.weight.square().mean()
        return self.wide(x_BC), self.dense_layer(self.deep(x_BC)), l2


class Top(nn.Module):
    """Every party's wide and deep -> logits (B, 1), loss."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * parties, 1)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *parts, label = inputs
        logits = self.dense(torch.cat([parts[0], parts[1], *parts[2:]], dim=1))
        return logits, nn.functional.binary_cross_entropy_with_logits(logits, label)


def tensors(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def grad(inputs: list[str], output: str, sens: Any) -> dict[str, Any]:
    return {"inputs": tensors(*inputs), "output": {"name": output}, "sens": sens}


def net(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    one = {"name": name, "inputs": tensors(*inputs), "outputs": tensors(*outputs)}
    return {"train_net": one, "eval_net": one}


def bottom_yaml(party: str, scale: Any = SCALE) -> dict[str, Any]:
    wide, deep, l2 = f"{party}_wide", f"{party}_deep", f"{party}_l2"
    ftrl = {"learning_rate": 5e-2, "l1": 1e-8, "l2": 1e-8, "initial_accum": 1.0, "loss_scale": scale}
    adam = {"learning_rate": 3.5e-3, "eps": 1e-8, "loss_scale": scale}
    return {
        "role": "leader" if party == "leader" else "follower",
        "model": net(f"{party}_bottom", [f"{party}_x"], [wide, deep, l2]),
        "opts": [
            {"type": "FTRL", "grads": [grad([f"{party}_x"], wide, "loss")], "params": tensors("wide"),
             "hyper_parameters": ftrl},
            {"type": "Adam", "grads": [grad([f"{party}_x"], deep, "loss"), grad([f"{party}_x"], l2, SCALE)],
             "params": tensors("deep", "dense"), "hyper_parameters": adam},
        ],
    }  # fmt: skip


def top_yaml(parties: list[str], scale: Any = SCALE) -> dict[str, Any]:
    parts = [f"{party}_{kind}" for party in parties for kind in ("wide", "deep")]
    return {
        "role": "leader",
        "model": net("top", [*parts, "label"], ["out", "loss"]),
        "opts": [
            {"type": "Adam", "grads": [grad([*parts, "label"], "loss", SCALE)],
             "hyper_parameters": {"learning_rate": 3.5e-3, "eps": 1e-8, "loss_scale": scale}},
        ],
        "grad_scalers": [grad(parts, "loss", SCALE)],
    }  # fmt: skip


class Parties:
    """All parties of a job in one process: what they exchange are the tensors themselves."""

    def __init__(self, described: Described, followers: int, dropout: float, scale: Any = SCALE) -> None:
        torch.manual_seed(7)
        self.names = ["leader", *(f"follower{index}" for index in range(followers))]
        self.bottoms = [
            FLModel(described(name, bottom_yaml(name, scale)), Bottom(dropout).double()) for name in self.names
        ]
        self.top = FLModel(described("top", top_yaml(self.names, scale)), Top(len(self.names)).double())
        self.models = [*self.bottoms, self.top]

    def forward(self, batch: dict[str, Tensor]) -> tuple[OrderedDict[str, Tensor], OrderedDict[str, Tensor]]:
        """Activations of all parties, and what the top net gives."""
        sent: OrderedDict[str, Tensor] = OrderedDict()
        for bottom in self.bottoms:
            sent.update(bottom.forward_one_step(batch))
        return sent, self.top.forward_one_step(batch, sent)

    def step(self, batch: dict[str, Tensor]) -> float:
        sent, out = self.forward(batch)
        scales = self.top.backward_one_step(batch, sent)
        for bottom in self.bottoms:
            bottom.backward_one_step(batch, sens=scales)
        return float(out["loss"])


class Unsplit:
    """The same nets as one model, one backward, plain torch optimizers."""

    def __init__(self, parties: Parties, dropout: float) -> None:
        self.bottoms = [Bottom(dropout).double() for _ in parties.bottoms]
        self.top = Top(len(self.bottoms)).double()
        for mine, theirs in zip([*self.bottoms, self.top], parties.models, strict=True):
            mine.load_state_dict(theirs.network.state_dict())
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(self.top.parameters(), 3.5e-3, eps=1e-8)]
        for bottom in self.bottoms:
            self.optimizers.append(FTRL(bottom.wide.parameters(), 5e-2, initial_accum=1.0, l1=1e-8, l2=1e-8))
            self.optimizers.append(
                torch.optim.Adam([*bottom.deep.parameters(), *bottom.dense_layer.parameters()], 3.5e-3)
            )

    def step(self, batch: dict[str, Tensor]) -> float:
        outs = [bottom(x_BC) for bottom, x_BC in zip(self.bottoms, batch.values(), strict=False)]
        parts = [part for wide, deep, _ in outs for part in (wide, deep)]
        loss = self.top(*parts, batch["label"])[1]
        (loss + sum(l2 for _, _, l2 in outs)).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


def batches(names: list[str], count: int) -> list[dict[str, Tensor]]:
    source = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        batch = {f"{name}_x": torch.randn(SAMPLES, COLUMNS, generator=source, dtype=torch.float64) for name in names}
        signal = sum(x_BC[:, :1] for x_BC in batch.values())
        batch["label"] = (torch.as_tensor(signal) > 0).double()
        made.append(batch)
    return made


MOVING = {"init": SCALE, "factor": 2.0, "window": 20}


@pytest.mark.parametrize(
    ("followers", "dropout", "scale"), [(1, 0.0, SCALE), (1, 0.3, SCALE), (2, 0.3, SCALE), (2, 0.0, MOVING)]
)
def test_split_is_unsplit_for_100_steps(described: Described, followers: int, dropout: float, scale: Any) -> None:
    parties = Parties(described, followers, dropout, scale)
    unsplit = Unsplit(parties, dropout)
    for number, batch in enumerate(batches(parties.names, STEPS)):
        torch.manual_seed(number)
        split = parties.step(batch)
        torch.manual_seed(number)
        assert split == pytest.approx(unsplit.step(batch), rel=1e-12, abs=1e-12)
    for mine, theirs in zip([*unsplit.bottoms, unsplit.top], parties.models, strict=True):
        for (name, weight), split_weight in zip(mine.named_parameters(), theirs.network.parameters(), strict=True):
            torch.testing.assert_close(split_weight, weight, rtol=1e-12, atol=1e-12, msg=name)
    assert all(model.global_step == STEPS and model.skipped_steps == 0 for model in parties.models)
