"""What may be said between roles: one type for each thing, with the shape and type of every field.

Law 1: these are types and nothing else; how they look on the wire, and what of it is refused, is said in `frames.py`.
Law 2: how large a number is, or how long a name, stands at its field, so that whoever reads a message gets no other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

VERSION = 1
REASON_MAX = 4096

Tensor: TypeAlias = np.ndarray[Any, Any]
Name = Annotated[str, Meta(max_length=256)]
Reason = Annotated[str, Meta(max_length=REASON_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


# --- tables ----------------------------------------------------------------------------------------------------------


class Push(msgspec.Struct, frozen=True):
    """Gradients or deltas for one table."""

    table: Count
    keys: Tensor | None  # (N,) uint64, each once; None: the whole dense tensor
    values: Tensor  # (N, dim), or (dim,) dense
    counts: Tensor | None = None  # (N, 3) float32: shows, clicks and slot of each key, for a table with an accessor


class Pull(msgspec.Struct, frozen=True):
    """A question for rows."""

    table: Count
    keys: Tensor | None  # (N,) uint64; None: the whole dense tensor


class Declare(msgspec.Struct, frozen=True, tag="declare"):
    """The tables that this worker wants, in the order of the numbers that it will call them by."""

    tables: tuple[dict[str, Any], ...]  # TableSpec, each with this server's share of a dense tensor


class Declared(msgspec.Struct, frozen=True, tag="declared"):
    """Accepted; these dense tables still want their first values."""

    empty: tuple[Count, ...]


class Start(msgspec.Struct, frozen=True, tag="start"):
    """First values of dense tables; only the first worker's count."""

    values: tuple[Push, ...]


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Rows wanted, as they are now."""

    pulls: tuple[Pull, ...]


class Update(msgspec.Struct, frozen=True, tag="update"):
    """One step of `sync` or `async`: gradients of this step, and the rows wanted next."""

    epoch: Count
    step: Count
    samples: Count  # of the batch that the gradients are the mean of
    final: bool  # this worker has no further batch in this epoch
    pushes: tuple[Push, ...]
    pulls: tuple[Pull, ...]
    cohort: tuple[Count, ...] = ()  # with step 0: ranks released together into this epoch; empty: everybody alive


class Rows(msgspec.Struct, frozen=True, tag="rows"):
    """The rows asked for, in the order of the pulls."""

    values: tuple[Tensor, ...]
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0  # sync: this worker's samples of the step / the cohort's


class Window(msgspec.Struct, frozen=True, tag="window"):
    """Deltas of one window of `geo`, and how much of each table's changes the worker has seen."""

    epoch: Count
    samples: Count
    final: bool  # the last window of this epoch
    deltas: tuple[Push, ...]
    cursors: dict[Count, Count]  # table -> version
    after: dict[Count, Count] = {}  # table whose rows come in pieces -> how many have come


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """What others changed since the cursors, and the weight that this worker's deltas were taken with."""

    weight: float
    changed: tuple[Push, ...]  # values: the rows as they now are
    cursors: dict[Count, Count]
    more: dict[Count, Count] = {}  # tables of which rows are left -> how many have come: to be asked for as `after`


class Detach(msgspec.Struct, frozen=True, tag="detach"):
    """This worker uses the tables no more."""


class Save(msgspec.Struct, frozen=True, tag="save"):
    """Write this server's share of every table for this epoch; where to is the server's choice."""

    epoch: Count
    mode: Literal["all", "delta", "base", "batch"] = "all"  # which rows of a table with an accessor


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """Files written, each with its sha256."""

    files: dict[Name, Name]


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """The model of this epoch is complete: a delta begins anew, or a day has ended. A second one changes nothing."""

    epoch: Count
    mode: Literal["all", "delta", "base", "batch"]


