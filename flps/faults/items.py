"""The pieces of `--faults`: what each says, how it is read, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from flps.errors import ConfigError
from flps.membership import Member

ROLES = ("worker", "server", "coordinator", "leader", "follower")
PHASES = ("connecting", "pulling", "pushing", "training", "barrier", "saving", "evaluating", "ending")
GRAMMAR = (
    "expected pieces divided by ';': kill=WHO@WHEN, stop=WHO@SPAN, partition=WHERE@SPAN, drop=P%, duplicate=P%, "
    "reorder=P%, delay=TIME or delay=TIME..TIME, rate=100mbit, the last five with @WHERE if need be; WHO is worker:3 "
    "or worker, WHERE is WHO or WHO-WHO, TIME is 5s or 50ms, SPAN is WHEN+TIME or TIME..TIME, WHEN is TIME, step120, "
    f"epoch2 or one of {', '.join(PHASES)}"
)


class Who(NamedTuple):
    """One role, or all of a kind."""

    role: str
    rank: int | None = None

    def __str__(self) -> str:
        return self.role if self.rank is None else f"{self.role}:{self.rank}"

    def covers(self, member: Member) -> bool:
        """Whether it means this member."""
        return member.role == self.role and self.rank in (None, member.rank)


class Where(NamedTuple):
    """Every link (no name), the links of a role (one name), or those between two roles."""

    one: Who | None = None
    other: Who | None = None

    def __str__(self) -> str:
        return "-".join(str(who) for who in self if who is not None)

    def strikes(self, own: Member, peer: Member | None) -> bool:
        """Whether it is felt at this end of a link. `peer`: who was dialled; None: `own` listens."""
        if self.one is None:
            return peer is not None
        if self.other is None:
            return self.one.covers(own)
        if peer is None:
            return False
        return (self.one.covers(own) and self.other.covers(peer)) or (self.other.covers(own) and self.one.covers(peer))


EVERYWHERE = Where()


class When(NamedTuple):
    """A moment in a role's life: `s` (seconds), `step`, `epoch`, or a phase, with a number."""

    kind: str
    number: float = 1

    def __str__(self) -> str:
        if self.kind == "s":
            return time_text(self.number)
        return self.kind if self.kind in PHASES and self.number == 1 else f"{self.kind}{number_text(self.number)}"


@dataclass(frozen=True)
class Strike:
    """A role is killed (`for_s` 0) or stands still."""

    kind: Literal["kill", "stop"]
    who: Who
    when: When
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}={self.who}@{self.when if self.kind == 'kill' else _span_text(self.when, self.for_s)}"


@dataclass(frozen=True)
class Cut:
    """Links carry nothing for a while."""

    where: Where
    when: When
    for_s: float

    def __str__(self) -> str:
        return f"partition={self.where}@{_span_text(self.when, self.for_s)}"


@dataclass(frozen=True)
class Wear:
    """What happens to messages on the way, all the time. `amount`: percent, seconds, or Mbit/s."""

    kind: Literal["drop", "duplicate", "reorder", "delay", "rate"]
    amount: float
    up_to: float = 0.0  # delay: drawn from amount..up_to when this is larger
    where: Where = EVERYWHERE

    def __str__(self) -> str:
        amount = f"{number_text(self.amount)}%"
        if self.kind == "delay":
            amount = time_text(self.amount) + (f"..{time_text(self.up_to)}" if self.up_to > self.amount else "")
        elif self.kind == "rate":
            amount = f"{number_text(self.amount)}mbit"
        return f"{self.kind}={amount}" + (f"@{self.where}" if self.where.one else "")


Item: TypeAlias = Strike | Cut | Wear

# --- reading ---------------------------------------------------------------------------------------------------------

_TIME = r"(\d+(?:\.\d+)?)(ms|s)"
_WHO = rf"({'|'.join(ROLES)})(?::(\d{{1,6}}))?"
_WHERE = re.compile(rf"{_WHO}(?:-{_WHO})?")
_AMOUNT = {
    "drop": re.compile(r"(\d+(?:\.\d+)?)%"),
    "duplicate": re.compile(r"(\d+(?:\.\d+)?)%"),
    "reorder": re.compile(r"(\d+(?:\.\d+)?)%"),
    "delay": re.compile(rf"{_TIME}(?:\.\.{_TIME})?"),
    "rate": re.compile(r"(\d+(?:\.\d+)?)(k|m|g)bit"),
}
_MBIT = {"k": 1e-3, "m": 1.0, "g": 1e3}


