"""What a party says of itself: log lines for people, events for the launcher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flps.metrics import EventLog
from flps.party.loop import Progress

log = logging.getLogger(__name__)


class Story:
    """Log lines in the original's form, with what they leave out: speed, and bytes a step each way."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._steps = 0  # of the epoch under way, as far as they were told of
        self._seconds = 0.0
        self._bytes = [0.0, 0.0]
        self._privacy: Mapping[str, float] = {}  # what was spent when it was told last

    def progress(self, progress: Progress) -> None:
        """Some steps were done; the last of an epoch ends it."""
        scalars = {name: held.item() for name, held in progress.outputs.items() if held.numel() == 1}
        came, went = progress.bytes_per_step
        log.info(
            "epoch %d step %d/%d %s (%.0f samples/s, bytes a step: %.0f in, %.0f out)",
            progress.epoch, progress.step, progress.steps, losses(scalars), progress.samples_per_s, came, went,
        )  # fmt: skip
        fields: dict[str, Any] = {"loss": scalars["loss"]} if "loss" in scalars else {}
        self._privacy = progress.privacy
        self._bytes = [total + more * progress.since for total, more in zip(self._bytes, (came, went), strict=True)]
        self._events.write(
            "progress", state="training", epoch=progress.epoch, epochs=progress.epochs, step=progress.step,
            steps=progress.steps, samples_per_s=progress.samples_per_s, bytes_in=round(self._bytes[0]),
            bytes_out=round(self._bytes[1]), bytes_in_a_step=came, bytes_out_a_step=went, **fields,
            **self._privacy,
        )  # fmt: skip
        self._steps += progress.since
        self._seconds += progress.since / max(progress.samples_per_s, 1e-9)
        if progress.step == progress.steps:
            if fields:  # who has the loss speaks for all
                speed = self._steps / self._seconds
                self._events.write("epoch", epoch=progress.epoch, samples_per_s=speed, **fields)
            self._steps, self._seconds = 0, 0.0

    def measured(self, epoch: int, metrics: Any) -> None:
        """The evaluation of an epoch. metrics: has `measures() -> {name: number}`, or `eval() -> number`."""
        measures = metrics.measures() if hasattr(metrics, "measures") else {"eval": metrics.eval()}
        shown = " ".join(f"{name} {value:f}" for name, value in measures.items() if value is not None)
        log.info("----evaluation---- epoch %d %s", epoch, shown)
        self._events.write("eval", epoch=epoch, **measures, **self._privacy)


def losses(scalars: Mapping[str, float]) -> str:
    """At the leader `wide_loss: ... deep_loss: ...`: cross entropy without and with the l2 term, as the original."""
    if "loss" not in scalars:
        return " ".join(f"{name}: {value:.6f}" for name, value in scalars.items())
    regular = sum(value for name, value in scalars.items() if name.endswith("l2_regu"))
    return f"wide_loss: {scalars['loss']:.6f} deep_loss: {scalars['loss'] + regular:.6f}"
