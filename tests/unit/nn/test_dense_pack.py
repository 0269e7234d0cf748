"""A model's dense parameters are one tensor, and the model does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flps.nn import DensePack


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))


NAMES = ["0.weight", "0.bias", "2.weight"]


def test_values_are_those_of_the_model_in_order() -> None:
    net = model()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    pack = DensePack(net, NAMES)
    assert pack.size == 12 + 4 + 4
    assert np.array_equal(pack.values(), torch.cat([before[name].reshape(-1) for name in NAMES]).numpy())
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_loading_changes_the_model_and_values_are_a_copy() -> None:
    net = model()
    pack = DensePack(net, NAMES)
    pack.load(np.arange(20, dtype=np.float32))
    assert net[0].weight.flatten().tolist() == list(range(12))
    assert net[2].weight.tolist() == [[16, 17, 18, 19]]
    pack.values()[:] = 0
    assert net[0].bias.tolist() == [12, 13, 14, 15]


def test_gradients_are_taken_once_and_are_those_of_autograd() -> None:
    net, plain = model(), model()
    pack = DensePack(net, NAMES)
    batch = torch.randn(5, 3)
    for one in (net, plain):
        one(batch).pow(2).sum().backward()
    expected = torch.cat([dict(plain.named_parameters())[name].grad.reshape(-1) for name in NAMES])  # type: ignore[union-attr]
    assert np.array_equal(pack.take_gradient(), expected.numpy())
    assert not pack.take_gradient().any()
    net(batch).pow(2).sum().backward()  # the gradient is still a view of the one tensor
    assert np.array_equal(pack.take_gradient(), expected.numpy())


def test_gradients_of_several_backwards_add_up() -> None:
    net = model()
    pack = DensePack(net, NAMES)
    batch = torch.randn(5, 3)
    net(batch).sum().backward()
    once = pack.take_gradient()
    for _ in range(2):
        net(batch).sum().backward()
    assert pack.take_gradient() == pytest.approx(2 * once, rel=1e-5, abs=1e-6)


def test_some_parameters_may_stay_out() -> None:
    net = model()
    pack = DensePack(net, ["0.bias"])
    pack.load(np.full(4, 7, np.float32))
    assert net[0].bias.tolist() == [7] * 4
    net(torch.randn(2, 3)).sum().backward()
    assert pack.take_gradient().shape == (4,)
    assert net[2].weight.grad is not None


def test_split_gives_each_parameter_its_shape() -> None:
    pack = DensePack(model(), NAMES)
    pieces = pack.split(np.arange(20, dtype=np.float32))
    assert {name: piece.shape for name, piece in pieces.items()} == {
        "0.weight": (4, 3), "0.bias": (4,), "2.weight": (1, 4)
    }  # fmt: skip
    assert np.array_equal(np.concatenate([piece.reshape(-1) for piece in pieces.values()]), np.arange(20))


def test_scalars_and_empty_parameters_have_their_place() -> None:
    net = nn.Module()
    net.scale, net.nothing, net.row = (nn.Parameter(torch.ones(shape)) for shape in ((), (0, 3), (2,)))
    pack = DensePack(net, ["scale", "nothing", "row"])
    pack.load(np.array([5, 6, 7], np.float32))
    assert net.scale.item() == 5
    assert net.row.tolist() == [6, 7]
    assert [piece.shape for piece in pack.split(pack.values()).values()] == [(), (0, 3), (2,)]
