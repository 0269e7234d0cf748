"""What the parties of a split job agree on before they begin: that their parts fit, and the step they go on from.

Law 1: pure code. Law 2: the leader decides, and every party ends with the same words when parts do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from flps.errors import ProtocolError

Summary: TypeAlias = Mapping[str, Any]  # what may stand in a json
Fits: TypeAlias = Callable[[Mapping[str, Summary]], Iterable[str]]  # party -> summary; complaints, none when they fit


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """What a party brings: a summary of its part, and the steps at which it can begin."""

    summary: dict[str, Any]
    steps: tuple[int, ...]


class Verdict(msgspec.Struct, frozen=True, tag="verdict"):
    """What the leader decided: the step that all begin with, or why they cannot; and what all parties have told."""

    step: int
    complaint: str = ""
    summaries: dict[str, dict[str, Any]] = {}


def write_note(note: Offer | Verdict) -> str:
    """The note as it travels."""
    return msgspec.json.encode(note).decode()


def read_note(text: str, who: str) -> Offer | Verdict:
    """A note that `who` sent. Raises ProtocolError for what is none."""
    try:
        return msgspec.json.decode(text, type=Offer | Verdict)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{who} sent a note that cannot be read: {error}") from None


def same_values(summaries: Mapping[str, Summary]) -> list[str]:
    """Complaints about every key that two parties name with different values; of what has keys itself, of those."""
    complaints = []
    for key in sorted({key for summary in summaries.values() for key in summary}):
        said = {party: summary[key] for party, summary in summaries.items() if key in summary}
        if all(isinstance(value, Mapping) for value in said.values()):
            complaints += [f"{key}: {inner}" for inner in same_values(said)]
        elif any(value != next(iter(said.values())) for value in said.values()):
            complaints.append(f"{key}: " + ", ".join(f"{party} has {_shown(value)}" for party, value in said.items()))
    return complaints


def decide(offers: Mapping[str, Offer], fits: Fits = same_values) -> Verdict:
    """The newest step at which all can begin, or what does not fit.

    offers: of every party, the leader first.
    """
    complaints = list(fits({party: offer.summary for party, offer in offers.items()}))
    if complaints:
        return Verdict(
            0,
            "the parties' parts do not fit; mend what differs, and start all of them again:\n"
            + "\n".join(f"  {line}" for line in complaints),
        )
    common = set.intersection(*(set(offer.steps) for offer in offers.values()))
    if not common:
        who = "; ".join(f"{party} can begin at {_steps_shown(offer.steps)}" for party, offer in offers.items())
        return Verdict(
            0,
            f"there is no step at which all parties can begin: {who}. Give each party its own checkpoints of one run, "
            "or start all of them from the beginning; runner.save_checkpoint_interval says how often they are written",
        )
    return Verdict(max(common), "", {party: dict(offer.summary) for party, offer in offers.items()})


def _steps_shown(steps: Iterable[int]) -> str:
    newest = sorted(steps, reverse=True)
    shown = ", ".join(map(str, newest[:5])) + ", ..." * (len(newest) > 5)
    return f"step {shown}" if newest else "none, since it keeps no checkpoints"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
