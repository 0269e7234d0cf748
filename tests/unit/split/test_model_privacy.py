"""The yaml's `privacy`, done by FLModel: labels, activations and gradients, each where somebody else would see them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flps.compression import CompressConfig
from flps.errors import ConfigError
from flps.split.guard import protection_of
from flps.split.model import FLModel

Described = Callable[[str, dict[str, Any]], Any]
ROWS = 400


class Net(nn.Module):
    """x (B, 3), mask (B, 2), label (B, 1) -> part (B, 2), mask handed through, home (B, 1), loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor, mask: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        self.labels.append(label)
        part = self.layer(x)
        home = part.sum(dim=1, keepdim=True)
        return part, mask, home, (home - label).square().mean()


def net_yaml(privacy: dict[str, Any], **more: Any) -> dict[str, Any]:
    packed = {"compress_type": "min_max", "bit_num": 6}
    inputs = [{"name": "x", "source": "remote"}, {"name": "mask", **packed}, {"name": "label"}]
    remote = {"destination": "remote", **packed}
    outputs = [{"name": "part", **remote}, {"name": "mask", **remote}, {"name": "home"}, {"name": "loss"}]
    grads = [{"inputs": [{"name": "x"}], "output": {"name": "loss"}, "sens": 1024.0}]
    values = {
        "role": "leader",
        "model": {
            "train_net": {"name": "net", "inputs": inputs, "outputs": outputs},
            "eval_net": {"name": "net", "inputs": inputs, "outputs": outputs, "gt": "label"},
        },
        "opts": [{"type": "SGD", "grads": grads, "hyper_parameters": {"learning_rate": 0.1, "loss_scale": 1024.0}}],
        "grad_scalers": grads,
    }
    return {**values, **({"privacy": privacy} if privacy else {}), **more}


def made(described: Described, privacy: dict[str, Any], name: str = "net") -> FLModel:
    torch.manual_seed(1)
    model = FLModel(described(name, net_yaml(privacy)), Net())
    model.protect(seed=7)
    return model


def batch(rows: int = ROWS) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(rows, 3, generator=source),
        "mask": torch.rand(rows, 2, generator=source),
        "label": (torch.rand(rows, 1, generator=source) < 0.5).float(),
        "row_ids": torch.arange(rows) + 10,
    }


def seen_by(model: FLModel) -> Tensor:
    net = model.network
    assert isinstance(net, Net)
    return net.labels[-1]


def test_labels_are_noised_once_a_row(described: Described) -> None:
    model, rows = made(described, {"label_dp": {"eps": 1.0}}), batch()
    for _ in range(2):  # two epochs
        model.forward_one_step(rows)
        first = seen_by(model).clone()
    order = torch.randperm(ROWS)
    model.forward_one_step({name: tensor[order] for name, tensor in rows.items()})
    assert torch.equal(seen_by(model), first[order])
    share = (first != rows["label"]).float().mean().item()
    assert share == pytest.approx(1 / (torch.e + 1), abs=0.08)
    assert model.privacy_spent()["label_dp_epsilon"] == 1.0
    model.backward_one_step({name: tensor[order] for name, tensor in rows.items()})  # recognised by the true labels


def test_evaluation_and_prediction_see_true_labels(described: Described) -> None:
    model = made(described, {"label_dp": {"eps": 0.0}, "embedding_dp": {"eps": 1.0}})
    out = model.predict_one_step(batch())
    assert torch.equal(seen_by(model), batch()["label"])
    assert set(out["part"].unique().tolist()) == {0.0, 1.0}  # what the nets behind have learned from


def test_signs_leave_and_the_gradient_goes_straight_past_them(described: Described) -> None:
    plain, model = made(described, {}), made(described, {"embedding_dp": {"eps": 2.0}}, "guarded")
    expected, out = plain.forward_one_step(batch()), model.forward_one_step(batch())
    assert set(out["part"].unique().tolist()) == {0.0, 1.0}
    wrong = (out["part"] != (expected["part"] > 0)).float().mean().item()
    assert wrong == pytest.approx(1 / (torch.e + 1), abs=0.06)
    assert torch.equal(out["mask"], batch()["mask"])  # handed through
    assert torch.equal(out["home"], expected["home"])  # stays here
    one, other = plain.backward_one_step(batch()), model.backward_one_step(batch())
    assert torch.equal(one["loss"]["x"], other["loss"]["x"])
    assert model.privacy_spent()["embedding_dp_epsilon_per_release"] == 2.0  # two numbers a row


def test_an_evaluation_sends_the_signs_that_the_nets_behind_have_learned_from(described: Described) -> None:
    model, plain = made(described, {"embedding_dp": {"eps": 1}}), made(described, {}, "plain")
    seen, numbers = model.predict_one_step(batch()), plain.predict_one_step(batch())
    assert torch.equal(seen["part"], (numbers["part"] > 0).float())
    assert torch.equal(seen["home"], numbers["home"])
    assert torch.equal(seen["mask"], batch()["mask"])
    assert model.privacy_spent() == made(described, {"embedding_dp": {"eps": 1}}, "unused").privacy_spent()


