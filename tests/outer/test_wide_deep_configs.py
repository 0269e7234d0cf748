"""configs/wide_deep: every yaml fits the net that it describes, and one party's yaml fits the other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from flps.models.wide_deep.model import (
    BottomLossNet,
    LeaderTeeLossNet,
    LeaderTeeNet,
    LeaderTopAfterTeeEvalNet,
    LeaderTopAfterTeeLossNet,
    LeaderTopAfterTeeNet,
    LeaderTopEvalNet,
    LeaderTopLossNet,
    LeaderTopNet,
    WideDeepModel,
)
from flps.models.wide_deep.options import FULL, NetworkConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "wide_deep"
NAMES = sorted(path.stem for path in FOLDER.glob("*_*.yaml") if path.stem.startswith(("leader", "follower")))
TINY = NetworkConfig(vocab_size=30, emb_dim=4, deep_layer_dim=(6, 5))


def read(name: str) -> dict[str, Any]:
    written: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return written


def nets(name: str) -> tuple[nn.Module, nn.Module]:
    """The nets for training and for evaluation that a yaml is about."""
    if "bottom" in name:
        bottom = WideDeepModel(TINY, 3, seed=1)
        return BottomLossNet(bottom, TINY), bottom
    if name == "leader_tee":
        tee = LeaderTeeNet()
        return LeaderTeeLossNet(tee), tee
    if name == "leader_top_tee":
        after = LeaderTopAfterTeeNet()
        return LeaderTopAfterTeeLossNet(after), LeaderTopAfterTeeEvalNet(after)
    top = LeaderTopNet()
    return LeaderTopLossNet(top), LeaderTopEvalNet(top)


def sample(name: str) -> torch.Tensor:
    """A tensor of the shape that goes by a name."""
    if name.startswith("id_"):
        return torch.zeros(5, 3, dtype=torch.int32)
    return torch.ones(5, {"wt_hldr": 3, "wt_hldr0": 3, "tee_embedding": 2}.get(name, 1))


def names_of(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_they_are_all_here() -> None:
    bottoms = {f"{role}_bottom{end}" for role in ("leader", "follower") for end in ("", "_tee")}
    assert bottoms | {"leader_top", "leader_top_tee", "leader_tee"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_fits_its_net(name: str) -> None:
    written = read(name)
    assert written["role"] == name.split("_")[0]
    for part, net in zip(("train_net", "eval_net"), nets(name), strict=True):
        described = written["model"][part]
        out = net(*(sample(tensor) for tensor in names_of(described["inputs"])))
        assert len(described["outputs"]) == (len(out) if isinstance(out, tuple) else 1)
    inputs = set(names_of(written["model"]["train_net"]["inputs"]))
    outputs = set(names_of(written["model"]["train_net"]["outputs"]))
    for entry in [*(grad for opt in written["opts"] for grad in opt["grads"]), *written.get("grad_scalers", [])]:
        assert set(names_of(entry["inputs"])) <= inputs
        assert entry["output"]["name"] in outputs


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_but_wide_b_is_trained_once(name: str) -> None:
    train_net, _ = nets(name)
    parts = [names_of(opt["params"]) if "params" in opt else [""] for opt in read(name)["opts"]]
    for parameter, _ in train_net.named_parameters():
        matches = sum(any(part in parameter for part in own) for own in parts)
        assert matches == (0 if parameter.endswith("Wide_b") else 1), parameter


@pytest.mark.parametrize("end", ["", "_tee"])
def test_what_one_party_sends_the_other_takes(end: str) -> None:
    receiver = read("leader_tee" if end else "leader_top")
    for role in ("leader", "follower"):
        bottom = read(f"{role}_bottom{end}")
        sent = [out["name"] for out in bottom["model"]["train_net"]["outputs"] if out["destination"] == "remote"]
        taken = [entry for entry in receiver["model"]["train_net"]["inputs"] if entry["name"].startswith(role)]
        assert sent == names_of(taken)
        assert {entry["source"] for entry in taken} == {"local" if role == "leader" else "remote"}
        scaler = receiver["grad_scalers"][0]
        awaited = {grad["sens"] for opt in bottom["opts"] for grad in opt["grads"]} - {1024.0}
        assert awaited == {scaler["output"]["name"]}
        assert set(sent) <= set(names_of(scaler["inputs"]))


def test_names_of_checkpoints_do_not_collide() -> None:
    names = [read(name)["model"]["train_net"]["name"] for name in NAMES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_agree_with_the_full_preset(name: str) -> None:
    hyper = read(name)["hyper_parameters"]
    assert (hyper["epochs"], hyper["batch_size"]) == (FULL.epochs, FULL.batch_size)
    assert "simulation" in (FOLDER / f"{name}.yaml").read_text().lower() or "tee" not in name


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_is_read_by_the_engine_without_a_complaint(name: str) -> None:
    schema = pytest.importorskip("flps.split.schema", reason="the engine of split training is not here")
    read_by_engine = schema.FLYamlData(FOLDER / f"{name}.yaml")
    assert read_by_engine.train_net["name"] == read(name)["model"]["train_net"]["name"]
