"""What the two parties say to each other while they align their rows.

Law 1: these are types and nothing else; points and positions are numpy arrays, everything else a plain number or text.
Law 2: no message has a field that an id, or a hash that anybody can compute from an id, could stand in.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from flps.message import Count, Reason, Tensor

VERSION = 1
Role = Literal["leader", "follower"]
Reveal = Literal["both", "leader"]
CHUNK_ROWS_MAX = 65536


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The first message of each party: what it wants, and how many rows it brings."""

    version: Count
    role: Role
    reveal: Reveal
    rows: Count
    chunk_rows: Annotated[int, Meta(ge=1, le=CHUNK_ROWS_MAX)]  # points in a message of this party, at most


class Blinded(msgspec.Struct, frozen=True, tag="blinded"):
    """The sender's ids times the sender's number, in the sender's shuffled order."""

    first: Count  # position of the first one
    points: Tensor  # (K, 32) uint8


class Doubled(msgspec.Struct, frozen=True, tag="doubled"):
    """The receiver's blinded points times the sender's number, too, in the order in which they came."""

    first: Count
    points: Tensor  # (K, 32) uint8


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """With `reveal: leader`: the positions in the follower's shuffled order that are to be used, in this order."""

    first: Count
    total: Count  # of all these messages together
    positions: Tensor  # (K,) uint64, each once


class Closing(msgspec.Struct, frozen=True, tag="closing"):
    """The last message of each party: what came out, for both to compare."""

    rows: Count
    digest: Annotated[str, Meta(max_length=64)]  # hexadecimal


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The sender goes no further, and why: a fault of the protocol, never of a row."""

    reason: Reason


Message: TypeAlias = Greeting | Blinded | Doubled | Wanted | Closing | Stop
