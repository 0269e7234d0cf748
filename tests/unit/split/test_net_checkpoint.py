"""Checkpoints of nets: resumed == uninterrupted, names that cannot collide, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flps.errors import ConfigError, DataError, FlpsError, ResourceError
from flps.split.checkpoint import name_of, steps_in
from flps.split.model import FLModel

Described = Callable[[str, dict[str, Any]], Any]


class Net(nn.Module):
    """x (B, 3) -> loss, with dropout, a buffer and a tied weight."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 3)
        self.tied = nn.Linear(3, width)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.dropout(self.norm(self.first(x) + self.tied(x)), 0.5, self.training)
        return (self.last(hidden) - x).square().mean()


def net_yaml(role: str = "leader", name: str = "net", **settings: Any) -> dict[str, Any]:
    x = [{"name": "x"}]
    net = {"name": name, "inputs": x, "outputs": [{"name": "loss"}]}
    grads = [{"inputs": x, "output": {"name": "loss"}, "sens": 1024.0}]
    scale = {"loss_scale": {"init": 1024.0, "factor": 2.0, "window": 2}}
    opts = [
        {"type": "FTRL", "grads": grads, "params": [{"name": "first"}], "hyper_parameters": {**scale, "lr": 0.1}},
        {"type": "Adam", "grads": grads, "params": [{"name": "last"}, {"name": "tied.b"}, {"name": "norm"}],
         "hyper_parameters": {**scale, "learning_rate": 0.01, **settings}},
    ]  # fmt: skip
    return {"role": role, "model": {"train_net": net, "eval_net": net}, "opts": opts}


def made(described: Described, file: str = "net", seed: int = 1, **more: Any) -> FLModel:
    torch.manual_seed(seed)
    return FLModel(described(file, net_yaml(**more)), Net())


def train(model: FLModel, steps: int) -> list[float]:
    """Losses of some steps on random batches: the random numbers are a part of what a checkpoint holds."""
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 3) + random.random() + np.random.rand()
        losses.append(float(model.forward_one_step({"x": x})["loss"]))
        model.backward_one_step()
    return losses


