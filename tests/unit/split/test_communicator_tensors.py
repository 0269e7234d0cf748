"""Tensors arrive as they were sent: every type, shape and grouping; what cannot be sent is refused by its name."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from flps.errors import ConfigError, PrivacyError, ProtocolError
from flps.frames import Limits, decode, encode
from flps.message import VERSION, Envelope, Parcel, Piece, Way
from flps.privacy import conceal
from flps.split.tensors import DTYPES, check_sizes, pack, unpack

WAY = Way("leader", (1, 0), (1, 0), 0, 0)


def over_the_wire(tensors: Any) -> Any:
    envelope = Envelope(VERSION, "run", "leader:0", 1, 0, Parcel(WAY, 1, 3, pack(tensors)))
    frames = [bytearray(memoryview(frame).cast("B")) if memoryview(frame).nbytes else b"" for frame in encode(envelope)]
    body = decode(frames, Limits()).body
    assert isinstance(body, Parcel)
    return unpack(body.pieces)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (2, 3, 4, 5, 6)], ids=str)
def test_every_type_and_shape_comes_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 50).to(dtype)
    back = over_the_wire({"x": tensor})["x"]
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)
    back.zero_()  # it may be changed


def test_what_is_not_a_number_travels_bit_for_bit() -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    back = over_the_wire({"x": tensor})["x"]
    assert back.view(torch.int32).tolist() == tensor.view(torch.int32).tolist()


def test_groups_and_order_come_back() -> None:
    sent = OrderedDict(z=torch.ones(1), loss=OrderedDict(b=torch.zeros(2), a=torch.arange(3)), y=torch.ones(2))
    back = over_the_wire(sent)
    assert list(back) == ["z", "loss", "y"]
    assert isinstance(back["loss"], OrderedDict)
    assert list(back["loss"]) == ["b", "a"]


def test_views_and_graphs_are_sent_by_their_numbers() -> None:
    whole = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    back = over_the_wire({"column": whole[:, 1], "turned": whole.T})
    assert back["column"].tolist() == [1.0, 5.0, 9.0]
    assert torch.equal(back["turned"], whole.detach().T)
    assert not back["column"].requires_grad


def test_a_tensor_may_be_changed_once_it_was_handed_over() -> None:
    tensor = torch.ones(4)
    pieces = pack({"x": tensor})
    tensor.zero_()
    assert unpack(pieces)["x"].tolist() == [1.0] * 4


def test_no_copy_is_made_of_what_has_come() -> None:
    (piece,) = pack({"x": torch.ones(4)})
    assert unpack((piece,))["x"].data_ptr() == piece.arrays[0].ctypes.data
    odd = np.zeros(17, np.uint8)[1:]  # floats cannot begin there
    assert unpack((msgspec.structs.replace(piece, arrays=(odd,)),))["x"].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "got an empty one"),
        ([torch.ones(1)], "a dictionary of name to tensor"),
        ({"x": [1.0]}, r"'x' is '\[1.0\]' \(list\)"),
        ({"loss": {}}, "group 'loss'"),
        ({"loss": {"x": 1}}, "'loss/x' is '1'"),
        ({"": torch.ones(1)}, "called ''"),
        ({1: torch.ones(1)}, "called 1"),
        ({"x": torch.ones(1, dtype=torch.complex64)}, "'x' is of torch.complex64"),
        ({"x": torch.ones(2).to_sparse()}, "torch.sparse"),
    ],
)
def test_what_cannot_be_sent_is_named(tensors: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        pack(tensors)


def test_what_is_over_the_limits_is_refused_with_the_numbers() -> None:
    pieces = pack({"loss": {"x": torch.ones(512)}, "y": torch.ones(2)})
    check_sizes(pieces, Limits())
    with pytest.raises(ConfigError, match=r"'loss/x' of shape \[512\] has 2048 bytes, over frame_bytes_max 2000"):
        check_sizes(pieces, Limits(frame_bytes=2000))
    with pytest.raises(ConfigError, match=r"2 tensors with \d+ bytes are over message_bytes_max 2100"):
        check_sizes(pieces, Limits(message_bytes=2100))
    with pytest.raises(ConfigError, match="2 tensors in one message are over frames_max 2"):
        check_sizes(pieces, Limits(frames=2))


def test_what_passes_the_check_passes_the_encoder() -> None:
    pieces = pack({f"{n}" * 200: torch.ones(3) for n in range(9)})
    total = sum(12 + 200 + 300 for _ in pieces)
    limits = Limits(message_bytes=total)
    check_sizes(pieces, limits)
    encode(Envelope(VERSION, "run", "leader:0", 1, 0, Parcel(WAY, 1, 3, pieces)), limits)


def test_private_rows_do_not_leave() -> None:
    (piece,) = pack({"x": torch.ones(4)})
    private = msgspec.structs.replace(piece, arrays=(conceal(piece.arrays[0], "users"),))
    with pytest.raises(PrivacyError, match="users"):
        encode(Envelope(VERSION, "run", "leader:0", 1, 0, Parcel(WAY, 1, 3, (private,))))


GOOD = Piece("", "x", "f4", (2,), (np.zeros(8, np.uint8),))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "c8"}, "'x' is of type 'c8'"),
        ({"shape": (3,)}, "wants 12 bytes"),
        ({"shape": (2**40, 2**40)}, "wants"),
        ({"arrays": ()}, "wants 8 bytes"),
        ({"arrays": (np.zeros(8, np.uint8), np.zeros(8, np.uint8))}, "wants 8 bytes"),
        ({"arrays": (np.zeros(1, np.float64),)}, "wants 8 bytes"),
        ({"dtype": "b1", "shape": (8,), "arrays": (np.full(8, 2, np.uint8),)}, "neither 0 nor 1"),
        ({"packed": {}}, "comes packed"),
    ],
)
def test_what_a_peer_says_wrong_is_its_fault(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        unpack((msgspec.structs.replace(GOOD, **changes),))


def test_a_name_comes_once() -> None:
    with pytest.raises(ProtocolError, match="'x' comes twice"):
        unpack((GOOD, GOOD))
    grouped = msgspec.structs.replace(GOOD, label="x")
    for pieces in ((GOOD, grouped), (grouped, GOOD)):
        with pytest.raises(ProtocolError, match="comes twice"):
            unpack(pieces)
