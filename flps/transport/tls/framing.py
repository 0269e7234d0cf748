"""How a message looks inside the stream: the number of its frames, their sizes, the frames. Little-endian.

    u32 n | u64 size 1 ... u64 size n | frame 1 ... frame n

Law 1: every number that a peer chose is compared with the limits before anything is allocated for it.
Law 2: a message is handed out whole or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from flps.errors import ProtocolError
from flps.frames import Limits

_COUNT = struct.Struct("<I")
_SMALL_BYTES = 1 << 14  # a TLS record: smaller neighbours travel together


def pieces(frames: Sequence[Any]) -> list[memoryview]:
    """A message as the pieces of a stream; large frames are views, small ones are copied together."""
    views = [memoryview(frame).cast("B") if memoryview(frame).nbytes else memoryview(b"") for frame in frames]
    sizes = [view.nbytes for view in views]
    gathered = bytearray(_COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes))
    found: list[memoryview] = []
    for view in views:
        if view.nbytes < _SMALL_BYTES:
            gathered += view
            continue
        if gathered:
            found.append(memoryview(bytes(gathered)))
            gathered.clear()
        found.append(view)
    return found + ([memoryview(bytes(gathered))] if gathered else [])


class Assembler:
    """Takes the stream as it comes; says where the next bytes belong, and when a message is whole."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._begin()

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._target[self._filled :]

    def took(self, count: int) -> list[memoryview] | None:
        """So many bytes have been put into `room`; returns the message when it is whole. Raises ProtocolError."""
        self._filled += count
        while self._filled == self._target.nbytes:
            if self._stage == "count":
                self._take_count()
            elif self._stage == "sizes":
                self._take_sizes()
            elif len(self._frames) + 1 < len(self._sizes):
                self._frames.append(self._target)
                self._expect(self._sizes[len(self._frames)])
            else:
                message = [*self._frames, self._target]
                self._begin()
                return message
        return None

    @property
    def is_between(self) -> bool:
        """Whether no message has begun."""
        return self._stage == "count" and self._filled == 0

    def _begin(self) -> None:
        self._stage = "count"
        self._sizes: tuple[int, ...] = ()
        self._frames: list[memoryview] = []
        self._expect(_COUNT.size)

    def _expect(self, size: int) -> None:
        # Not bytearray, which writes zeros first; memory is taken as bytes come, not as a peer announces them.
        self._target = np.empty(size, np.uint8).data if size else memoryview(b"")
        self._filled = 0

    def _take_count(self) -> None:
        (count,) = _COUNT.unpack(self._target)
        if not 1 <= count <= self._limits.frames:
            raise ProtocolError(f"a message has 1 to {self._limits.frames} frames, {count} were announced")
        self._stage = "sizes"
        self._expect(8 * count)

    def _take_sizes(self) -> None:
        sizes = struct.unpack(f"<{self._target.nbytes // 8}Q", self._target)
        if max(sizes) > self._limits.frame_bytes:
            raise ProtocolError(f"a frame of {max(sizes)} bytes was announced, at most {self._limits.frame_bytes} pass")
        if sum(sizes) > self._limits.message_bytes:
            raise ProtocolError(
                f"a message of {sum(sizes)} bytes was announced, at most {self._limits.message_bytes} pass"
            )
        self._stage, self._sizes = "frames", sizes
        self._expect(sizes[0])
