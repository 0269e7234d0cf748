"""One party's side of a private set intersection, as a state machine: what came in, and what is to be done next.

    leader                                   follower
    Greeting                    <->          Greeting
    Blinded: a*H(x)              ->          b*(a*H(x))
    Doubled                     <-
                                <-           Blinded: b*H(y)
    a*(b*H(y))                   ->          Doubled       (only with `reveal: both`)
                                 ->          Wanted        (only with `reveal: leader`)
    Closing                     <->          Closing

Law 1: no socket, no clock, no process here: a `Send` is for the link, a `Multiply` for whoever has cores to spare.
Law 2: both directions go at once and in chunks; each point is multiplied once by each party, which is the least.
Law 3: what the peer sends out of turn, in the wrong number or twice is refused by ProtocolError.
Law 4: both sides end with equally many rows, in the same order, and with the same digest of that order.

The semi-honest Diffie-Hellman protocol of Meadows (1986) and of Huberman, Franklin and Hogg (1999).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from flps.errors import ConfigError, ProtocolError
from flps.psi.curve import POINT_BYTES, Points, check_points, new_key
from flps.psi.message import (
    CHUNK_ROWS_MAX,
    VERSION,
    Blinded,
    Closing,
    Doubled,
    Greeting,
    Message,
    Reveal,
    Role,
    Stop,
    Wanted,
)

Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """What the parties have agreed on, and what this one allows."""

    role: Role
    reveal: Reveal = "both"
    cover: float = 1.0  # leader, with `reveal: leader`: share of the follower's other rows that are asked for, too
    chunk_rows: int = 4096
    rows_max: int = 2**26  # of the peer: 64 M points are 2 GiB

    def __post_init__(self) -> None:
        """Raises ConfigError, naming the field."""
        if not 0 <= self.cover <= 1:
            raise ConfigError(f"cover is a share from 0 to 1, not {self.cover:g}")
        if not 1 <= self.chunk_rows <= CHUNK_ROWS_MAX:
            raise ConfigError(f"chunk_rows is from 1 to {CHUNK_ROWS_MAX}, not {self.chunk_rows}")


@dataclass(frozen=True)
class Alignment:
    """What a party has at the end."""

    rows: Positions  # (K,) rows of its own points in the agreed order; -1: a row of the peer's that covers the others
    digest: str  # of the order, the same at both parties
    matched: int | None  # how many ids both have; None: this party is not to know


@dataclass(frozen=True)
class Send:
    """A message that is to be sent."""

    message: Message


@dataclass(frozen=True)
class Multiply:
    """Points that are to be multiplied by this party's number; give the products to `Side.multiplied`."""

    whose: Literal["own", "peer"]
    first: int
    points: Points  # (K, 32)


Step: TypeAlias = Send | Multiply


