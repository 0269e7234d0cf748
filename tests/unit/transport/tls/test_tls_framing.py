"""Messages in a stream: whole or not at all, and nothing is allocated for what is too large."""

from __future__ import annotations

import random
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ProtocolError
from flps.frames import Limits
from flps.transport.tls.framing import Assembler, pieces

LIMITS = Limits(frames=8, frame_bytes=100_000, message_bytes=150_000)
FRAMES = st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 40_000).map(lambda n: b"\xa5" * n)), min_size=1)


def take(assembler: Assembler, stream: bytes) -> list[list[bytes]]:
    """The messages in a stream that comes as one read after the other, each as large as there is room."""
    messages, at = [], 0
    while at < len(stream):
        room = assembler.room()
        count = min(len(room), len(stream) - at, 1000)
        room[:count] = stream[at : at + count]
        at += count
        message = assembler.took(count)
        if message is not None:
            messages.append([bytes(frame) for frame in message])
    return messages


@given(st.lists(FRAMES.filter(lambda frames: len(frames) <= 8 and sum(map(len, frames)) <= 150_000), max_size=4))
def test_messages_come_out_as_they_went_in(messages: list[list[bytes]]) -> None:
    stream = b"".join(bytes(piece) for message in messages for piece in pieces(message))
    assembler = Assembler(LIMITS)
    assert take(assembler, stream) == messages
    assert assembler.is_between


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_half_a_message_is_none(frames: list[bytes], draw: st.DataObject) -> None:
    stream = b"".join(map(bytes, pieces(frames)))
    cut = draw.draw(st.integers(0, len(stream) - 1))
    assert take(Assembler(LIMITS), stream[:cut]) == []


def test_large_frames_are_not_copied() -> None:
    values = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    found = pieces([b"head", values])
    values[0, 0] = 7.0
    assert np.frombuffer(found[1], np.float64)[0] == 7.0
    assert [piece.nbytes for piece in found] == [4 + 16 + 4, 80_000]


@pytest.mark.parametrize(
    ("announced", "why"),
    [
        (struct.pack("<I", 0), "1 to 8 frames, 0 were announced"),
        (struct.pack("<I", 9), "1 to 8 frames, 9 were announced"),
        (struct.pack("<I", 2**32 - 1), "4294967295 were announced"),
        (struct.pack("<IQ", 1, 100_001), "a frame of 100001 bytes was announced, at most 100000"),
        (struct.pack("<IQ", 1, 2**64 - 1), "a frame of 18446744073709551615 bytes"),
        (struct.pack("<IQQ", 2, 100_000, 100_000), "a message of 200000 bytes was announced, at most 150000"),
    ],
)
def test_what_is_over_the_limits_is_refused_before_anything_is_allocated(announced: bytes, why: str) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=why):
        take(Assembler(LIMITS), announced)
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()


def test_random_bytes_are_refused_or_waited_for() -> None:
    chance = random.Random(3)
    for _ in range(2_000):
        try:
            take(Assembler(LIMITS), chance.randbytes(chance.randrange(200)))
        except ProtocolError as error:
            assert "announced" in str(error)  # noqa: PT017
