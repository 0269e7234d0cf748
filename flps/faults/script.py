"""What strikes when: one role's part of the faults, and the fates of messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flps.faults.items import PHASES, Cut, Strike, Wear
from flps.faults.written import Faults
from flps.membership import Member

REORDER_S = 0.02  # what is to be overtaken waits this much longer


@dataclass
class Script:
    """What is meant for one life of one role: told of moments, it says what strikes now."""

    faults: Faults
    own: Member
    incarnation: int
    began: float  # on the clock of `now`
    _seen: dict[str, int] = field(default_factory=dict)
    _cuts: dict[Cut, float] = field(default_factory=dict)  # -> since when

    def __post_init__(self) -> None:
        mine = [item for item in self.faults.items if isinstance(item, Strike) and item.who.covers(self.own)]
        kills = [item for item in mine if item.kind == "kill"]
        stops = [item for item in mine if item.kind == "stop"]
        first = self.incarnation == 1
        self.strikes = kills[self.incarnation - 1 : self.incarnation] + (stops if first else [])
        cuts = [item for item in self.faults.items if isinstance(item, Cut)] if first else []
        self._waiting = [item for item in cuts if item.when.kind != "s"]
        self._cuts = {item: self.began + item.when.number for item in cuts if item.when.kind == "s"}

    def at(self, kind: str, number: int, now: float) -> list[Strike | Cut]:
        """A step or epoch of that number, or a message of a phase, passes; what strikes because of it. Cuts have begun
        when this returns; strikes are the caller's to carry out. A phase is counted here, and so is a step without a
        number.
        """
        if kind in PHASES or (kind == "step" and not number):
            number = self._seen[kind] = self._seen.get(kind, 0) + 1
        struck: list[Strike | Cut] = [s for s in self.strikes if s.when.kind == kind and s.when.number <= number]
        self.strikes = [item for item in self.strikes if item not in struck]
        cuts = [item for item in self._waiting if item.when.kind == kind and item.when.number <= number]
        self._waiting = [item for item in self._waiting if item not in cuts]
        self._cuts |= dict.fromkeys(cuts, now)
        return struck + cuts

    def cut(self, peer: Member | None, now: float) -> Cut | None:
        """What keeps the link to `peer` (None: those who dialled this role) from carrying anything now."""
        for item, since in self._cuts.items():
            if since <= now < since + item.for_s and item.where.strikes(self.own, peer):
                return item
        return None

    def wears(self, peer: Member | None) -> tuple[Wear, ...]:
        """What lies on the link to `peer` all the time."""
        return tuple(i for i in self.faults.items if isinstance(i, Wear) and i.where.strikes(self.own, peer))

    def has_cuts(self, peer: Member | None) -> bool:
        """Whether the link to `peer` may be cut in this life."""
        return any(item.where.strikes(self.own, peer) for item in [*self._cuts, *self._waiting])


class Fate(NamedTuple):
    """When the copies of one message go on (none: it is lost), and what caused it."""

    at: tuple[float, ...]
    causes: tuple[Wear, ...]


class Lane:
    """One direction of one link. Same seed, name and order of messages: same fates."""

    def __init__(self, wears: Sequence[Wear], seed: int, name: str) -> None:
        self._wears, self._seed, self._name = wears, seed, name
        self._number = 0
        self._free_at = 0.0

    def fate(self, size: int, now: float) -> Fate:
        """What becomes of the next message, of `size` bytes."""
        self._number += 1
        copies, at, causes = 1, now, []
        for place, wear in enumerate(self._wears):
            drawn = chance(self._seed, f"{self._name} {place}", self._number)
            if wear.kind == "rate":
                self._free_at = max(self._free_at, at) + size * 8 / (wear.amount * 1e6)
                at = self._free_at
            elif wear.kind == "delay":
                at += wear.amount + drawn * max(0.0, wear.up_to - wear.amount)
            elif drawn * 100 < wear.amount:
                causes.append(wear)
                copies = {"drop": 0, "duplicate": 2 * copies}.get(wear.kind, copies)
                at += REORDER_S if wear.kind == "reorder" else 0.0
        return Fate((at,) * copies, tuple(causes))


def chance(seed: int, what: str, number: int) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.blake2b(f"{seed} {what} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