class Side:
    """One party. Ask it to `start`, then tell it of everything that comes; it answers with what to do, in order.

    The products must be told in the order in which they were asked for, each kind (`own`, `peer`) by itself.
    """

    def __init__(self, terms: Terms, points: Points, key: bytes | None = None) -> None:
        """`points`: (N, 32), each once; `key`: the secret number, a fresh one when left out (as it should be)."""
        self.terms = terms
        self.key = new_key() if key is None else key
        self._order = secret_order(len(points))  # position -> row
        self._points = points
        self._peer: Greeting | None = None
        self._blinded = 0  # own points that have been multiplied and sent
        self._arrived = 0  # of the peer's blinded points
        self._peer_doubled = np.empty((0, POINT_BYTES), np.uint8)  # the peer's points times both numbers
        self._doubled_peer = 0  # how many of these are there
        self._own_doubled = np.empty((0, POINT_BYTES), np.uint8)
        self._doubled_own = 0
        self._wanted = np.empty(0, np.int64)
        self._wanted_total: int | None = None
        self._alignment: Alignment | None = None
        self._peer_closing: Closing | None = None

    @property
    def is_done(self) -> bool:
        """Whether both parties have said, and compared, what came out."""
        return self._alignment is not None and self._peer_closing is not None

    @property
    def alignment(self) -> Alignment:
        """What came out; there when `is_done`."""
        assert self.is_done
        assert self._alignment is not None
        return self._alignment

    @property
    def stage(self) -> str:
        """Where it stands, for a person."""
        if self._peer is None:
            return "before the peer's greeting"
        return (
            f"{self._blinded} of {len(self._points)} own ids blinded, {self._doubled_own} of them back, "
            f"{self._arrived} of the peer's {self._peer.rows} here"
        )

    def start(self) -> list[Step]:
        """The first steps."""
        terms = self.terms
        return [Send(Greeting(VERSION, terms.role, terms.reveal, len(self._points), terms.chunk_rows))]

    def received(self, message: Message) -> list[Step]:
        """The peer said this. Raises ProtocolError when it must not."""
        if isinstance(message, Stop):
            raise ProtocolError(f"the peer stopped: {message.reason}")
        if isinstance(message, Greeting):
            return self._greeted(message)
        if self._peer is None:
            raise ProtocolError(f"{type(message).__name__} came before a greeting")
        if self._peer_closing is not None:
            raise ProtocolError(f"{type(message).__name__} came after the peer's closing")
        if isinstance(message, Blinded):
            return self._blinded_came(message, self._peer)
        if isinstance(message, Doubled):
            return self._doubled_came(message, self._peer)
        if isinstance(message, Wanted):
            return self._wanted_came(message, self._peer)
        self._peer_closing = message
        return self._compare()

    def multiplied(self, asked: Multiply, products: Points) -> list[Step]:
        """The products of what was to be multiplied."""
        if asked.whose == "own":
            assert asked.first == self._blinded
            self._blinded += len(products)
            return [Send(Blinded(asked.first, products)), *self._finish()]
        assert asked.first == self._doubled_peer
        self._peer_doubled[asked.first : asked.first + len(products)] = products
        self._doubled_peer += len(products)
        answer: list[Step] = [Send(Doubled(asked.first, products))] if self._answers else []
        return answer + self._finish()

    @property
    def _answers(self) -> bool:
        """Whether this party tells the peer what the peer's points have become."""
        return self.terms.reveal == "both" or self.terms.role == "follower"

    @property
    def _is_answered(self) -> bool:
        return self.terms.reveal == "both" or self.terms.role == "leader"

    def _greeted(self, greeting: Greeting) -> list[Step]:
        if self._peer is not None:
            raise ProtocolError("a second greeting came")
        if greeting.version != VERSION:
            raise ProtocolError(f"this is version {VERSION} of the alignment, the peer speaks {greeting.version}")
        if greeting.role == self.terms.role:
            raise ProtocolError(f"both parties are the {greeting.role}; one must be the leader, one the follower")
        if greeting.reveal != self.terms.reveal:
            raise ProtocolError(f"reveal is {self.terms.reveal} here and {greeting.reveal} at the peer; agree on one")
        if greeting.rows > self.terms.rows_max:
            raise ProtocolError(f"the peer brings {greeting.rows} ids, at most {self.terms.rows_max} are taken")
        self._peer = greeting
        self._peer_doubled = np.empty((greeting.rows, POINT_BYTES), np.uint8)
        if self._is_answered:
            self._own_doubled = np.empty((len(self._points), POINT_BYTES), np.uint8)
        size = self.terms.chunk_rows
        own: list[Step] = [
            Multiply("own", first, self._points[self._order[first : first + size]])
            for first in range(0, len(self._points), size)
        ]
        return own + self._finish()

    def _blinded_came(self, message: Blinded, peer: Greeting) -> list[Step]:
        points = check_points(message.points, peer.chunk_rows)
        _check_turn("Blinded", message.first, self._arrived, len(points), peer.rows)
        self._arrived += len(points)
        return [Multiply("peer", message.first, points)]

    def _doubled_came(self, message: Doubled, peer: Greeting) -> list[Step]:
        if not self._is_answered:
            raise ProtocolError("a follower that is not to know who matched was told so")
        points = check_points(message.points, self.terms.chunk_rows)
        # A peer cannot know the product of what it has not been sent.
        _check_turn("Doubled", message.first, self._doubled_own, len(points), self._blinded)
        self._own_doubled[message.first : message.first + len(points)] = points
        self._doubled_own += len(points)
        return self._finish()

    def _wanted_came(self, message: Wanted, peer: Greeting) -> list[Step]:
        if self._is_answered:
            raise ProtocolError("Wanted came, but rows are asked for by a leader, of a follower, with reveal: leader")
        total = message.total if self._wanted_total is None else self._wanted_total
        positions = _check_positions(message.positions, len(self._points), peer.chunk_rows)
        if message.total != total or total > len(self._points):
            raise ProtocolError(f"{message.total} rows are wanted, of {len(self._points)}; {total} were said before")
        _check_turn("Wanted", message.first, len(self._wanted), len(positions), total)
        self._wanted_total = total
        self._wanted = np.concatenate([self._wanted, positions])
        return self._finish()

    def _finish(self) -> list[Step]:
        """The last steps, once everything has been multiplied and answered."""
        peer = self._peer
        if peer is None or self._alignment is not None:
            return []
        if self._blinded < len(self._points) or self._doubled_peer < peer.rows:
            return []
        if self._is_answered and self._doubled_own < len(self._points):
            return []
        if not self._is_answered:
            return self._finish_as_asked(peer)
        own, theirs = match(self._own_doubled, self._peer_doubled)
        steps: list[Step] = []
        if self.terms.reveal == "both":
            digest = digest_of(self._own_doubled[own])
        else:
            own, theirs = self._covered(own, theirs, peer.rows)
            digest = digest_of(theirs)
            steps = self._ask_for(theirs)
        rows = np.where(own >= 0, self._order[own] if len(self._order) else own, -1)
        self._alignment = Alignment(rows, digest, int(np.count_nonzero(own >= 0)))
        return [*steps, *self._close()]

    def _finish_as_asked(self, peer: Greeting) -> list[Step]:
        if self._wanted_total is None or len(self._wanted) < self._wanted_total:
            return []
        if len(np.unique(self._wanted)) != len(self._wanted):
            raise ProtocolError("the leader wants a row twice")
        match(self._peer_doubled[:0], self._peer_doubled)  # refuses what came twice
        self._alignment = Alignment(self._order[self._wanted], digest_of(self._wanted), None)
        return self._close()

    def _covered(self, own: Positions, theirs: Positions, rows: int) -> tuple[Positions, Positions]:
        """The matches among a share of the follower's other rows, in a secret order; own position -1 for these."""
        others = np.setdiff1d(np.arange(rows), theirs, assume_unique=True)
        chosen = others[secret_order(len(others))[: round(self.terms.cover * len(others))]]
        order = secret_order(len(theirs) + len(chosen))
        own = np.concatenate([own, np.full(len(chosen), -1)])
        return own[order], np.concatenate([theirs, chosen])[order]

    def _ask_for(self, positions: Positions) -> list[Step]:
        size = self.terms.chunk_rows
        starts = range(0, max(len(positions), 1), size)  # one message at least: it says that nothing is wanted
        return [
            Send(Wanted(first, len(positions), positions[first : first + size].astype(np.uint64))) for first in starts
        ]

    def _close(self) -> list[Step]:
        assert self._alignment is not None
        self._points = self._points[:0]
        self._own_doubled = self._peer_doubled = np.empty((0, POINT_BYTES), np.uint8)
        return [Send(Closing(len(self._alignment.rows), self._alignment.digest)), *self._compare()]

    def _compare(self) -> list[Step]:
        own, closing = self._alignment, self._peer_closing
        if own is not None and closing is not None and (len(own.rows), own.digest) != (closing.rows, closing.digest):
            raise ProtocolError(
                f"the parties came to different alignments: {len(own.rows)} rows of digest {own.digest[:12]} here, "
                f"{closing.rows} of {closing.digest[:12]} at the peer; one of them does not follow the protocol"
            )
        return []


