"""Tensors in fewer bytes: how far each codec may be from what it was given, for any tensor, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flps.compression import CompressConfig, Feedback, NotFinite, Packed, compress, expand
from flps.errors import PrivacyError
from flps.privacy import conceal

KINDS = ("min_max", "bit_pack", "fp16", "bf16", "int8", "topk", "no_compress")
ROUNDING = {"f2": 2.0**-10, "f4": 2.0**-21, "f8": 2.0**-50}  # of the largest magnitude
LEAST = {"f2": 2.0**-24, "f4": 2.0**-149, "f8": 5e-324}
SHAPES = st.sampled_from([(), (0,), (1,), (7,), (100,), (3, 0), (5, 1), (4, 16), (3, 40), (2, 3, 20)])


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[str, ...] = ("f2", "f4", "f8")) -> Any:
    """Tensors of any magnitude their type has, all near each other or not."""
    dtype = draw(st.sampled_from(dtypes))
    width: Any = 8 * int(dtype[1])
    top = draw(st.integers(-20 if width == 16 else -120 if width == 32 else -1000, {16: 15, 32: 127, 64: 1023}[width]))
    elements = st.floats(-(2.0**top), 2.0**top, width=width) | st.floats(-1, 1, width=width)
    elements = elements | st.floats(width=width, allow_nan=False, allow_infinity=False)
    return draw(hnp.arrays(np.dtype("<" + dtype), draw(SHAPES), elements=elements))


def passed(array: Any, config: CompressConfig) -> tuple[Packed, Any]:
    """The tensor there and back: right type and shape, and an array of its own."""
    packed = compress("x", array, config)
    arriving = expand(packed)
    assert (arriving.dtype, arriving.shape) == (array.dtype, array.shape)
    assert arriving.flags.writeable
    assert not any(np.shares_memory(arriving, held) or np.shares_memory(array, held) for held in packed.arrays)
    return packed, arriving


def errors(array: Any, arriving: Any) -> tuple[Any, Any, float]:
    """In long numbers: errors, magnitudes, the largest magnitude."""
    meant, found = array.astype(np.longdouble), arriving.astype(np.longdouble)
    return np.abs(found - meant), np.abs(meant), np.abs(meant).max(initial=0)


@settings(max_examples=300)
@given(st.integers(1, 8), tensors())
def test_min_max_is_within_half_a_step(bits: int, array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("min_max", bits))
    assert (packed.kind, packed.nbytes) == ("min_max", math.ceil(array.size * bits / 8))
    error, _, top = errors(array, arriving)
    extent = np.longdouble(array.max()) - np.longdouble(array.min()) if array.size else 0
    kind = array.dtype.str[1:]
    assert (error <= extent / (2 * (2**bits - 1)) + ROUNDING[kind] * top + LEAST[kind]).all()
    if array.size:
        assert arriving.min() >= array.min()
        assert arriving.max() <= array.max()
        assert arriving.flat[array.argmax()] == array.max()
        assert arriving.flat[array.argmin()] == array.min()


@given(tensors())
@example(np.array([65504, 1e-7], np.float16))
@example(np.array([3.4e38, 1.0], np.float32))
def test_half_precision_is_within_its_bound(array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("fp16"))
    error, size, top = errors(array, arriving)
    assert packed.nbytes == 2 * array.size
    assert (error <= 2.0**-11 * size + 2.0**-39 * top + LEAST[array.dtype.str[1:]]).all()


@given(tensors())
@example(np.array([3.4028235e38, -3.4e38], np.float32))
@example(np.array([1.7976931348623157e308], np.float64))
def test_brain_floats_are_within_their_bound(array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("bf16"))
    error, size, top = errors(array, arriving)
    kind = array.dtype.str[1:]
    rounding = 2.0**-30 if kind == "f8" else 0 if kind == "f4" else 2.0**-11
    assert packed.nbytes == 2 * array.size
    assert (error <= (2.0**-8 + rounding) * size + 2.0**-70 * top + LEAST[kind]).all()


@given(tensors())
@example(np.array([[3.4e38] * 16, [1e-40] * 16], np.float32))
def test_bytes_are_within_their_bound_by_row(array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("int8"))
    error, size, top = errors(array, arriving)
    is_wide = array.ndim > 1 and array.shape[-1] >= 16
    width = array.shape[-1] if is_wide else 64
    kind, rows = array.dtype.str[1:], math.ceil(array.size / width)
    assert packed.nbytes == array.size + 4 * rows
    for start in range(0, array.size, width):
        row = slice(start, start + width)
        largest = size.reshape(-1)[row].max()
        bound = largest / 254 + max(ROUNDING[kind], 2.0**-21) * largest + 2.0**-60 * top + LEAST[kind]
        assert (error.reshape(-1)[row] <= bound).all()


@given(tensors(), st.sampled_from([0.001, 0.1, 0.5, 1, 1.0]))
def test_topk_keeps_the_largest(array: Any, share: float) -> None:
    packed, arriving = passed(array, CompressConfig("topk", top_k=share))
    kept = math.ceil(share * array.size)
    assert packed.nbytes == kept * (4 + array.itemsize)
    flat, found = array.reshape(-1), arriving.reshape(-1)
    chosen = packed.arrays[0].view("<u4")
    lost = np.ones(array.size, bool)
    lost[chosen] = False
    assert (found[chosen] == flat[chosen]).all()
    assert (found[lost] == 0).all()
    assert (np.abs(flat[lost]) <= np.abs(flat[chosen]).min(initial=np.inf)).all()
    squares = np.square(flat.astype(np.longdouble))
    assert squares[lost].sum() <= squares.sum() * (1 - kept / max(array.size, 1)) * (1 + 1e-15)


def test_topk_takes_the_first_of_equal_ones() -> None:
    packed = compress("x", np.array([1, -2, 2, -2, 0], np.float32), CompressConfig("topk", top_k=0.4))
    assert packed.arrays[0].view("<u4").tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
@settings(max_examples=40)
@given(chosen=st.data())
def test_whole_numbers_in_few_bits_lose_nothing(dtype: str, chosen: st.DataObject) -> None:
    bits = chosen.draw(st.integers(1, 8))
    if dtype[0] == "f":
        edge = {"f2": 2**11, "f4": 2**24, "f8": 2**53}[dtype] - 256
        least, largest = -edge, edge
    else:
        least, largest = (0, 1) if dtype == "b1" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low = chosen.draw(st.integers(least, largest))
    numbers = st.lists(st.integers(low, min(low + 2**bits - 1, largest)), max_size=40)
    array = np.array(chosen.draw(numbers), np.dtype("<" + dtype))
    packed, arriving = passed(array, CompressConfig("bit_pack", bits))
    assert (packed.kind, packed.fell_back, packed.nbytes) == ("bit_pack", False, math.ceil(array.size * bits / 8))
    assert (arriving == array).all()


@pytest.mark.parametrize(
    ("numbers", "bits"),
    [([-1, 0, 1], 8), ([3, -4, 3, -2, 3, -2, -4, 0, 1, 3], 3), ([1, 2, 3], 2), ([1, 1, 1], 1), ([1e30, 1e30], 1)],
)
def test_what_the_original_turns_into_something_else(numbers: list[float], bits: int) -> None:
    packed, arriving = passed(np.array(numbers, np.float32), CompressConfig("bit_pack", bits))
    assert not packed.fell_back
    assert arriving.tolist() == np.array(numbers, np.float32).tolist()


@pytest.mark.parametrize("array", [np.array([0.5, 1.0]), np.array([0.0, 4.0]), np.array([-1.7e308, 1.7e308])])
def test_what_does_not_fit_the_bits_travels_as_it_is(array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("bit_pack", 2))
    assert (packed.kind, packed.asked, packed.fell_back) == ("no_compress", "bit_pack", True)
    assert (arriving == array).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("bit_pack", "no_compress")])
def test_integers_are_not_rounded(kind: str) -> None:
    packed, arriving = passed(np.array([1, -(2**62)]), CompressConfig(kind))
    assert packed.fell_back
    assert arriving.tolist() == [1, -(2**62)]


@given(tensors())
def test_as_it_is(array: Any) -> None:
    packed, arriving = passed(array, CompressConfig("no_compress"))
    assert arriving.tobytes() == array.tobytes()
    assert not packed.fell_back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_by_name(kind: str, bad: float) -> None:
    array = np.array([[0, 1, 2], [3, bad, bad]], np.float32)
    with pytest.raises(NotFinite, match=r"'hidden_states' of shape \(2, 3\) has 2 numbers .* first at \(1, 1\)"):
        compress("hidden_states", array, CompressConfig(kind))
    with pytest.raises(ValueError, match="first at \\(\\)"):
        compress("x", np.array(bad), CompressConfig(kind))


def test_small_ranges_do_not_collapse() -> None:
    array = np.array([1e-12, 2e-12, 3e-12, 4e-12], np.float32)
    assert len(set(expand(compress("x", array, CompressConfig("min_max", 8))).tolist())) == 4
    tiny = np.array([0, 5e-324, 1e-323, 1.5e-323])
    assert expand(compress("x", tiny, CompressConfig("min_max", 2))).tolist() == tiny.tolist()


def test_the_original_s_example_of_an_outlier() -> None:
    """One range for all: what an outlier does is the codec's bound, and int8 by row is the way around."""
    row = np.array([0.1, 0.2, -0.3, 0.05, 100], np.float32)
    assert np.allclose(expand(compress("x", row, CompressConfig("min_max", 6)))[:4], -0.3)
    rows = np.stack([np.full(16, 100, np.float32), np.linspace(-0.3, 0.2, 16, dtype=np.float32)])
    assert np.allclose(expand(compress("x", rows, CompressConfig("int8")))[1], rows[1], atol=0.3 / 254 + 1e-6)


