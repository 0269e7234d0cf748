"""The training loop: what it tells the homes, in which order, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flps.worker.homes import Step
from flps.worker.train import Progress, Totals, Trainer
from flps.worker.upcoming import Features, Upcoming


class Lines(nn.Module):
    """Its logits are the feature."""

    target = "label"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.weight * batch["x"]

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return (logits - batch["label"]).mean()


class Diary:
    """A home that writes down what it is told."""

    def __init__(self, lookahead: int) -> None:
        self.lookahead = lookahead
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, epoch: int, upcoming: Sequence[Upcoming]) -> None:
        self.calls.append(("begin", epoch, [int(batch.features["x"][0]) for batch in upcoming]))

    def send(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        self.calls.append(("send", *step, [int(batch.features["x"][0]) for batch in upcoming]))

    def receive(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        self.calls.append(("receive", *step, [int(batch.features["x"][0]) for batch in upcoming]))

    def end(self, epoch: int) -> None:
        self.calls.append(("end", epoch))

    def refresh(self) -> None:
        raise AssertionError("the loop does not refresh")


def batch(first: int, size: int) -> Features:
    return {"x": np.arange(first, first + size, dtype=np.float32), "label": np.arange(size, dtype=np.float32) % 2}


def test_homes_see_as_far_ahead_as_they_want() -> None:
    near, far = Diary(0), Diary(1)
    Trainer(Lines(), [near, far]).epoch(4, [batch(10, 2), batch(20, 2), batch(30, 1)], 9, lambda progress: None)
    assert near.calls == [
        ("begin", 4, [10]),
        ("send", 4, 0, 2, [20]),
        ("receive", 4, 0, 2, [20]),
        ("send", 4, 1, 2, [30]),
        ("receive", 4, 1, 2, [30]),
        ("send", 4, 2, 1, []),
        ("receive", 4, 2, 1, []),
        ("end", 4),
    ]
    assert far.calls == [
        ("begin", 4, [10, 20]),
        ("send", 4, 0, 2, [20, 30]),
        ("receive", 4, 0, 2, [20, 30]),
        ("send", 4, 1, 2, [30]),
        ("receive", 4, 1, 2, [30]),
        ("send", 4, 2, 1, []),
        ("receive", 4, 2, 1, []),
        ("end", 4),
    ]


def test_every_home_has_sent_before_one_receives() -> None:
    first, second = Diary(0), Diary(0)
    second.calls = first.calls
    Trainer(Lines(), [first, second]).epoch(0, [batch(10, 2)], 9, lambda progress: None)
    assert [call[0] for call in first.calls] == [*["begin"] * 2, *["send"] * 2, *["receive"] * 2, *["end"] * 2]


def test_an_epoch_without_batches_begins_and_ends() -> None:
    home = Diary(1)
    totals = Trainer(Lines(), [home]).epoch(0, [], 1, lambda progress: None)
    assert home.calls == [("begin", 0, []), ("end", 0)]
    assert (totals.samples, totals.loss) == (0, 0.0)


def test_progress_is_told_each_so_many_steps_and_at_the_end() -> None:
    told: list[Progress] = []
    totals = Trainer(Lines(), []).epoch(2, [batch(n, 2) for n in range(5)], 2, told.append)
    assert [(progress.epoch, progress.step, progress.samples) for progress in told] == [
        (2, 2, 4),
        (2, 4, 8),
        (2, 5, 10),
    ]
    assert [progress.loss for progress in told] == pytest.approx([0.5, 2.5, 4.0])  # of the steps since the last one
    assert totals.samples == 10
    assert totals.loss == pytest.approx(20.0)


def test_scores_are_counted_when_settled_and_once() -> None:
    totals = Totals()
    totals.add(0.5, torch.tensor([-3.0, 3.0]), np.array([0.0, 1.0]))
    totals.add(1.0, torch.tensor([-2.0, 2.0, float("nan")]), np.array([0.0, 1.0, 0.0]))
    assert totals.auc.counts.sum() == 0
    totals.settle()
    totals.settle()
    assert totals.auc.counts.sum() == totals.samples == 5
    assert totals.loss == 4.0
    assert totals.auc.value() == pytest.approx(1.0)
