"""What may be said between roles, and how it looks as frames.

Law 1: nothing here opens a socket, reads a clock or starts a thread.
Law 2: whatever a peer can send wrong is refused here, by ProtocolError, before anything is allocated for it.
Law 3: a tensor is a raw little-endian frame behind the header; its dtype and shape stand in the header. Keys that fit
into four bytes travel in four. Rows may travel packed (`flps.packing`); who decodes them gets them unpacked.
Law 4: there is no way to write a private tensor (`flps.privacy`): the encoder says its owner's name and stops.

On the wire: frame 0 is the header (msgpack of `Envelope`), frames 1.. are the tensors in the order of their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from flps.errors import ConfigError, PrivacyError, ProtocolError
from flps.packing import Packed, scales_of, unpack
from flps.privacy import owner_of

VERSION = 1
HEADER_BYTES_MAX = 1 << 20
_DTYPES = {"f4", "f8", "u8", "i8", "u1"}
_SHORT_KEYS = "u4"  # on the wire only: 64-bit keys that are all below 2**32
_PACKED_KINDS = {"f2", "i1"}
_DIMS_MAX = 4

Tensor: TypeAlias = np.ndarray[Any, Any]
Name = Annotated[str, Meta(max_length=256)]
REASON_MAX = 4096
Reason = Annotated[str, Meta(max_length=REASON_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Limits(msgspec.Struct, frozen=True):
    """How much a peer may send in one message."""

    frames: int = 1024
    frame_bytes: int = 256 * 2**20
    message_bytes: int = 2**30  # of all frames together


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
    | Shrink | Cut | Hello | Beat | Pulse | Arrive | Release | Leave | Done | Refusal
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


class _Encoding:
    """Collects the tensors of one message while its header is written."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def hook(self, value: Any) -> list[Any]:
        if isinstance(value, Packed):
            values = self._described(value.values, _PACKED_KINDS)
            return [values, None if value.scales is None else self._described(value.scales, {"f4"}), value.dtype]
        return self._described(value, _DTYPES)

    def _described(self, value: Any, kinds: Collection[str]) -> list[Any]:
        """What stands in the header for a tensor, which is noted down to be sent."""
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        owner = owner_of(value)
        if owner is not None:
            raise PrivacyError(f"table {owner!r} is private: its rows may not leave this process")
        kind = value.dtype.newbyteorder("<").str[1:]
        if kind not in kinds:
            raise TypeError(f"a tensor of {value.dtype} cannot be sent; use one of {sorted(_DTYPES)}")
        if value.ndim > _DIMS_MAX:
            raise TypeError(f"a tensor of {value.ndim} dimensions cannot be sent, at most {_DIMS_MAX} can")
        if kind == "u8" and value.size and value.max() < 2**32:
            kind, value = _SHORT_KEYS, value.astype(np.uint32)
        self.tensors.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")))
        return [len(self.tensors), kind, list(value.shape)]


class _Decoding:
    """Turns the tensors' descriptions in a header into views of the frames, each frame once."""

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = frames
        self.used = 0

    def hook(self, _: type, value: Any) -> Tensor:
        match value:
            case [list(values), None | list() as scales, "f4" | "f8" as dtype]:
                return self._unpacked(values, scales, dtype)
        tensor = self._frame(value, _DTYPES | {_SHORT_KEYS})
        return tensor.astype(np.uint64) if tensor.dtype == np.uint32 else tensor

    def _frame(self, value: Any, kinds: Collection[str]) -> Tensor:
        number, kind, shape = _description(value, kinds)
        if number != self.used + 1 or number >= len(self.frames):
            raise ProtocolError(f"the header names frame {number}, expected {self.used + 1} of {len(self.frames) - 1}")
        self.used = number
        dtype = np.dtype("<" + kind)
        wanted = math.prod(shape) * dtype.itemsize
        frame = memoryview(self.frames[number])
        if frame.nbytes != wanted:
            raise ProtocolError(
                f"frame {number} of shape {shape} and type {kind} wants {wanted} bytes, got {frame.nbytes}"
            )
        return np.frombuffer(frame, dtype).reshape(shape) if wanted else np.empty(shape, dtype)

    def _unpacked(self, values: Any, scales: Any, dtype: str) -> Tensor:
        numbers = self._frame(values, {"f2"} if scales is None else {"i1"})
        if numbers.ndim not in (1, 2):
            raise ProtocolError(f"packed rows have one or two dimensions, not {numbers.ndim}")
        if scales is None:
            return unpack(Packed(numbers, None, dtype))
        factors = self._frame(scales, {"f4"})
        if factors.shape != (scales_of(numbers.shape),):
            raise ProtocolError(
                f"rows of shape {numbers.shape} want {scales_of(numbers.shape)} scales, got {factors.shape}"
            )
        return unpack(Packed(numbers, factors, dtype))


