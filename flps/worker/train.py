"""One epoch of training: the same loop in every mode; the homes know what travels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flps.metrics import AucHistogram
from flps.nn import Embedding
from flps.worker.homes import Home, Step
from flps.worker.upcoming import Features, Upcoming, embeddings_of, prepared, with_following


class Progress(NamedTuple):
    """How far an epoch is."""

    epoch: int
    step: int  # steps done
    samples: int
    loss: float  # mean over the samples since the last report
    auc: float  # over the samples of this epoch
    samples_per_s: float


class Totals:
    """What one epoch measured."""

    def __init__(
        self,
        samples: int = 0,
        loss: float = 0.0,
        auc: AucHistogram | None = None,
        reported: tuple[int, float] = (0, 0.0),
    ) -> None:
        """What was measured so far, when an epoch goes on from a checkpoint."""
        self.samples = samples
        self.loss = loss  # summed over samples
        self.auc = auc or AucHistogram()
        self.reported = reported  # samples and loss at the last report
        self._scores: list[Tensor] = []
        self._labels: list[NDArray[Any]] = []

    def add(self, loss: float, logits: Tensor, labels: NDArray[Any]) -> None:
        """Count one batch; its scores go into the histogram when `settle` is called."""
        self.samples += len(labels)
        self.loss += loss * len(labels)
        self._scores.append(logits.detach())
        self._labels.append(labels)

    def settle(self) -> None:
        """Put the scores of the last batches into the histogram, all at once since that is cheaper."""
        if self._scores:
            scores = torch.sigmoid(torch.cat(self._scores).float()).cpu().numpy()
            self.auc.add(np.nan_to_num(scores, nan=0.5), np.concatenate(self._labels))
            self._scores, self._labels = [], []


class Rests(NamedTuple):
    """When training stands still for a checkpoint, and what is done then."""

    interval: int  # steps of an epoch from one to the next; 0: never
    stand_still: Callable[[int, Totals], None]  # gets the steps done, and what they measured
    between: Callable[[], None]  # after every step: what goes on beside training


class Trainer:
    """Runs a model over batches and hands gradients to the homes of its parameters."""

    def __init__(self, model: nn.Module, homes: Sequence[Home], device: str = "cpu", bf16: bool = False) -> None:
        self._model = model
        self._homes = homes
        self._device = device
        self._bf16 = bf16
        self._lookahead = max((home.lookahead for home in homes), default=0)
        self._embeddings = embeddings_of(model)
        self._counted = [e for e in model.modules() if isinstance(e, Embedding) and e.is_counted]
        self._target: str = model.target  # type: ignore[assignment]  # "": another party has the labels

    def epoch(
        self,
        epoch: int,
        batches: Iterable[Features],
        every: int,
        report: Callable[[Progress], None],
        done: int = 0,
        totals: Totals | None = None,
        rests: Rests | None = None,
    ) -> Totals:
        """Train on the batches; `report` is called each `every` steps and after the last one.

        done, totals: steps of the epoch that are behind, when it goes on from a checkpoint, and what they measured.
        """
        totals = totals or Totals()
        self._model.train()
        began, before = time.monotonic(), totals.samples
        stream = with_following(prepared(batches, self._embeddings), self._lookahead)
        first = next(stream, [])
        for home in self._homes:
            home.begin(epoch, first[: 1 + home.lookahead])
        number = done - 1
        upcoming = first
        while upcoming:
            number += 1
            batch, *_ = upcoming
            upcoming = next(stream, [])
            samples = len(next(iter(batch.features.values())))
            self._step(Step(epoch, number, samples), batch, upcoming, totals)
            if (number + 1) % every == 0 or not upcoming:
                totals.settle()
                samples, loss = totals.samples - totals.reported[0], totals.loss - totals.reported[1]
                totals.reported = totals.samples, totals.loss
                rate = (totals.samples - before) / max(time.monotonic() - began, 1e-9)
                mean = loss / samples if self._target else math.nan
                report(Progress(epoch, number + 1, totals.samples, mean, totals.auc.value(), rate))
            if rests is not None and upcoming:
                self._rest(rests, epoch, number + 1, upcoming, totals)
        for home in self._homes:
            home.end(epoch)
        return totals

    def _rest(self, rests: Rests, epoch: int, done: int, upcoming: Sequence[Upcoming], totals: Totals) -> None:
        """Between two steps. Whoever goes on from here finds everything as it is after this."""
        rests.between()
        if not rests.interval or done % rests.interval:
            return
        totals.settle()
        for home in self._homes:
            home.rest()
        rests.stand_still(done, totals)
        for home in self._homes:
            home.begin(epoch, upcoming[: 1 + home.lookahead])

    def _step(self, step: Step, batch: Upcoming, upcoming: Sequence[Upcoming], totals: Totals) -> None:
        for embedding in self._embeddings:
            embedding.expect(batch.lookups[embedding.name])
        labels = batch.features.get(self._target)
        for embedding in self._counted:
            embedding.labels = labels
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in batch.features.items()}
        logits = self._forward(tensors)
        loss = self._model.loss(logits, tensors)  # type: ignore[operator]
        loss.backward()
        if labels is None:
            totals.samples += step.samples
        else:
            totals.add(loss.item(), logits, labels)
        for home in self._homes:
            home.send(step, upcoming[: 1 + home.lookahead])
        for home in self._homes:
            home.receive(step, upcoming[: 1 + home.lookahead])

    def _forward(self, tensors: dict[str, Tensor]) -> Tensor:
        if not self._bf16:  # entering autocast costs something even when it is off
            return self._model(tensors)  # type: ignore[no-any-return]
        with torch.autocast(self._device, torch.bfloat16):
            return self._model(tensors)  # type: ignore[no-any-return]
