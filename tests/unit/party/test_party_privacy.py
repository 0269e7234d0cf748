"""The yaml's privacy in the loop: noise on labels, activations and gradients that cross, and what it has cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from flps.metrics import EventLog
from flps.party.story import Story
from flps.split.privacy import gaussian_epsilon


def with_label_dp(kind: str, text: str) -> str:
    return text + ("privacy: {label_dp: {eps: 1.0}}\n" if kind == "leader_top" else "")


def with_noise_at_the_cut(kind: str, text: str) -> str:
    sections = {"leader_top": "cut: {clip: 0.01, noise: 4.0}", "follower_bottom": "embedding_dp: {eps: 2.0}"}
    return text + (f"privacy: {{{sections[kind]}}}\n" if kind in sections else "")


class Seen:
    """What went into a net's forwards in training."""

    def __init__(self, network: Any) -> None:
        self.inputs: list[tuple[Tensor, ...]] = []
        network.register_forward_pre_hook(lambda module, inputs: self.inputs.append(inputs))


def labels_of(run: Any, seen: Seen, first_epoch: int = 0) -> list[dict[int, tuple[float, float]]]:
    """Epoch -> row -> its label as it was, and as the top saw it."""
    rows = run.parties[0][1]._train
    answers, epochs = iter(seen.inputs), []
    while len(epochs) * rows.get_dataset_size() < len(seen.inputs):
        labels: dict[int, tuple[float, float]] = {}
        for batch in rows.batches(first_epoch + len(epochs)):
            noisy = next(answers)[-1]
            both = zip(batch["label"].flatten().tolist(), noisy.flatten().tolist(), strict=True)
            labels |= dict(zip(batch["row_ids"].tolist(), both, strict=True))
        epochs.append(labels)
    return epochs


def test_a_label_is_noised_once_and_for_all(party_run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = party_run(tmp_path, tmp_path / "kept", epochs=2, change=with_label_dp)
    again = party_run(tmp_path, tmp_path / "kept", epochs=3, change=with_label_dp)
    other = party_run(tmp_path, epochs=1, change=with_label_dp)
    seen = [Seen(run.models["leader"]["top"].network) for run in (first, again, other)]
    with caplog.at_level(logging.INFO, "flps.party.loop"):
        assert first.play() == []
    said = [record.getMessage() for record in caplog.records if "LabelDP: epsilon 1 " in record.getMessage()]
    assert [text[:8] for text in said] == ["epoch 0:", "epoch 1:"]
    assert "It does not cover the features" in said[0]
    assert [*again.play(), *other.play()] == []
    one, two = labels_of(first, seen[0])
    (three,), (fresh,) = labels_of(again, seen[1], first_epoch=2), labels_of(other, seen[2])
    lies = [true != noisy for true, noisy in one.values()]
    assert 0.2 < sum(lies) / len(lies) < 0.34  # 1 / (e + 1)
    assert all(two[row] == one[row] for row in two.keys() & one.keys())
    assert all(three[row] == one[row] for row in three.keys() & one.keys())
    assert any(fresh[row] != one[row] for row in fresh.keys() & one.keys())  # another job has other noise
    for run in (first, again):
        assert {one.privacy["label_dp_epsilon"] for one in run.told["leader"]} == {1.0}
        assert {len(one.privacy) for one in run.told["follower"]} == {0}


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_noise_of_one_that_was_not_interrupted(party_run: Any, tmp_path: Path) -> None:
    runs = [
        party_run(tmp_path, folder, epochs, change=with_noise_at_the_cut, micro_batches=(2, 2))
        for folder, epochs in ((None, 2), (tmp_path / "kept", 1), (tmp_path / "kept", 2))
    ]
    for run in runs:
        for models in run.models.values():
            for model in models.values():
                model.protect(seed=5)
        assert run.play() == []
    whole, _, second = runs
    assert all(torch.equal(second.state[name], held) for name, held in whole.state.items())
    assert second.told["leader"][-1].privacy == whole.told["leader"][-1].privacy
    assert second.told["follower"][-1].privacy == whole.told["follower"][-1].privacy


def test_what_crosses_is_noisy_and_its_cost_grows_with_the_epochs(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path, epochs=2, change=with_noise_at_the_cut)
    seen = Seen(run.models["leader"]["top"].network)
    assert run.play() == []
    for own, _, _, crossed, _ in seen.inputs:
        assert not bool(((own == 0) | (own == 1)).all())
        assert bool(((crossed == 0) | (crossed == 1)).all())
    steps = run.told["leader"][-1].steps
    leader = {(one.epoch, one.step): one.privacy for one in run.told["leader"]}
    follower = {(one.epoch, one.step): one.privacy for one in run.told["follower"]}
    for epoch in (0, 1):
        assert follower[epoch, steps]["embedding_dp_releases"] == epoch + 1
        assert (
            follower[epoch, steps]["embedding_dp_epsilon"] == (epoch + 1) * 2 * 1.0
        )  # two numbers a row, eps / 2 each
        assert leader[epoch, steps]["cut_noise_epsilon"] == gaussian_epsilon(epoch + 1, 2.0, 1e-5)


def test_the_budget_is_in_the_events(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path, epochs=1, change=with_label_dp)
    events = EventLog(str(tmp_path / "metrics.jsonl"), "leader", 0)
    story = Story(events)
    assert run.play() == []
    story.progress(run.told["leader"][-1])
    story.measured(0, run.metric)
    events.close()
    lines = [msgspec.json.decode(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    told = {line["event"]: line for line in lines}
    for event in ("progress", "eval"):
        assert (told[event]["label_dp_epsilon"], told[event]["label_dp_releases"]) == (1.0, 1.0)