def test_a_strided_and_a_big_endian_tensor() -> None:
    array = np.arange(64, dtype=">f4").reshape(8, 8)[::2, ::-1].T
    for kind in KINDS:
        arriving = expand(compress("x", array, CompressConfig(kind, 8, top_k=1.0)))
        assert np.allclose(arriving, array.astype("<f4"), atol=0.25), kind


def test_private_rows_and_strange_types_stay() -> None:
    with pytest.raises(PrivacyError, match="'x': table 'user_embedding' is private"):
        compress("x", conceal(np.zeros(3, np.float32), "user_embedding"), CompressConfig("min_max"))
    with pytest.raises(TypeError, match="complex128"):
        compress("x", np.zeros(3, complex), CompressConfig("min_max"))


def test_with_feedback_the_sum_arrives() -> None:
    config, feedback = CompressConfig("topk", top_k=0.1, error_feedback=True).gradients, Feedback()
    gradients = np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32) + np.linspace(0, 1, 50, dtype="f4")
    arrived = sum(expand(compress("g", gradient, config, feedback)) for gradient in gradients)
    kept = feedback.content()["g"]
    assert np.allclose(arrived + kept, gradients.sum(axis=0), atol=1e-2)
    without = sum(expand(compress("g", gradient, config)) for gradient in gradients)
    meant = gradients.sum(axis=0)
    assert np.abs(arrived - meant).max() < 0.1 * np.abs(without - meant).max()


def test_feedback_goes_on_from_a_checkpoint_and_knows_shapes() -> None:
    config, feedback = CompressConfig("min_max", 1, error_feedback=True), Feedback()
    compress("g", np.array([0, 0.4, 1], np.float32), config, feedback)
    assert feedback.content()["g"].tolist() == pytest.approx([0, 0.4, 0])
    other = Feedback()
    other.take_up(feedback.content())
    both = [expand(compress("g", np.array([0, 0.2, 1], np.float32), config, each)) for each in (feedback, other)]
    assert both[0].tolist() == both[1].tolist() == [0, 1, 1]
    assert compress("g", np.ones(2, np.float32), config, feedback).shape == (2,)
    assert feedback.content()["g"].tolist() == [0, 0]
    compress("h", np.ones(2, np.float32), config.activations, feedback)
    assert set(feedback.content()) == {"g"}
