"""What the events of a run add up to: a row per role, and the latest figures of the whole job.

Law 1: everything shown about a run comes from its events; nothing here draws or reads a clock.
Law 2: an event of a kind or with fields that are not known is passed over: a newer role may say more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flps.launch.plan import Role

Event = Mapping[str, Any]


@dataclass
class Row:
    """What one role has said last; a number it never said is NaN."""

    name: str
    state: str = "starting"
    epoch: int = 0  # epochs finished
    epochs: int = 0
    step: int = 0
    steps: int = 0
    samples: int = 0
    samples_per_s: float = math.nan
    loss: float = math.nan
    auc: float = math.nan
    bytes_in: int = 0
    bytes_out: int = 0
    first_progress: float = math.nan  # unix time
    last_progress: float = math.nan

    @property
    def share_done(self) -> float:
        """How much of the role's work is done, 0 to 1; NaN while unknown."""
        if not self.epochs:
            return math.nan
        inside = self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.epoch + inside) / self.epochs)

    @property
    def left_s(self) -> float:
        """Seconds to the end at the pace so far; NaN while unknown."""
        share = self.share_done
        return (self.last_progress - self.first_progress) * (1 - share) / share if share > 0 else math.nan


@dataclass
class Board:
    """The rows of a run's local roles, and what the coordinator said about the job."""

    rows: dict[str, Row]
    evaluation: dict[str, Any] = field(default_factory=dict)  # the fields of all evaluations, the latest value of each
    epoch: dict[str, Any] = field(default_factory=dict)
    speeds: list[float] = field(default_factory=list)  # samples/s of the epochs
    refusals: int = 0

    @classmethod
    def of(cls, roles: Sequence[Role]) -> Board:
        """A board where every role is still starting."""
        return cls({role.name: Row(role.name) for role in roles})

    def apply(self, event: Event) -> None:
        """Take in one event of metrics.jsonl, or the launcher's own `exited` {role, rank, code}."""
        row = self.rows.get(f"{event.get('role')}.{event.get('rank')}")
        kind = event.get("event")
        if kind == "epoch":
            self.epoch = dict(event)
            self.speeds.append(number(event, "samples_per_s"))
        elif kind == "eval":
            self.evaluation |= {key: value for key, value in event.items() if value is not None}
        elif kind == "refused":
            self.refusals += 1
        elif kind == "lost":
            lost = self.rows.get(f"{event.get('lost_role')}.{event.get('lost_rank')}")
            if lost is not None:
                lost.state = "lost"
        elif row is not None:
            _update(row, event)

    @property
    def samples_per_s(self) -> float:
        """Samples per second of all workers: the mean over the epochs, or the sum of what workers say now."""
        known = [speed for speed in self.speeds if math.isfinite(speed)]
        if known:
            return sum(known) / len(known)
        said = [row.samples_per_s for row in self.rows.values() if math.isfinite(row.samples_per_s)]
        return sum(said) if said else math.nan

    @property
    def share_done(self) -> float:
        """The mean of the workers' shares done; NaN while none is known."""
        shares = [row.share_done for row in self.rows.values() if math.isfinite(row.share_done)]
        return sum(shares) / len(shares) if shares else math.nan


def _update(row: Row, event: Event) -> None:
    kind = event.get("event")
    if kind == "ready":
        row.state = "ready"
    elif kind == "restarted":
        row.state = "restarted"
    elif kind == "end":
        row.state = str(event.get("result") or "ended")
    elif kind == "exited":
        row.state = _state_at_exit(row.state, int(event["code"]))
    elif kind == "progress":
        row.state = str(event.get("state", "training"))
        # What a role leaves out it has not changed.
        for name in ("epoch", "epochs", "step", "steps", "samples", "bytes_in", "bytes_out"):
            if isinstance(event.get(name), int):
                setattr(row, name, event[name])
        for name in ("samples_per_s", "loss", "auc"):
            if math.isfinite(number(event, name)):
                setattr(row, name, number(event, name))
        row.last_progress = number(event, "time")
        if math.isnan(row.first_progress):
            row.first_progress = row.last_progress


def _state_at_exit(state: str, code: int) -> str:
    if code == 0:
        return "done"
    return f"killed ({-code})" if code < 0 else f"failed ({code})"


def number(event: Event, name: str) -> float:
    """A field as a number; NaN when it is missing, null or no number."""
    value = event.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
