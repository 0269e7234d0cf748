"""The rows that a leader and all of its followers have, found over the links on which they will train.

    leader   <-> each follower, one after the other: the intersection of two
    leader    -> each follower: which of these rows all parties have, in which order, and the alignment's digest

Law 1: a follower learns which of its rows the leader has, and which of those all parties have; of another follower
nothing else.
Law 2: all parties end with equally many rows in one order, and with the same digest.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flps.errors import ProtocolError
from flps.psi import wire
from flps.psi.curve import Points
from flps.psi.message import Message
from flps.psi.protocol import Alignment, Positions, Side, Terms, secret_order
from flps.psi.run import Here, cores_here, run, workers
from flps.split.communicator import TIMEOUT_S, VerticalFederatedCommunicator

Order: TypeAlias = Literal["chance", "leader"]
_NAME = "psi"


def lead(
    points: Points,
    links: VerticalFederatedCommunicator,
    followers: Sequence[str],
    order: Order = "chance",
    cores: int | None = None,
) -> Alignment:
    """The leader's rows that all followers have; each of them calls `follow` meanwhile.

    points: (N, 32), each once. order: by chance, or as `points` stand. cores: processes that compute, all by default.

    Raises ProtocolError when a party breaks the protocol; PeerLost, NeverCameUp, PartyRestarted as the links do.
    """
    with _computing(cores) as executor:
        pairs = [_pair("leader", points, links, name, executor, cores) for name in followers]
    rows = in_all(pairs, order)
    places = [places_of(pair, rows) for pair in pairs]
    digest = digest_of(pairs, places)
    for name, own in zip(followers, places, strict=True):
        chosen = {"places": torch.from_numpy(own), "digest": torch.tensor(list(digest), dtype=torch.uint8)}
        links.send_tensors(name, chosen)
    return Alignment(rows, digest.hex(), len(rows))


def follow(points: Points, links: VerticalFederatedCommunicator, leader: str, cores: int | None = None) -> Alignment:
    """A follower's rows that all parties have; errors as `lead`."""
    with _computing(cores) as executor:
        pair = _pair("follower", points, links, leader, executor, cores)
    chosen = links.receive(leader)
    places, digest = _checked(chosen.get("places"), chosen.get("digest"), len(pair.rows), leader)
    return Alignment(pair.rows[places], digest.hex(), len(places))


def in_all(pairs: Sequence[Alignment], order: Order) -> Positions:
    """(K,) the leader's rows that are in all of its alignments with one follower each."""
    rows: Positions = np.sort(functools.reduce(np.intersect1d, [pair.rows for pair in pairs]))
    return rows if order == "leader" else rows[secret_order(len(rows))]


def places_of(pair: Alignment, rows: Positions) -> Positions:
    """(K,) where these rows, all of them in it, stand in an alignment."""
    order = np.argsort(pair.rows)
    places: Positions = order[np.searchsorted(pair.rows, rows, sorter=order)]
    return places


def digest_of(pairs: Sequence[Alignment], places: Sequence[Positions]) -> bytes:
    """SHA-256 that names an alignment of all; made of what no follower knows of another, it tells nothing of them."""
    made = hashlib.sha256(b"flps psi, version 1: alignment of all\0")
    for pair, own in zip(pairs, places, strict=True):
        made.update(bytes.fromhex(pair.digest) + own.astype("<i8").tobytes())
    return made.digest()


class Lane:
    """The way to one party; a `flps.psi.run.Link`. What there is no room for yet waits in a line: two parties that both
    send must never wait for each other.
    """

    def __init__(self, links: VerticalFederatedCommunicator, peer: str) -> None:
        self._links, self._peer = links, peer
        self._line: deque[Tensor] = deque()

    def send(self, message: Message) -> None:
        """Put a message at the end of the line."""
        self._line.append(torch.from_numpy(wire.encode(message).copy()))  # a copy, which may be written to
        self._move()

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time. Raises ProtocolError for what is none."""
        self._move()
        came = self._links.receive_soon(self._peer, timeout_s)
        if came is None:
            return None
        said = came.get(_NAME)
        if len(came) != 1 or not isinstance(said, Tensor) or said.dtype != torch.uint8:
            raise ProtocolError(f"{self._peer} does not align ids, but sends something else")
        return wire.decode(said.numpy().reshape(-1))

    def empty(self) -> None:
        """Wait until all is on its way."""
        while self._line:
            self._links.send_tensors(self._peer, {_NAME: self._line.popleft()})

    def _move(self) -> None:
        while self._line and self._links.has_room(self._peer):
            self._links.send_tensors(self._peer, {_NAME: self._line.popleft()})


def _pair(
    role: Literal["leader", "follower"],
    points: Points,
    links: VerticalFederatedCommunicator,
    peer: str,
    executor: Executor,
    cores: int | None,
) -> Alignment:
    """The rows that this party and one other have. Their links say who has died, so silence is no sign of it."""
    lane = Lane(links, peer)
    alignment = run(Side(Terms(role), points), lane, executor, cores or cores_here(), TIMEOUT_S)
    lane.empty()
    return alignment


def _computing(cores: int | None) -> AbstractContextManager[Executor]:
    return nullcontext(Here()) if cores == 1 else workers(cores or cores_here())


def _checked(places: Any, digest: Any, rows: int, leader: str) -> tuple[Positions, bytes]:
    """What the leader chose of the rows that both have. Raises ProtocolError for what it cannot have meant."""
    is_list = isinstance(places, Tensor) and places.dtype == torch.int64 and places.ndim == 1
    is_digest = isinstance(digest, Tensor) and digest.dtype == torch.uint8 and digest.shape == (32,)
    if not is_list or not is_digest:
        raise ProtocolError(f"{leader} was to say which rows all parties have, and sends something else")
    chosen = places.numpy().copy()
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= rows or len(np.unique(chosen)) < len(chosen)):
        raise ProtocolError(f"{leader} chose rows that are not among the {rows} which both have, or one of them twice")
    return chosen, bytes(digest.tolist())
