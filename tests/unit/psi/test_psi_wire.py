"""Messages as bytes: they come back as they were, and nothing but ProtocolError comes of anything else."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ProtocolError
from flps.psi.message import Blinded, Closing, Doubled, Greeting, Message, Stop, Wanted
from flps.psi.wire import decode, encode

MESSAGES: list[Message] = [
    Greeting(1, "leader", "both", 100_000, 4096),
    Blinded(3, np.arange(96, dtype=np.uint8).reshape(3, 32)),
    Doubled(0, np.zeros((1, 32), np.uint8)),
    Wanted(0, 2, np.array([2**40, 1], np.uint64)),
    Wanted(0, 0, np.zeros(0, np.uint64)),
    Closing(12, "ab" * 32),
    Stop("an id came twice"),
]


def plain(message: Message) -> object:
    return msgspec.to_builtins(message, enc_hook=lambda array: (array.dtype.str, array.shape, array.tolist()))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    assert plain(decode(encode(message))) == plain(message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_cut_short_and_stretched(message: Message) -> None:
    said = encode(message)
    for size in range(len(said)):
        with pytest.raises(ProtocolError):
            decode(said[:size])
    with pytest.raises(ProtocolError):
        decode(np.concatenate([said, np.zeros(1, np.uint8)]))


@given(st.binary(max_size=200), st.integers(0, len(MESSAGES) - 1), st.integers(0, 60))
def test_random_bytes_are_a_message_or_a_protocol_error(noise: bytes, number: int, at: int) -> None:
    said = encode(MESSAGES[number]).copy()
    piece = np.frombuffer(noise, np.uint8)[: max(0, len(said) - at)]
    said[at : at + len(piece)] = piece
    for one in (said, np.frombuffer(noise, np.uint8)):
        with contextlib.suppress(ProtocolError):
            decode(one)


@pytest.mark.parametrize(
    "array", [["f8", [1]], ["u1", [1, 1, 1]], ["u1", [-1]], ["u1", [2**40, 2**40]], ["O", [1]], "u1", [1, 2]]
)
def test_an_array_of_another_kind_is_refused(array: object) -> None:
    header = msgspec.msgpack.encode({"type": "blinded", "first": 0, "points": array})
    said = np.frombuffer(len(header).to_bytes(4, "little") + header + bytes(8), np.uint8)
    with pytest.raises(ProtocolError):
        decode(said)