def _description(value: Any, kinds: Collection[str]) -> tuple[int, str, list[int]]:
    match value:
        case [int(number), str(kind), list(shape)] if kind in kinds and len(shape) <= _DIMS_MAX:
            if all(type(size) is int and 0 <= size < 2**48 for size in shape):
                return number, kind, shape
    raise ProtocolError(f"{str(value)[:80]} does not describe a tensor")


def encode(envelope: Envelope, limits: Limits = Limits()) -> list[bytes | Tensor]:  # noqa: B008  frozen
    """The frames of a message. Raises PrivacyError when it holds something private, ConfigError when it is larger
    than what a peer with the same limits takes.
    """
    encoding = _Encoding()
    header = msgspec.msgpack.encode(envelope, enc_hook=encoding.hook)
    largest = max((tensor.nbytes for tensor in encoding.tensors), default=0)
    if largest > limits.frame_bytes:
        raise ConfigError(
            f"a tensor of {largest} bytes is over network.frame_bytes_max, {limits.frame_bytes}; raise it for all roles"
        )
    if len(encoding.tensors) >= limits.frames or len(header) > min(HEADER_BYTES_MAX, limits.frame_bytes):
        raise ConfigError(
            f"{type(envelope.body).__name__} with {len(encoding.tensors)} tensors and a header of {len(header)} bytes "
            f"is over the limits: network.frames_max {limits.frames}, headers of {HEADER_BYTES_MAX} bytes"
        )
    total = len(header) + sum(tensor.nbytes for tensor in encoding.tensors)
    if total > limits.message_bytes:
        raise ConfigError(
            f"{type(envelope.body).__name__} of {total} bytes is over network.message_bytes_max, "
            f"{limits.message_bytes}; raise it for all roles"
        )
    return [header, *encoding.tensors]


def decode(frames: Sequence[Any], limits: Limits) -> Envelope:
    """The message in these frames (bytes-like each); tensors are views of them. Raises ProtocolError."""
    if not 1 <= len(frames) <= limits.frames:
        raise ProtocolError(f"a message has 1 to {limits.frames} frames, got {len(frames)}")
    sizes = [memoryview(frame).nbytes for frame in frames]
    if sizes[0] > HEADER_BYTES_MAX or max(sizes) > limits.frame_bytes:
        raise ProtocolError(f"frames of {sizes[0]} (header) and at most {max(sizes)} bytes are over the limits")
    if sum(sizes) > limits.message_bytes:
        raise ProtocolError(f"a message of {sum(sizes)} bytes is over the limit of {limits.message_bytes}")
    decoding = _Decoding(frames)
    try:
        envelope = msgspec.msgpack.decode(frames[0], type=Envelope, dec_hook=decoding.hook)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _check_version(frames[0])  # what cannot be read may be said in another version
        raise ProtocolError(f"unreadable header: {error}") from None
    if envelope.version != VERSION:
        raise _other_version(envelope.version)
    if decoding.used != len(frames) - 1:
        raise ProtocolError(f"{len(frames) - 1} tensors came, the header names {decoding.used}")
    return envelope


class _Opening(msgspec.Struct, frozen=True, array_like=True):
    """What headers of every version begin with."""

    version: int


# msgspec works out how to read a type when it first reads it, and crashes the process when two threads do so at once
# (a heartbeat and a journal that is carried out again): it is worked out here, once.
for _kind in (Envelope, _Opening):
    msgspec.msgpack.Decoder(_kind, dec_hook=lambda kind, value: value)


def _check_version(header: Any) -> None:
    with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        version = msgspec.msgpack.decode(header, type=_Opening).version
        if version != VERSION:
            raise _other_version(version)


def _other_version(version: int) -> ProtocolError:
    return ProtocolError(f"this is protocol version {VERSION}, the peer speaks {version}")