def match(own: Points, peer: Points) -> tuple[Positions, Positions]:
    """Positions of equal points in both, in the order of the points as big-endian numbers: the same at both parties,
    and by chance, since nobody chooses what an id times both numbers is.

    Raises ProtocolError when a point is there twice on one side.
    """
    both = np.concatenate([own, peer])
    words = np.ascontiguousarray(both).view(">u8").astype(np.uint64)  # (N, 4): bytes compare as these numbers do
    order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))  # stable: own before peer
    same = (words[order[1:]] == words[order[:-1]]).all(axis=1) if len(order) > 1 else np.zeros(0, np.bool_)
    at = np.flatnonzero(same)
    left, right = order[at], order[at + 1] - len(own)
    if (left >= len(own)).any() or (right < 0).any():
        raise ProtocolError("an id came twice: an honest peer sends each once")
    return left, right


def digest_of(order: npt.NDArray[np.generic]) -> str:
    """Hexadecimal SHA-256 of an agreed order."""
    return hashlib.sha256(b"flps psi, version 1: alignment\0" + np.ascontiguousarray(order).tobytes()).hexdigest()


def secret_order(count: int) -> Positions:
    """A permutation that nobody can foretell: this chance protects rows, so it has no seed."""
    return np.argsort(np.frombuffer(os.urandom(8 * count), np.uint64), kind="stable")


def _check_turn(kind: str, first: int, expected: int, count: int, total: int) -> None:
    if first != expected or first + count > total:
        raise ProtocolError(f"{kind} {first} to {first + count} came, expected from {expected} on, up to {total}")


def _check_positions(positions: object, rows: int, chunk_rows: int) -> Positions:
    if not isinstance(positions, np.ndarray) or positions.dtype != np.uint64 or positions.ndim != 1:
        raise ProtocolError("positions are a list of 64-bit numbers; something else came")
    if len(positions) > chunk_rows or (len(positions) and positions.max() >= rows):
        raise ProtocolError(f"{len(positions)} positions came, expected at most {chunk_rows}, each below {rows}")
    return positions.astype(np.int64)
