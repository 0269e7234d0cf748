"""What a worker tells of its progress: lines for its log in the original's form, and events for the live table."""

from __future__ import annotations

import logging
import time
from typing import Any

from flps.metrics import EventLog
from flps.remote import Servers
from flps.transport.connection import Connection
from flps.worker.train import Progress

log = logging.getLogger(__name__)
_EVENT_EVERY_S = 0.5


class Story:
    """Writes the events of one worker."""

    def __init__(self, events: EventLog, epochs: int, servers: Servers, coordinator: Connection) -> None:
        """`servers`, `coordinator`: asked how many bytes have passed."""
        self._events = events
        self._epochs = epochs
        self._servers = servers
        self._coordinator = coordinator
        self._samples = self._steps = 0
        self._event_at = 0.0

    def expect(self, samples: int, steps: int) -> None:
        """How much an epoch has."""
        self._samples, self._steps = samples, steps

    def state(self, state: str, epoch: int) -> None:
        """Something else begins."""
        self._events.write("progress", **self._fields(state, epoch))

    def refused(self, reason: str) -> None:
        """A server refused a push."""
        self._events.write("refused", reason=reason, rejected_pushes=self._servers.rejected_pushes)

    def progress(self, progress: Progress) -> None:
        """One line, and now and then an event."""
        log.info(
            "time: [%s], batch: [%d], Epoch %d Var Loss[1]:[%.6g], Epoch %d Var Auc[1]:[%.6g], speed: %.0f samples/s",
            time.strftime("%Y-%m-%d %H:%M:%S"),
            progress.step,
            progress.epoch,
            progress.loss,
            progress.epoch,
            progress.auc,
            progress.samples_per_s,
        )
        now = time.monotonic()
        if now - self._event_at > _EVENT_EVERY_S or progress.samples == self._samples:
            self._event_at = now
            measured = {
                "step": progress.step,
                "samples": progress.samples,
                "samples_per_s": progress.samples_per_s,
                "loss": progress.loss,
                "auc": progress.auc,
            }
            self._events.write("progress", **self._fields("training", progress.epoch) | measured)

    def _fields(self, state: str, epoch: int) -> dict[str, Any]:
        return {
            "state": state,
            "epoch": epoch,
            "epochs": self._epochs,
            "step": 0,
            "steps": self._steps,
            "samples": 0,
            "bytes_in": self._servers.bytes_in + self._coordinator.bytes_in,
            "bytes_out": self._servers.bytes_out + self._coordinator.bytes_out,
            "rejected_pushes": self._servers.rejected_pushes,
        }