class Shrink(msgspec.Struct, frozen=True, tag="shrink"):
    """Let shows and clicks decay and forget old rows. One of a day that has been seen changes nothing."""

    day: Count
    is_day: bool  # rows that stay have been unseen for one day more


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Write a checkpoint of what you hold now. All workers stand still, so the first of them speaks for all."""

    checkpoint: Name  # its identity; resumed runs agree on it
    epoch: Count
    step: Count  # steps of the epoch that are done
    workers: tuple[Count, ...] = ()  # ranks that take part; the others are lost
    kept: tuple[Name, ...] = ()  # folders of the checkpoints that are complete and wanted; parts of others may go


# --- between the parties of a split job ------------------------------------------------------------------------------

Life = tuple[Count, Count]  # incarnation of a party's process, and how often it has begun anew in it


class Way(msgspec.Struct, frozen=True, array_like=True):
    """Between which lives of two parties something is said, and what has come to the sender by then."""

    name: Name  # of the party that says it
    life: Life  # of the party that says it
    to: Life  # of the party that it is said to; (0, 0): not known yet
    received: Count  # every parcel up to this number has come
    taken: Count  # every parcel up to this number has been handed out, so there is room for more


class Piece(msgspec.Struct, frozen=True):
    """One tensor of a parcel, as it is or packed."""

    label: Name  # of the group that it belongs to; "": none
    name: Name
    dtype: Annotated[str, Meta(max_length=4)]  # "f4", "bf16", ...; of the tensor as it was
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**48)], ...], Meta(max_length=16)]
    arrays: Annotated[tuple[Tensor, ...], Meta(max_length=8)]  # (N,) uint8 each; one, when it is not packed
    packed: dict[str, Any] | None = None  # how, in the codec's own words


class Parcel(msgspec.Struct, frozen=True, tag="parcel"):
    """Tensors, or a note, from one party to another: handed out once, in the order of the numbers."""

    way: Way
    sequence: Annotated[int, Meta(ge=1, le=2**53)]  # of this direction, from 1 on
    step: Count | None = None  # as the sender counts
    pieces: tuple[Piece, ...] = ()
    note: Annotated[str, Meta(max_length=2**18)] = ""  # json; a parcel with a note has no tensors


class Sign(msgspec.Struct, frozen=True, tag="sign"):
    """A party's sign of life. What was sent before a ping whose answer does not confirm it is lost."""

    way: Way
    ping: Count = 0  # to be answered with this number; 0: no answer is wanted
    pong: Count = 0  # the answer; 0: to nothing
    bye: Reason | None = None  # this party ends: "" in good order, else why
    because: Reason = ""  # why this party has begun anew


# --- membership ------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A role has come up."""

    checkpoint: Name = ""  # identity of the checkpoint that it goes on from


class Wrote(msgspec.Struct, frozen=True):
    """A role's part of a checkpoint is on its disk, or could not be written."""

    checkpoint: Name
    file: Name
    sha256: Name
    failure: Reason = ""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A sign of life. Not numbered: losing one does no harm."""

    wrote: Wrote | None = None  # the last part of a checkpoint, again and again


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """Answer to a beat: which roles are lost, and why the job must stop, if it must."""

    lost: tuple[Name, ...]
    stop: Reason
    checkpoint: Name = ""  # identity of the newest one that is complete or has been given up


class Report(msgspec.Struct, frozen=True):
    """What a worker measured: named arrays that add up over workers, and the files that it wrote."""

    counts: dict[Name, Tensor] = {}
    files: dict[Name, Name] = {}


class Arrive(msgspec.Struct, frozen=True, tag="arrive"):
    """This worker waits at a barrier."""

    barrier: Name  # kind and epoch, for example "trained 3"
    report: Report


JOIN = "begin"  # the barrier at which a worker in a later life waits for an epoch, of which it does not know the number
OVER = "over"  # what it is told to have opened when there is nothing left to join
CHECKPOINT = "checkpoint"  # `checkpoint <epoch> <step>`: where everybody stands still


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Everybody who is alive has arrived; the sum of their reports."""

    report: Report
    workers: tuple[Count, ...]  # ranks that arrived
    barrier: Name = ""  # which one has opened: not always the one that this worker named
    cut: Cut | None = None  # the checkpoint to write; None: none is wanted, or the last one is still being written


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """This role ends in good order."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Carried out; nothing to say."""


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """This one request was not carried out."""

    reason: Reason


Body: TypeAlias = (
    Declare | Declared | Detach | Look | Start | Update | Rows | Window | Changes | Save | Saved | Settle
    | Shrink | Cut | Parcel | Sign | Hello | Beat | Pulse | Arrive | Release | Leave | Done | Refusal
)  # fmt: skip


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The header: who says what in which run."""

    version: int
    run: Name
    sender: Name  # "worker:3"
    incarnation: Count  # life of the sender's process; grows with every restart
    sequence: Count  # number of the request that is made or answered; 0: not numbered
    body: Body
    settled: Count = 0  # the sender waits for no answer to a request up to this number