def test_signs_take_a_bit_and_their_gradients_go_as_the_yaml_says(described: Described) -> None:
    model = made(described, {"embedding_dp": {"eps": None}})
    configs = model.get_compress_configs()
    assert (configs["part"].compress_type, configs["part"].bit_num) == ("bit_pack", 1)
    assert (configs["part"].gradients.compress_type, configs["part"].gradients.bit_num) == ("min_max", 6)
    plain = made(described, {}, "plain").get_compress_configs()
    assert plain == {name: CompressConfig("min_max", 6) for name in ("mask", "part")}


def test_gradients_at_the_cut_are_short(described: Described) -> None:
    plain, model = made(described, {}), made(described, {"cut": {"clip": 1e-4 * 1024, "noise": 0.0}}, "cut")
    one, other = (net.backward_one_step(batch())["loss"]["x"] / 1024 for net in (plain, model))
    long = one.norm(dim=1) > 1e-4
    assert 0 < long.sum() < ROWS
    torch.testing.assert_close(other[~long], one[~long])
    torch.testing.assert_close(other[long].norm(dim=1), torch.full((int(long.sum()),), 1e-4))
    for mine, theirs in zip(plain.network.parameters(), model.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)  # this party's own gradients are its own business


def test_what_does_not_leave_is_not_touched(described: Described, caplog: pytest.LogCaptureFixture) -> None:
    privacy = {"cut": {"clip": 1e-4, "noise": 1.0}, "embedding_dp": {"eps": 1.0}}
    plain, model = made(described, {}), made(described, privacy, "home")
    model.protect(sent=["nothing"], received=[])
    assert "embedding_dp is not applied" in caplog.text
    assert torch.equal(plain.forward_one_step(batch())["part"], model.forward_one_step(batch())["part"])
    one, other = (net.backward_one_step(batch())["loss"]["x"] for net in (plain, model))
    assert torch.equal(one, other)


def test_the_noise_of_a_resumed_run_is_that_of_the_first(described: Described, tmp_path: Path) -> None:
    privacy = {
        "label_dp": {"eps": 1.0}, "embedding_dp": {"eps": 1.0}, "cut": {"clip": 1e-3, "noise": 1.0, "delta": 1e-6}
    }  # fmt: skip
    yaml = described("net", net_yaml(privacy))
    model, resumed = FLModel(yaml, Net()), FLModel(yaml, Net())  # seeds fresh from the system

    def step(of: FLModel) -> list[Tensor]:
        out = of.forward_one_step(batch())
        return [*out.values(), of.backward_one_step(batch())["loss"]["x"], *of.network.parameters()]

    step(model)
    model.save_ckpt(tmp_path)
    expected = [tensor.detach().clone() for tensor in step(model)]
    resumed.load_ckpt("train", tmp_path)
    assert all(torch.equal(*pair) for pair in zip(step(resumed), expected, strict=True))
    assert resumed.privacy_spent() == model.privacy_spent()
    plain = FLModel(described("net", net_yaml({})), Net())
    plain.load_ckpt("train", tmp_path)
    plain.save_ckpt(tmp_path)
    before = [weight.detach().clone() for weight in model.network.parameters()]
    with pytest.raises(ConfigError, match="written without it"):
        model.load_ckpt("train", tmp_path)
    assert all(torch.equal(*pair) for pair in zip(model.network.parameters(), before, strict=True))


def test_nets_with_one_seed_do_not_share_their_noise(described: Described) -> None:
    yaml = net_yaml({"embedding_dp": {"eps": 1.0}})
    other = net_yaml({"embedding_dp": {"eps": 1.0}})
    other["model"]["train_net"]["name"] = "other"
    found = []
    for name, values in (("one", yaml), ("two", other)):
        protect = protection_of(described(name, values), seed=3)
        assert protect is not None
        found.append(protect.activations(OrderedDict(part=torch.zeros(100, 2)))["part"])
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"embedding_dp": {"eps": 1.0}}, "embedding_dp has nothing to protect: none of the outputs says"),
        ({"cut": {"clip": 1.0}}, "cut has nothing to protect: none of the inputs says `source: remote`"),
        ({"label_dp": {"eps": 1.0}}, "label_dp wants to know which input"),
    ],
)  # fmt: skip
def test_a_scheme_with_nothing_to_protect_is_an_error(described: Described, scheme: dict[str, Any], said: str) -> None:
    yaml = net_yaml(scheme)
    for entry in (*yaml["model"]["train_net"]["inputs"], *yaml["model"]["train_net"]["outputs"]):
        for key in ("source", "destination", "compress_type", "bit_num"):
            entry.pop(key, None)
    del yaml["model"]["eval_net"]["gt"]
    with pytest.raises(ConfigError, match=rf"net.yaml:\d+: {said}"):
        FLModel(described("net", yaml), Net())
