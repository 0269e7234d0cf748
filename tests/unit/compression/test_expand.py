"""What a peer can send wrong comes out as ProtocolError, and as nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps import frames
from flps.compression import CompressConfig, Packed, compress, expand
from flps.compression.packed import DTYPES, KINDS
from flps.errors import ConfigError, ProtocolError


def of(kind: str, size: int = 40, /, **changes: Any) -> Packed:
    """A packed tensor of which something was changed."""
    numbers = np.arange(size) % 4 if kind == "bit_pack" else np.linspace(-1, 2, size)
    packed = compress("x", numbers.astype(np.float32), CompressConfig(kind, 2))
    return msgspec.structs.replace(packed, **changes)


def array(*numbers: float, dtype: str = "<f4") -> tuple[Any, ...]:
    return (np.array(numbers, dtype).view(np.uint8),)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (of("min_max", kind="zip"), "no such packed tensor"),
        (of("min_max", dtype="c8"), "no such packed tensor"),
        (of("min_max", dtype="i4"), "for floating numbers"),
        (of("min_max", shape=(41,)), "wants arrays of"),
        (of("min_max", shape=(-1, 40)), "not the shape"),
        (of("min_max", shape=(2**40, 2**40, 0)), "at most 1073741824"),
        (of("topk", shape=(2**30,)), "wants 4294967296 bytes"),
        (of("min_max", shape=(1,) * 17), "not the shape"),
        (of("min_max", bits=0), "1 to 8"),
        (of("min_max", bits=9), "1 to 8"),
        (of("min_max", arrays=()), "wants arrays of"),
        (of("min_max", arrays=(np.zeros(10, np.int8),)), "flat bytes"),
        (of("min_max", arrays=(np.zeros((2, 5), np.uint8),)), "flat bytes"),
        (of("min_max", low=float("nan")), "between nan"),
        (of("min_max", low=3.0), "between 3.0 and 2.0"),
        (of("min_max", high=1e300), "not finite"),
        (of("min_max", high=2), "between"),
        (of("bit_pack", high=4.0), "bit_pack of 2 bits between"),
        (of("bit_pack", high=2.0), "with a step of 3"),
        (of("bit_pack", low=0.5), "bit_pack of 2 bits between"),
        (of("bit_pack", dtype="b1", low=0, high=3), "no numbers of b1"),
        (of("bit_pack", dtype="u1", low=-1, high=2), "no numbers of u1"),
        (of("fp16", arrays=array(*[np.inf] * 40, dtype="<f2")), "not finite"),
        (of("fp16", exponent=2000), "exponent"),
        (of("bf16", arrays=(np.full(80, 0xFF, np.uint8),)), "not finite"),
        (of("int8", arrays=of("int8").arrays[:1]), "wants arrays of"),
        (of("int8", arrays=of("int8").arrays[:1] + array(np.nan)), "not finite"),
        (of("topk", 40, arrays=array(5, 4, dtype="<u4") + array(1, 1)), "rising positions"),
        (of("topk", 40, arrays=array(4, 4, dtype="<u4") + array(1, 1)), "rising positions"),
        (of("topk", 40, arrays=array(4, 40, dtype="<u4") + array(1, 1)), "rising positions"),
        (of("topk", 40, arrays=array(4, 5, dtype="<u4") + array(1)), "wants arrays of"),
        (of("topk", 40, arrays=array(4, dtype="<u4") + array(np.nan)), "not finite"),
        (of("no_compress", arrays=array(*[np.nan] * 40)), "not finite"),
        (of("no_compress", shape=(80,), dtype="b1", arrays=(np.full(80, 2, np.uint8),)), "truth values"),
    ],
)
def test_what_a_peer_sends_wrong_is_refused(packed: Packed, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        expand(packed)


@given(
    st.sampled_from(KINDS),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 20), max_size=3),
    st.lists(st.binary(max_size=200), max_size=3),
    st.integers(-1, 9),
    st.integers() | st.floats(),
    st.integers() | st.floats(),
    st.integers(-2000, 2000),
)
def test_anything_is_refused_or_finite(
    kind: Any, dtype: str, shape: list[int], held: list[bytes], bits: int, low: Any, high: Any, exponent: int
) -> None:
    arrays = tuple(np.frombuffer(part, np.uint8) for part in held)
    packed = Packed(kind, kind, dtype, tuple(shape), arrays, bits, low, high, exponent)
    with suppress(ProtocolError):
        tensor = expand(packed)
        assert tensor.shape == tuple(shape)
        assert np.isfinite(tensor).all()


@given(st.sampled_from(KINDS), st.sampled_from(["f2", "f4", "f8"]), st.data())
def test_other_bytes_of_the_right_size_are_refused_or_finite(kind: str, dtype: str, chosen: st.DataObject) -> None:
    """As above, but far enough in to get to the numbers."""
    numbers = np.arange(40).reshape(2, 20).astype("<" + dtype)
    packed = compress("x", numbers, CompressConfig(kind, chosen.draw(st.integers(6, 8))))
    arrays = tuple(np.frombuffer(chosen.draw(st.binary(min_size=a.size, max_size=a.size)), "u1") for a in packed.arrays)
    exponent = chosen.draw(st.integers(-1100, 1100))
    with suppress(ProtocolError):
        assert np.isfinite(expand(msgspec.structs.replace(packed, arrays=arrays, exponent=exponent))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (4, 32)])
def test_it_travels_as_frames(kind: str, shape: tuple[int, ...]) -> None:
    numbers = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    packed = compress("x", numbers, CompressConfig(kind, 7))
    encoding = frames._Encoding()
    header = msgspec.msgpack.encode(packed, enc_hook=encoding.hook)
    decoding = frames._Decoding([header, *(memoryview(tensor.tobytes()) for tensor in encoding.tensors)])
    arrived = msgspec.msgpack.decode(header, type=Packed, dec_hook=decoding.hook)
    assert (arrived.kind, arrived.shape, arrived.nbytes) == (packed.kind, shape, packed.nbytes)
    found = expand(arrived)
    assert found.tobytes() == expand(packed).tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize("low", [2**64 - 1, -(2**63)])
def test_large_integers_travel_exactly(low: int) -> None:
    numbers = np.array([low, low], np.uint64 if low > 0 else np.int64)
    packed = compress("x", numbers, CompressConfig("bit_pack", 1))
    header = msgspec.msgpack.encode(packed, enc_hook=lambda tensor: tensor.tolist())
    arrived = msgspec.msgpack.decode(header, type=Packed, dec_hook=lambda _, held: np.array(held, np.uint8))
    assert (expand(arrived) == numbers).all()


def test_a_bound_of_one_s_own() -> None:
    packed = compress("x", np.zeros(100, np.float32), CompressConfig("min_max", 1))
    assert expand(packed, bytes_max=400).size == 100
    with pytest.raises(ProtocolError, match="400 bytes, at most 399"):
        expand(packed, bytes_max=399)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"compress_type": "minmax"}, "compress_type 'minmax': one of .*; min_max?"),
        ({"compress_type": None}, "compress_type None"),
        ({"compress_type": "min_max", "bit_num": 9}, "bit_num must be a whole number from 1 to 8, got 9"),
        ({"compress_type": "min_max", "bit_num": True}, "bit_num"),
        ({"compress_type": "min_max", "grad_bit_num": 0}, "grad_bit_num .* got 0"),
        ({"compress_type": "min_max", "grad_compress_type": "fp8"}, "grad_compress_type 'fp8'"),
        ({"compress_type": "topk", "top_k": 0}, "top_k must be a number above 0"),
        ({"compress_type": "topk", "grad_top_k": 1.5}, "grad_top_k"),
        ({"compress_type": "topk", "error_feedback": 1}, "error_feedback"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        CompressConfig(**settings)


def test_gradients_have_settings_of_their_own() -> None:
    config = CompressConfig("min_max", 6, grad_compress_type="topk", grad_top_k=0.01, error_feedback=True)
    assert config.gradients == CompressConfig("topk", 6, top_k=0.01, error_feedback=True)
    assert not config.activations.error_feedback
    assert CompressConfig("min_max", 6).gradients == CompressConfig("min_max", 6)
    assert CompressConfig("bit_pack", 1, grad_bit_num=4).gradients.bit_num == 4