def read(piece: str) -> Item:
    """One piece of the flag as an item. Raises ConfigError that names the piece and the grammar."""
    kind, equals, rest = (part.strip() for part in piece.partition("="))
    try:
        if kind == "kill":
            who, _, when = rest.partition("@")
            return Strike("kill", _who(who), _when(when))
        if kind == "stop":
            who, _, span = rest.partition("@")
            return Strike("stop", _who(who), *_span(span))
        if kind == "partition":
            where, _, span = rest.partition("@")
            return Cut(_where(where), *_span(span))
        if kind in _AMOUNT and equals:
            amount, at, where = rest.partition("@")
            return _wear(kind, amount, _where(where) if at else EVERYWHERE)
        raise ValueError(f"there is no fault {kind!r}")
    except ValueError as error:
        raise ConfigError(f"--faults {piece!r}: {error}; {GRAMMAR}") from None


def _who(text: str) -> Who:
    found = re.fullmatch(_WHO, text)
    if found is None:
        raise ValueError(f"{text!r} names no role")
    return Who(found[1], None if found[2] is None else int(found[2]))


def _where(text: str) -> Where:
    found = _WHERE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names neither a role nor a link")
    one, _, other = text.partition("-")
    return Where(_who(one), _who(other) if other else None)


def _when(text: str) -> When:
    if found := re.fullmatch(_TIME, text):
        return When("s", _seconds(found[1], found[2]))
    found = re.fullmatch(r"([a-z]+?)(\d{0,12})", text)
    if found is None or found[1] not in ("step", "epoch", *PHASES):
        raise ValueError(f"{text!r} is no moment")
    if found[1] in ("step", "epoch") and not found[2]:
        raise ValueError(f"{text!r} wants a number")
    number = int(found[2] or 1)
    if number < 1 and found[1] != "epoch":
        raise ValueError(f"{text!r}: {found[1]}s are counted from 1")
    return When(found[1], number)


def _span(text: str) -> tuple[When, float]:
    if found := re.fullmatch(rf"{_TIME}\.\.{_TIME}", text):
        begin, end = _seconds(found[1], found[2]), _seconds(found[3], found[4])
        if end <= begin:
            raise ValueError(f"{text!r} ends before it begins")
        return When("s", begin), round(end - begin, 6)
    when, plus, length = text.partition("+")
    found = re.fullmatch(_TIME, length)
    if not plus or found is None or not _seconds(found[1], found[2]):
        raise ValueError(f"{text!r} is no span of time")
    return _when(when), _seconds(found[1], found[2])


def _wear(kind: str, text: str, where: Where) -> Wear:
    found = _AMOUNT[kind].fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no amount of {kind}")
    if kind == "delay":
        least = _seconds(found[1], found[2])
        most = _seconds(found[3], found[4]) if found[3] else least
        if most < least:
            raise ValueError(f"{text!r} ends before it begins")
        return Wear("delay", least, most, where)
    if kind == "rate":
        mbit = float(found[1]) * _MBIT[found[2]]
        if not mbit:
            raise ValueError("a rate of 0 is a partition")
        return Wear("rate", mbit, 0.0, where)
    percent = float(found[1])
    if percent > 100 or (kind == "drop" and percent == 100):
        raise ValueError(f"{text} is too much" + ("; a link that loses all is a partition" if kind == "drop" else ""))
    return Wear(kind, percent, 0.0, where)  # type: ignore[arg-type]  # a key of _AMOUNT


def _seconds(number: str, unit: str) -> float:
    return float(number) / 1000 if unit == "ms" else float(number)


# --- writing ---------------------------------------------------------------------------------------------------------


def number_text(number: float) -> str:
    """Without a needless point."""
    return str(int(number)) if number == int(number) else repr(float(number))


def time_text(seconds: float) -> str:
    """`5s`, or `50ms` below a second."""
    return f"{number_text(round(seconds * 1000, 6))}ms" if 0 < seconds < 1 else f"{number_text(seconds)}s"


def _span_text(when: When, for_s: float) -> str:
    if when.kind == "s":
        return f"{when}..{time_text(round(when.number + for_s, 6))}"
    return f"{when}+{time_text(for_s)}"
