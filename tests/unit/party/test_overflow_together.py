"""A step in which anything overflows at any party is skipped by all of them, and by all alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from flps.party.agreed import Told, fits, skips_together
from flps.split.scale import LossScale
from flps.split.schema import FLYamlData
from flps.split.terms import terms

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "wide_deep"
STEPS = 8
MOVING = "{init: 1024.0, factor: 2.0, window: 3}"
FOLLOWER, BOTTOM, TOP = ("follower", "bottom"), ("leader", "bottom"), ("leader", "top")


@pytest.mark.parametrize("scale", ["1024.0", MOVING])
@pytest.mark.parametrize(
    ("followers", "overflows"),
    [
        (1, {FOLLOWER: [2]}),
        (1, {BOTTOM: [2]}),
        (1, {TOP: [2]}),
        (2, {FOLLOWER: [1], ("follower1", "bottom"): [5]}),
        (2, {BOTTOM: [0], FOLLOWER: [0, 6]}),
    ],
)
def test_all_skip_or_none(
    played: Any, tmp_path: Path, scale: str, followers: int, overflows: dict[tuple[str, str], list[int]]
) -> None:
    job = played.make(tmp_path, followers, scale=scale, overflows=overflows)
    skipped = {step for steps in overflows.values() for step in steps}
    losses = played.split(job, STEPS)
    assert losses == pytest.approx(played.whole(job, STEPS, skipped), abs=1e-12, rel=1e-12)
    want = job.whole.state_dict()
    for name, held in job.split.state_dict().items():
        torch.testing.assert_close(held, want[name], atol=1e-12, rtol=1e-12)
    assert {(model.global_step, model.skipped_steps) for model in job.nets} == {(STEPS, len(skipped))}
    expected = LossScale(1024.0, 2.0, 3, True, 1024.0) if scale == MOVING else LossScale(is_checked=True)
    for step in range(STEPS):
        expected.settle(step in skipped)
    assert [model.loss_scale for model in job.nets] == [expected] * len(job.nets)


def told(scales: dict[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    """What a leader and a follower tell of nets with these loss scales."""
    kinds = {"leader": ["leader_bottom", "leader_top"], "follower": ["follower_bottom"]}
    summaries = {}
    for party, names in kinds.items():
        files = []
        for name in names:
            text = (CONFIGS / f"{name}.yaml").read_text()
            path = folder / f"{name}.yaml"
            path.write_text(text.replace("loss_scale: 1024.0", scales[party]))
            files.append(FLYamlData(path))
        own = Told(("label", *files[0].train_net_in_names), tuple(names), terms(party, files))
        summaries[party] = {f"told by {party}": msgspec.to_builtins(own)}
    return summaries


def test_parties_ask_each_other_only_where_a_yaml_has_a_loss_scale(tmp_path: Path) -> None:
    scaled = told({"leader": "loss_scale: 8", "follower": "loss_scale: 8.0"}, tmp_path)
    assert (fits(scaled), skips_together(scaled)) == ([], True)
    plain = told({"leader": "", "follower": ""}, tmp_path)
    assert (fits(plain), skips_together(plain)) == ([], False)


@pytest.mark.parametrize(
    ("follower", "said"),
    [
        (
            "loss_scale: 512",
            r"follower \(follower_bottom.yaml:\d+ says 512\), leader \(leader_bottom.yaml:\d+ says 1024\)",
        ),
        (f"loss_scale: {MOVING}", r"follower \(.* says factor 2, init 1024, window 3\)"),
        ("", r"follower \(it says none\)"),
    ],
)
def test_parties_whose_loss_scales_differ_are_refused(follower: str, said: str, tmp_path: Path) -> None:
    (complaint,) = fits(told({"leader": "loss_scale: 1024.0", "follower": follower}, tmp_path))
    assert re.search(rf"loss_scale: must be equal for all, but {said}", complaint)
