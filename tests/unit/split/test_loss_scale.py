"""Loss scale: how it moves, and that a step which overflows is skipped by all parties together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flps.errors import ConfigError
from flps.split.model import FLModel
from flps.split.scale import LossScale, divisor_of, is_finite, loss_scale_of

Described = Callable[[str, dict[str, Any]], Any]
HUGE = 2.0**120


def where(key: str) -> str:
    return f"x.yaml:{key}"


def hyper(scale: Any) -> dict[str, Any]:
    return {"hyper_parameters": {"loss_scale": scale}}


@pytest.mark.parametrize(
    ("overflows", "now"),
    [
        ([False, False], 8.0),
        ([False, False, False], 32.0),
        ([False, False, True], 2.0),
        ([False, False, True, False, False], 2.0),
        ([False, False, True, False, False, False], 8.0),
        ([True, True, True], 1.0),
    ],
)
def test_it_falls_at_an_overflow_and_grows_after_a_window(overflows: list[bool], now: float) -> None:
    scale = LossScale(8.0, 4.0, 3, True, 8.0)
    for is_overflow in overflows:
        scale.settle(is_overflow)
    assert scale.now == now
    assert scale.ratio == now / 8.0


def test_it_does_not_grow_without_end() -> None:
    scale = LossScale(1024.0, 2.0, 1, True, 1024.0)
    for _ in range(2000):
        scale.settle(False)
    assert scale.now == 2.0**24


def test_what_the_yaml_says() -> None:
    assert not loss_scale_of([{}, hyper(None)], where).is_checked
    fixed = loss_scale_of([{}, hyper(1024.0)], where)
    fixed.settle(True)
    assert (fixed.is_checked, fixed.ratio) == (True, 1.0)
    moving = {"init": 64, "factor": 2.0, "window": 10}
    scale = loss_scale_of([hyper(8), hyper(moving), hyper(moving)], where)
    assert (scale.init, scale.factor, scale.window, scale.now) == (64.0, 2.0, 10, 64.0)
    assert [divisor_of(opt) for opt in ({}, hyper(8), hyper(moving))] == [1.0, 8.0, 64.0]
    with pytest.raises(ConfigError, match=r"x.yaml:opts\[1\].*one moving loss_scale"):
        loss_scale_of([hyper(moving), hyper({**moving, "window": 11})], where)


def test_what_is_finite() -> None:
    assert is_finite([])
    assert is_finite([None, torch.ones(2), torch.empty(0), torch.tensor(3, dtype=torch.bfloat16)])
    assert is_finite([torch.full((2,), 3e38), torch.full((1000,), 60000.0, dtype=torch.float16)])
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not is_finite([torch.ones(2), torch.tensor([0.0, bad])])
    assert not is_finite([torch.sparse_coo_tensor([[1]], [torch.inf], (3,), check_invariants=True)])


class Follower(nn.Module):
    """x (B, 2) -> part (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        part: Tensor = self.layer(x)
        return part


class Leader(nn.Module):
    """part (B, 1), label (B, 1) -> loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, part: Tensor, label: Tensor) -> Tensor:
        return (self.layer(part) - label).square().mean()


def net_yaml(role: str, inputs: list[str], output: str, sens: Any, scale: Any) -> dict[str, Any]:
    names = [{"name": name} for name in inputs]
    net = {"name": role, "inputs": names, "outputs": [{"name": output}]}
    grads = [{"inputs": names, "output": {"name": output}, "sens": sens}]
    settings = {"learning_rate": 0.1, "momentum": 0.9} | ({} if scale is None else {"loss_scale": scale})
    scalers = [{"inputs": names[:1], "output": {"name": output}, "sens": sens}] if role == "leader" else []
    opts = [{"type": "SGD", "grads": grads, "hyper_parameters": settings}]
    return {"role": role, "model": {"train_net": net, "eval_net": net}, "opts": opts, "grad_scalers": scalers}


class Pair:
    """A leader and a follower with the loss scaled by `sens` at first."""

    def __init__(self, described: Described, sens: float, scale: Any) -> None:
        torch.manual_seed(9)
        self.follower = FLModel(described("follower", net_yaml("follower", ["x"], "part", "loss", scale)), Follower())
        leader = net_yaml("leader", ["part", "label"], "loss", sens, scale)
        self.leader = FLModel(described("leader", leader), Leader())
        self.models = [self.follower, self.leader]
        self.batch = {"x": torch.randn(8, 2), "label": torch.randn(8, 1)}

    def step(self) -> dict[str, OrderedDict[str, Tensor]]:
        part = self.follower.forward_one_step(self.batch)
        self.leader.forward_one_step(self.batch, part)
        scales = self.leader.backward_one_step(self.batch, part)
        self.follower.backward_one_step(self.batch, sens=scales)
        return scales

    def memory(self) -> list[Tensor]:
        """Weights and moments of both."""
        found = []
        for model in self.models:
            optimizer = model.updates[0].optimizer
            assert isinstance(optimizer, torch.optim.Optimizer)
            found += [weight.detach().clone() for weight in model.network.parameters()]
            found += [state["momentum_buffer"].clone() for state in optimizer.state.values()]
        return found


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_scale_of_a_power_of_two_changes_no_number(described: Described) -> None:
    plain, fixed = Pair(described, 1.0, None), Pair(described, 1024.0, 1024.0)
    moving = Pair(described, 1024.0, {"init": 1024.0, "factor": 2.0, "window": 2})
    for _ in range(10):
        for pair in (plain, fixed, moving):
            pair.step()
    assert equal(plain.memory(), fixed.memory())
    assert equal(plain.memory(), moving.memory())
    assert moving.leader.loss_scale.now == 1024.0 * 2**5


def test_parties_skip_together_until_the_scale_fits(described: Described) -> None:
    scale = {"init": 2.0**127, "factor": 2.0**8, "window": 1000}
    pair, plain = Pair(described, 2.0**127, scale), Pair(described, 1.0, None)
    pair.batch["label"] *= 2.0**10
    plain.batch = pair.batch
    before = pair.memory()
    scales = pair.step()
    assert scales["loss"]["part"].isnan().all()
    assert all(model.overflowed and model.global_step == 1 for model in pair.models)
    assert equal(pair.memory(), before)
    while pair.leader.overflowed:
        assert equal(pair.memory(), before)
        pair.step()
    plain.step()
    assert equal(pair.memory(), plain.memory())
    skipped = pair.leader.skipped_steps
    assert 0 < skipped == pair.follower.skipped_steps
    assert pair.leader.loss_scale == pair.follower.loss_scale
    assert pair.leader.loss_scale.now == 2.0**127 / 2.0 ** (8 * skipped)


def test_an_overflow_that_the_cut_does_not_show_reaches_the_other_party(described: Described) -> None:
    pair = Pair(described, HUGE, HUGE)
    local = {"part": torch.full((8, 1), 2.0**9), "label": torch.full((8, 1), 2.0**9)}
    with torch.no_grad():
        pair.leader.network.layer.weight.fill_(2.0**-30)  # type: ignore[union-attr]
        pair.leader.network.layer.bias.zero_()  # type: ignore[union-attr]
    before = pair.memory()
    assert pair.leader.backward_one_step(local)["loss"]["part"].isnan().all()
    assert pair.leader.overflowed
    assert equal(pair.memory(), before)


def test_a_follower_alone_that_overflows_keeps_all_from_the_update(described: Described) -> None:
    pair = Pair(described, 1024.0, 1024.0)
    before = pair.memory()
    part = pair.follower.forward_one_step(pair.batch)
    scales = pair.leader.backward_one_step(pair.batch, part, update=False)
    pair.follower.backward_one_step(sens={"loss": {"part": scales["loss"]["part"] * torch.inf}}, update=False)
    assert [model.overflowed for model in pair.models] == [True, False]
    assert equal(pair.memory(), before)
    for model in pair.models:
        model.update_one_step(overflowed=True)
    assert [model.overflowed for model in pair.models] == [True, True]
    assert equal(pair.memory(), before)
    pair.step()
    assert not equal(pair.memory(), before)
    assert [(model.global_step, model.skipped_steps) for model in pair.models] == [(2, 1), (2, 1)]


def test_a_step_can_be_skipped_without_a_backward(described: Described) -> None:
    pair = Pair(described, 1024.0, 1024.0)
    before = pair.memory()
    pair.follower.forward_one_step(pair.batch)
    pair.follower.update_one_step(overflowed=True)
    assert equal(pair.memory(), before)
    pair.step()
    assert (pair.follower.global_step, pair.follower.skipped_steps) == (2, 1)


def test_one_of_several_micro_batches_is_enough(described: Described) -> None:
    pair = Pair(described, 1024.0, 1024.0)
    before = pair.memory()
    for label in (1.0, torch.inf, 1.0):
        local = {"part": torch.ones(2, 1), "label": torch.full((2, 1), label)}
        pair.leader.backward_one_step(local, update=False, share=1 / 3)
    pair.leader.update_one_step()
    assert pair.leader.overflowed
    assert equal(pair.memory(), before)


def test_without_a_loss_scale_nothing_is_checked(described: Described) -> None:
    pair = Pair(described, 1.0, None)
    pair.batch["label"][0] = torch.nan
    pair.step()
    assert not pair.leader.overflowed
    assert any(tensor.isnan().any() for tensor in pair.memory())
