"""A party's checkpoints: where it can begin, and that it can go back there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flps.models.wide_deep.model import BottomLossNet, WideDeepModel
from flps.models.wide_deep.options import network_config
from flps.party.checkpoints import Checkpoints
from flps.split.model import FLModel
from flps.split.schema import FLYamlData

YAML = Path(__file__).resolve().parents[3] / "configs" / "wide_deep" / "follower_bottom.yaml"
CONFIG = network_config({"emb_dim": 2, "deep_layer_dim": [4], "vocab_size": 50}, "small")


def made() -> FLModel:
    net = WideDeepModel(CONFIG, 3, 7)
    return FLModel(FLYamlData(YAML), BottomLossNet(net, CONFIG), eval_network=net)


def trained(model: FLModel, step: int) -> FLModel:
    """The net with weights of its own for that step."""
    model.global_step = step
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.fill_(step + 0.5)
    return model


def first_weight(model: FLModel) -> float:
    return next(model.network.parameters()).flatten()[0].item()


def test_a_new_party_begins_at_the_first_step_and_can_come_back_to_it(tmp_path: Path) -> None:
    model = made()
    untrained = first_weight(model)
    marks: list[str] = []
    kept = Checkpoints({"bottom": model}, tmp_path / "own", every=2, keep=9, mark=marks.append)
    assert kept.steps() == [0]
    kept.go_back(0)
    for step in range(1, 6):
        trained(model, step)
        kept.keep_if_due(0, step, 5)
    assert kept.steps() == [0, 2, 4, 5]
    assert marks == ["saving"] * 3
    kept.go_back(4)
    assert (first_weight(model), model.global_step, model.position) == (
        4.5,
        4,
        {"epoch": 0, "step": 4, "kept back": {}},
    )
    assert kept.steps() == [0, 2, 4]  # 5 is of a course that was not taken
    kept.go_back(0)
    assert (first_weight(model), model.global_step) == (untrained, 0)
    assert kept.steps() == [0]


def test_two_are_always_kept(tmp_path: Path) -> None:
    model = made()
    kept = Checkpoints({"bottom": model}, tmp_path, every=1, keep=1)
    kept.go_back(0)
    for step in (1, 2, 3):
        trained(model, step)
        kept.keep_if_due(0, step, 9)
    assert kept.steps() == [2, 3]


@pytest.mark.parametrize("writes", [True, False])
def test_who_is_to_go_on_does_not_begin_anew(tmp_path: Path, writes: bool) -> None:
    before = made()
    earlier = Checkpoints({"bottom": before}, tmp_path / "before", every=2)
    for step in (2, 4):
        trained(before, step)
        earlier.keep_if_due(0, step, 9)
    model = made()
    kept = Checkpoints({"bottom": model}, tmp_path / "own" if writes else None, tmp_path / "before", 2)
    assert kept.steps() == [2, 4]
    kept.go_back(4)
    assert first_weight(model) == 4.5
    trained(model, 6)
    kept.keep_if_due(0, 6, 9)
    assert kept.steps() == ([4, 6] if writes else [2, 4])
    back = 4 if writes else 2
    kept.go_back(back)
    assert (first_weight(model), kept.steps()) == (back + 0.5, [4] if writes else [2, 4])
    assert earlier.steps() == [2, 4]


def test_without_checkpoints_a_party_that_has_moved_cannot_begin_anywhere() -> None:
    model = made()
    kept = Checkpoints({"bottom": model}, None)
    assert kept.steps() == [0]
    kept.go_back(0)
    trained(model, 1)
    kept.keep_if_due(0, 1, 1)
    assert kept.steps() == []
