"""One link between two parties, without a socket: parcels that are handed out once, in order, whatever the wire does.

Each side holds an `Exchange` and gives it what comes (`hear`) and what is to be sent (`put`); `due` says what is to be
transmitted now, `take` hands out what has come.

Law 1: pure code; time is an argument, and nothing here opens a socket.
Law 2: a parcel is handed out once, in the order in which parcels were put, or a later life begins and it never is.
Law 3: what was said by or to an earlier life of either party is never handed out. A party's life is the incarnation of
its process and how often it has begun anew in it; when one grows both sides begin at number 1 again.
Law 4: a sender is at most `window` parcels ahead of what the other side has handed out: neither side keeps more.
Law 5: a parcel is sent again only when it is known to be lost. A wire loses what it carries when it breaks, and keeps
the order otherwise: whoever answers a ping has got what was sent before it, or never will. (Sending again after some
time would choke a slow link with copies.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from flps.errors import ProtocolError
from flps.message import Life, Parcel, Piece, Sign, Way

NOBODY: Life = (0, 0)
HELLO_S = 0.2  # between two calls for a party that has not answered yet
_ACKNOWLEDGE_S = 0.02  # for so long it is left to the next parcel to say what has come


class Item(NamedTuple):
    """What a parcel brings."""

    sequence: int
    step: int | None
    pieces: tuple[Piece, ...]
    note: str


@dataclass
class _Sent:
    """A parcel that the other side has not confirmed."""

    item: Item
    ping: int = -1  # number of the last ping before it was sent; -1: to be sent


@dataclass
class Rhythm:
    """Times of a link, in seconds."""

    heartbeat_s: float
    retry_s: float  # between two questions whether what was sent has come
    lease_s: float  # who is silent for longer is lost


@dataclass
class _Round:
    """What ends with a life of either party."""

    sent: dict[int, _Sent] = field(default_factory=dict)
    last_put: int = 0
    peer_taken: int = 0
    inbox: deque[Item] = field(default_factory=deque)
    early: dict[int, Item] = field(default_factory=dict)  # one before them is missing
    received: int = 0
    taken: int = 0
    told: tuple[int, int] = (0, 0)  # received and taken, as the other side last heard them
    untold_since: float | None = None
    is_agreed: bool = False  # the parties have agreed on what they begin with


class Exchange:
    """One side of a link."""

    def __init__(self, own: str, peer: str, incarnation: int, window: int, rhythm: Rhythm, now: float) -> None:
        """own, peer: names of the parties; window: parcels under way each way, at least 1."""
        self.own, self.peer = own, peer
        self.life: Life = (incarnation, 0)
        self.peer_life: Life = NOBODY
        self.restarted: str | None = None  # the news that the round has ended, until somebody takes it
        self.left: str | None = None  # the other side has said good-bye: "" in good order, else why
        self.window = window
        self._rhythm = rhythm
        self._round = _Round()
        self._heard_at = self._hello_at = now
        self._ping, self._pinged_at, self._ponged = 0, now, 0
        self._pong = 0  # owed
        self._owes_sign = False
        self._bye: str | None = None
        self._bye_ping = 0
        self._because = ""

    # --- for the caller ----------------------------------------------------------------------------------------------

    @property
    def has_met(self) -> bool:
        """Whether the other side has been heard."""
        return self.peer_life != NOBODY

    @property
    def has_room(self) -> bool:
        """Whether one more parcel may be put."""
        return self._round.last_put < self._round.peer_taken + self.window

    @property
    def waits(self) -> bool:
        """Whether something that was put has not come to the other side yet, as far as is known."""
        return bool(self._round.sent)

    @property
    def is_agreed(self) -> bool:
        """Whether `agree` was called in this round."""
        return self._round.is_agreed

    def agree(self) -> None:
        """The parties have agreed on what they begin this round with."""
        self._round.is_agreed = True

    def put(self, pieces: tuple[Piece, ...], step: int | None = None, note: str = "") -> int:
        """Something to be sent; there must be room. Returns its number."""
        assert self.has_room
        self._round.last_put += 1
        item = Item(self._round.last_put, step, pieces, note)
        self._round.sent[item.sequence] = _Sent(item)
        return item.sequence

    def take(self) -> Item | None:
        """The next parcel, or None when none has come."""
        if not self._round.inbox:
            return None
        self._round.taken += 1
        return self._round.inbox.popleft()

    def renew(self, because: str) -> None:
        """Begin anew: nothing of this round counts any more, here and, when it hears of it, at the other side."""
        self.life = (self.life[0], self.life[1] + 1)
        self._round = _Round()
        self._because = because
        self._owes_sign = True

    def part(self, reason: str) -> None:
        """This party ends. reason: "" in good order."""
        self._bye = reason
        self._bye_ping = 0

    @property
    def has_parted(self) -> bool:
        """Whether the other side knows that this party ends, or has ended itself."""
        return self.left is not None or 0 < self._bye_ping <= self._ponged

    def silent_s(self, now: float) -> float:
        """Seconds since the other side was heard, or since this one began."""
        return now - self._heard_at

    def is_lost(self, now: float) -> bool:
        """Whether a party that had been heard is silent for longer than a lease."""
        return self.has_met and self.silent_s(now) > self._rhythm.lease_s

    # --- what comes --------------------------------------------------------------------------------------------------

    def hear(self, said: Parcel | Sign, now: float) -> None:
        """Something came. Raises ProtocolError for what the other side could not have meant."""
        way = said.way
        if way.name != self.peer:
            raise ProtocolError(
                f"{self.own} expects {self.peer} here, but it calls itself {way.name[:80]!r}; "
                "the parties' server names and ranks must fit"
            )
        life = way.life
        if life < self.peer_life:
            return  # of an earlier life, and late
        if life > self.peer_life:
            self._meet(life, said.because if isinstance(said, Sign) else "")
        self._heard_at = now
        if isinstance(said, Sign) and said.ping:
            self._pong, self._owes_sign = max(self._pong, said.ping), True
        if way.to != self.life:  # it does not know this life yet
            self._owes_sign = True
            return
        self._confirm(way)
        if isinstance(said, Parcel):
            self._keep(said)
        else:
            self._ponged = max(self._ponged, said.pong)
            self._find_lost(said.pong)
            self.left = said.bye if said.bye is not None else self.left

    def _meet(self, life: Life, because: str) -> None:
        was, self.peer_life = self.peer_life, life
        self.left = None
        if was == NOBODY:
            return  # what has been put waits for exactly this
        had = self._round
        self._round = _Round()
        if had.last_put or had.received or had.is_agreed:
            news = because or ("was started again" if life[0] > was[0] else "begins anew")
            self.restarted = f"{self.peer}: {news}" if because else f"{self.peer} {news}"

    def _confirm(self, way: Way) -> None:
        now = self._round
        if way.received > now.last_put or way.taken > way.received:
            raise ProtocolError(
                f"{self.peer} confirms parcel {way.received} and {way.taken} of them handed out, but {now.last_put} "
                "were sent"
            )
        for sequence in [sequence for sequence in now.sent if sequence <= way.received]:
            del now.sent[sequence]
        now.peer_taken = max(now.peer_taken, way.taken)

    def _keep(self, parcel: Parcel) -> None:
        now, number = self._round, parcel.sequence
        if number > now.taken + self.window:
            raise ProtocolError(
                f"{self.peer} sent parcel {number}, but {now.taken} were handed out and its window is {self.window}"
            )
        if number <= now.received:
            self._owes_sign = True  # a repeat: it does not know that it has come
            return
        now.early[number] = Item(number, parcel.step, parcel.pieces, parcel.note)
        while now.received + 1 in now.early:
            now.received += 1
            now.inbox.append(now.early.pop(now.received))

    def _find_lost(self, pong: int) -> None:
        """Whatever was sent before that ping and is not confirmed by its answer is lost."""
        for sent in self._round.sent.values():
            if 0 <= sent.ping < pong:
                sent.ping = -1

    # --- what goes ---------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Parcel | Sign]:
        """What is to be transmitted now."""
        if not self.has_met:
            if now < self._hello_at:
                return []
            self._hello_at = now + HELLO_S
            return [Sign(self._way(now), bye=self._bye)]
        said: list[Parcel | Sign] = []
        for sent in self._round.sent.values():
            if sent.ping < 0:
                sent.ping = self._ping
                said.append(
                    Parcel(self._way(now), sent.item.sequence, sent.item.step, sent.item.pieces, sent.item.note)
                )
        if self._wants_ping(now):
            self._ping, self._pinged_at = self._ping + 1, now
            self._bye_ping = self._bye_ping or (self._ping if self._bye is not None else 0)
            said.append(self._sign(now, self._ping))
        elif self._owes_sign or self._owes_word(now):
            said.append(self._sign(now, 0))
        return said

    def _sign(self, now: float, ping: int) -> Sign:
        pong, self._pong, self._owes_sign = self._pong, 0, False
        return Sign(self._way(now), ping, pong, self._bye, self._because)

    def _wants_ping(self, now: float) -> bool:
        if self._bye is not None and not self._bye_ping:
            return True
        pause_s = self._rhythm.heartbeat_s
        if self.waits or self._bye is not None:
            pause_s = min(self._rhythm.retry_s, pause_s)
        return now - self._pinged_at >= pause_s

    def _owes_word(self, now: float) -> bool:
        """Whether the other side should hear what has come: at once when it may be waiting for room."""
        kept = self._round
        if kept.told == (kept.received, kept.taken):
            return False
        if kept.untold_since is None:
            kept.untold_since = now
        return kept.taken - kept.told[1] >= max(1, self.window // 2) or now - kept.untold_since >= _ACKNOWLEDGE_S

    def _way(self, now: float) -> Way:
        kept = self._round
        kept.told, kept.untold_since = (kept.received, kept.taken), None
        return Way(self.own, self.life, self.peer_life, kept.received, kept.taken)