def test_resumed_is_uninterrupted(described: Described) -> None:
    model = made(described)
    train(model, 5)
    model.position = {"epoch": 1, "row": 40, "files": ["a", "b"]}
    model.save_ckpt()
    expected = train(model, 5)
    random.seed(4)
    np.random.seed(4)
    resumed = made(described, seed=2)
    train(resumed, 1)
    assert resumed.load_ckpt("train") == 5
    assert (resumed.global_step, resumed.position) == (5, {"epoch": 1, "row": 40, "files": ["a", "b"]})
    assert resumed.loss_scale.now == 1024.0 * 4
    assert train(resumed, 5) == expected
    assert resumed.loss_scale == model.loss_scale
    for (name, one), other in zip(
        model.network.state_dict().items(), resumed.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_given_optimizer_is_remembered_when_it_can_be(described: Described, caplog: pytest.LogCaptureFixture) -> None:
    class Counts:
        def __init__(self) -> None:
            self.calls = 0
            self.seen: tuple[Any, ...] = ()

        def __call__(self, *inputs: Tensor, sens: object = None) -> None:
            self.calls += 1

        def state_dict(self) -> dict[str, Any]:
            return {
                "calls": self.calls,
                "seen": (1.5, float("inf"), None, True, {3: torch.ones(2, dtype=torch.bfloat16)}),
            }

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.calls, self.seen = state["calls"], state["seen"]

    optimizers = [Counts(), lambda *inputs: None]
    model = FLModel(described("net", net_yaml()), Net(), optimizers=optimizers)
    train(model, 3)
    model.save_ckpt()
    assert "Adam has no state_dict" in caplog.text
    again = [Counts(), lambda *inputs: None]
    FLModel(described("net", net_yaml()), Net(), optimizers=again).load_ckpt("train")
    assert again[0].calls == 3  # type: ignore[union-attr]
    number, infinite, nothing, yes, inner = again[0].seen  # type: ignore[union-attr]
    assert (number, infinite, nothing, yes) == (1.5, float("inf"), None, True)
    assert inner[3].dtype == torch.bfloat16


def test_eval_takes_the_weights_alone(described: Described) -> None:
    model = made(described)
    train(model, 3)
    model.save_ckpt()
    torch.manual_seed(8)
    other = made(described, seed=8)
    before = torch.get_rng_state()
    assert other.load_ckpt() == 3
    assert (other.global_step, other.loss_scale.now) == (0, 1024.0)
    assert torch.equal(torch.get_rng_state(), before)
    x = {"x": torch.ones(4, 3)}
    assert torch.equal(other.predict_one_step(x)["loss"], model.predict_one_step(x)["loss"])


class Wrapped(nn.Module):
    """Another net over another's weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inner = net

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.inner(x)
        return loss


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_eval_net_gets_the_trained_weights(described: Described, is_shared: bool) -> None:
    def pair(seed: int) -> FLModel:
        torch.manual_seed(seed)
        net = Net()
        # Shared memory under other names, or memory of its own under the same names.
        return FLModel(described("net", net_yaml()), net, eval_network=Wrapped(net) if is_shared else Net())

    model, fresh = pair(1), pair(2)
    train(model, 3)
    model.save_ckpt()
    fresh.load_ckpt("eval")
    x = torch.ones(4, 3)
    assert torch.equal(fresh.predict_one_step({"x": x})["loss"], model.network.eval()(x).detach())


def test_the_newest_is_the_highest_step_and_old_ones_go(described: Described, tmp_path: Path) -> None:
    model = made(described)
    for _ in range(4):
        train(model, 3)
        model.save_ckpt(tmp_path / "kept", keep=2)
    assert steps_in(tmp_path / "kept") == [9, 12]
    assert len(list((tmp_path / "kept").iterdir())) == 4
    other = made(described)
    assert other.load_ckpt("train", tmp_path / "kept") == 12
    assert other.load_ckpt("train", tmp_path / "kept", step=9) == other.global_step == 9
    train(other, 1)
    other.save_ckpt(tmp_path / "kept", keep=2)
    assert steps_in(tmp_path / "kept") == [10, 12]
    record = tmp_path / "kept" / f"{model.ckpt_name}_step_12.json"
    for path in (record, record.with_suffix(".safetensors")):
        assert other.load_ckpt("train", path) == 12


def test_a_step_that_is_saved_again_is_the_last_one(described: Described) -> None:
    model = made(described)
    train(model, 2)
    model.save_ckpt()
    model.position = {"row": 3}
    model.save_ckpt()
    other = made(described)
    other.load_ckpt("train")
    assert other.position == {"row": 3}


def test_common_steps_of_several_nets(described: Described, tmp_path: Path) -> None:
    top, bottom = made(described, "leader_top"), made(described, "leader_bottom")
    for model, stops in ((top, [1, 2, 4]), (bottom, [2, 3, 4])):
        for stop in stops:
            train(model, stop - model.global_step)
            model.save_ckpt(tmp_path)
    assert steps_in(tmp_path) == [2, 4]
    assert steps_in(tmp_path, [top.ckpt_name]) == [1, 2, 4]
    assert steps_in(tmp_path, [top.ckpt_name, "another"]) == []
    assert steps_in(tmp_path / "nowhere") == []
    assert top.load_ckpt("train", tmp_path, step=2) == 2


parts = st.text(st.sampled_from("ab-_%/.é 2D"), min_size=1, max_size=6).filter(lambda part: "/" not in part)


@given(st.tuples(parts, parts, parts), st.tuples(parts, parts, parts))
def test_names_of_different_nets_differ(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    names = [name_of(role, net, Path("configs") / f"{stem}.yaml") for role, net, stem in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all("/" not in name for name in names)


def test_the_originals_two_nets_of_one_name_do_not_collide(described: Described, tmp_path: Path) -> None:
    nets = [made(described, stem, name="leader_loss_net") for stem in ("leader_top", "leader_bottom")]
    for net in nets:
        net.save_ckpt(tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "leader-leader_loss_net-leader_top_step_0.json",
        "leader-leader_loss_net-leader_bottom_step_0.json",
    }


def test_damage_is_refused_and_changes_nothing(described: Described) -> None:
    model = made(described)
    train(model, 2)
    record = model.save_ckpt()
    tensors = record.with_suffix(".safetensors")
    other = made(described, seed=5)
    before = [weight.detach().clone() for weight in other.network.parameters()]
    for path in (tensors, record):
        whole = path.read_bytes()
        for place in (0, len(whole) // 3, len(whole) - 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(DataError, match=path.name):
                other.load_ckpt("train")
        path.write_bytes(whole[:-7])
        with pytest.raises(DataError, match=path.name):
            other.load_ckpt("train")
        path.write_bytes(whole)
    tensors.rename(tensors.with_suffix(".away"))
    with pytest.raises(DataError, match=f"{tensors.name} is missing"):
        other.load_ckpt("train")
    record.unlink()
    with pytest.raises(DataError, match="no checkpoint of leader-net-net"):
        other.load_ckpt("train")
    with pytest.raises(DataError, match="is not there"):
        other.load_ckpt("train", step=2)
    assert other.global_step == 0
    assert all(torch.equal(*pair) for pair in zip(other.network.parameters(), before, strict=True))


def test_another_net_is_refused_with_what_differs(described: Described) -> None:
    record = made(described).save_ckpt()
    with pytest.raises(DataError, match="no checkpoint of leader-net-other; it has those of leader-net-net"):
        made(described, "other").load_ckpt("train")
    with pytest.raises(DataError, match="it is of leader-net-net, this net is follower-net-net"):
        made(described, role="follower").load_ckpt("train", record)
    wide = FLModel(described("net", net_yaml()), Net(width=5))
    with pytest.raises(DataError, match=r"weight first.weight was float32 \[4, 3\], is float32 \[5, 3\]"):
        wide.load_ckpt("train")
    double = FLModel(described("net", net_yaml()), Net().double())
    with pytest.raises(DataError, match="is float64"):
        double.load_ckpt("train")
    yaml = net_yaml()
    yaml["opts"] = yaml["opts"][:1]
    with pytest.raises(DataError, match=r"optimizers were FTRL of first.weight, first.bias, Adam"):
        FLModel(described("net", yaml), Net()).load_ckpt("train")


def test_a_changed_yaml_keeps_its_settings(described: Described, caplog: pytest.LogCaptureFixture) -> None:
    model = made(described)
    train(model, 2)
    model.save_ckpt()
    changed = made(described, learning_rate=0.5)
    changed.load_ckpt("train")
    assert "the yaml has changed since" in caplog.text
    optimizer = changed.updates[1].optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert all(state["step"] == 2 for state in optimizer.state.values())


def test_what_cannot_be_saved_or_loaded_is_said(described: Described, tmp_path: Path) -> None:
    model = made(described)
    with pytest.raises(ConfigError, match=r"'eval'.*'resume'"):
        model.load_ckpt("resume")
    model.position = {"rows": object()}
    with pytest.raises(ConfigError, match="cannot hold the object at /position/rows"):
        model.save_ckpt()
    model.position = {}
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        model.save_ckpt(tmp_path / "file" / "folder")
    model.forward_one_step({"x": torch.ones(4, 3)})
    model.backward_one_step(update=False)
    with pytest.raises(FlpsError, match="between steps"):
        model.save_ckpt()


def test_a_save_that_fails_leaves_nothing_beside_it(
    described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(described)
    train(model, 1)
    model.save_ckpt(tmp_path / "saved")
    train(model, 1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        model.save_ckpt(tmp_path / "saved")
    assert steps_in(tmp_path / "saved") == [1]
    assert len(list((tmp_path / "saved").iterdir())) == 2
