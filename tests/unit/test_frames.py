"""Every message comes back as it was sent; whatever is not a message ends in ProtocolError and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import typing
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flps import message as m
from flps.errors import ConfigError, PrivacyError, ProtocolError
from flps.frames import HEADER_BYTES_MAX, Limits, decode, encode
from flps.privacy import conceal, reveal

LIMITS = Limits(frames=64, frame_bytes=1 << 16)
KINDS = ["<f4", "<f8", "<u8", "<i8", "|u1"]
COUNT = st.integers(0, 2**53)
NAME = st.text(max_size=20)
TENSOR = st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)))  # fmt: skip  # noqa: E501
KEYS = arrays.arrays("<u8", st.integers(0, 4))
PUSHES = st.lists(st.builds(m.Push, COUNT, st.none() | KEYS, TENSOR, st.none() | TENSOR), max_size=3).map(tuple)
PULLS = st.lists(st.builds(m.Pull, COUNT, st.none() | KEYS), max_size=3).map(tuple)
REPORT = st.builds(m.Report, st.dictionaries(NAME, TENSOR, max_size=2), st.dictionaries(NAME, NAME, max_size=2))
TABLE = st.dictionaries(NAME, st.none() | st.integers(-(2**63), 2**63) | NAME | st.floats(allow_nan=False), max_size=4)
CURSORS = st.dictionaries(COUNT, COUNT, max_size=3)
UNIT = st.floats(0, 1)
NAMES = st.lists(NAME, max_size=3).map(tuple)

MODE = st.sampled_from(["all", "delta", "base", "batch"])
CUT = st.builds(m.Cut, NAME, COUNT, COUNT, st.lists(COUNT, max_size=3).map(tuple), NAMES)
WAY = st.builds(m.Way, NAME, st.tuples(COUNT, COUNT), st.tuples(COUNT, COUNT), COUNT, COUNT)
RAW = st.lists(arrays.arrays("|u1", st.integers(0, 9)), max_size=2).map(tuple)
SHAPE = st.lists(st.integers(0, 5), max_size=4).map(tuple)
PIECES = st.lists(
    st.builds(m.Piece, NAME, NAME, st.sampled_from(["f4", "bf16"]), SHAPE, RAW, st.none() | TABLE), max_size=3
).map(tuple)
BODIES: dict[type, Any] = {
    m.Declare: st.builds(m.Declare, st.lists(TABLE, max_size=2).map(tuple)),
    m.Declared: st.builds(m.Declared, st.lists(COUNT, max_size=3).map(tuple)),
    m.Start: st.builds(m.Start, PUSHES),
    m.Look: st.builds(m.Look, PULLS),
    m.Update: st.builds(m.Update, COUNT, COUNT, COUNT, st.booleans(), PUSHES, PULLS),
    m.Rows: st.builds(m.Rows, st.lists(TENSOR, max_size=3).map(tuple), UNIT),
    m.Window: st.builds(m.Window, COUNT, COUNT, st.booleans(), PUSHES, CURSORS),
    m.Changes: st.builds(m.Changes, UNIT, PUSHES, CURSORS),
    m.Detach: st.just(m.Detach()),
    m.Save: st.builds(m.Save, COUNT, MODE),
    m.Settle: st.builds(m.Settle, COUNT, MODE),
    m.Shrink: st.builds(m.Shrink, COUNT, st.booleans()),
    m.Saved: st.builds(m.Saved, st.dictionaries(NAME, NAME, max_size=3)),
    m.Cut: CUT,
    m.Hello: st.builds(m.Hello, NAME),
    m.Beat: st.builds(m.Beat, st.none() | st.builds(m.Wrote, NAME, NAME, NAME, NAME)),
    m.Pulse: st.builds(m.Pulse, NAMES, NAME, NAME),
    m.Arrive: st.builds(m.Arrive, NAME, REPORT),
    m.Release: st.builds(m.Release, REPORT, st.lists(COUNT, max_size=3).map(tuple), NAME, st.none() | CUT),
    m.Leave: st.just(m.Leave()),
    m.Done: st.just(m.Done()),
    m.Refusal: st.builds(m.Refusal, NAME),
    m.Sign: st.builds(m.Sign, WAY, COUNT, COUNT, st.none() | NAME, NAME),
    m.Parcel: st.builds(m.Parcel, WAY, st.integers(1, 2**53), st.none() | COUNT, PIECES, NAME),
}
ENVELOPE = st.one_of(*BODIES.values()).flatmap(
    lambda body: st.builds(m.Envelope, st.just(m.VERSION), NAME, NAME, COUNT, COUNT, st.just(body))
)


def wire(envelope: m.Envelope) -> list[bytes]:
    return [bytes(memoryview(frame).cast("B")) if memoryview(frame).nbytes else b"" for frame in encode(envelope)]


def of(body: Any) -> m.Envelope:
    return m.Envelope(m.VERSION, "run", "worker:3", 1, 7, body)


def same(one: Any, two: Any) -> bool:
    """Equal, with arrays compared bit for bit, type and shape included."""
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and (one.dtype, one.shape, one.tobytes()) == (
            two.dtype,
            two.shape,
            two.tobytes(),
        )
    if isinstance(one, msgspec.Struct):
        fields = one.__struct_fields__
        return type(one) is type(two) and all(same(getattr(one, f), getattr(two, f)) for f in fields)
    if isinstance(one, tuple):
        return isinstance(two, tuple) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    return type(one) is type(two) and bool(one == two)


SAMPLE = of(
    m.Update(
        1, 2, 3, True,
        (m.Push(0, np.arange(3, dtype=np.uint64), np.ones((3, 2), np.float32)), m.Push(1, None, np.ones(5))),
        (m.Pull(0, np.arange(2, dtype=np.uint64)), m.Pull(1, None)),
    )
)  # fmt: skip


# --- round trip ------------------------------------------------------------------------------------------------------


def test_every_body_is_tried() -> None:
    assert set(BODIES) == set(typing.get_args(m.Body))


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@given(chance=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(kind: type, chance: st.DataObject) -> None:
    envelope = of(chance.draw(BODIES[kind]))
    frames = wire(envelope)
    assert same(decode(frames, LIMITS), envelope)
    assert wire(decode(frames, LIMITS)) == frames


@pytest.mark.parametrize("dtype", [">f4", ">u8", "<i8", "=f8"])
def test_tensors_are_little_endian_on_the_wire_and_any_layout_may_be_sent(dtype: str) -> None:
    value = np.arange(24).astype(dtype).reshape(4, 6)
    for array in (value, value.T, value[::2, ::3], value[:, :0], value[1]):
        (came,) = decode(wire(of(m.Rows((array,)))), LIMITS).body.values  # type: ignore[union-attr]
        assert np.array_equal(came, array)
        assert came.dtype == np.dtype(dtype).newbyteorder("<")


def test_decoded_tensors_are_views_of_the_frames() -> None:
    frames = wire(SAMPLE)
    push = decode(frames, LIMITS).body.pushes[0]  # type: ignore[union-attr]
    assert push.values.base is not None
    assert not push.values.flags.writeable


@pytest.mark.parametrize(
    "value", [np.array([{}]), np.array(["a"]), np.zeros(2, bool), np.zeros(2, np.complex128), np.zeros(2, np.float16),
              np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), np.array([b"x"]), np.zeros((1,) * 5)]
)  # fmt: skip
def test_what_is_no_plain_tensor_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(of(m.Rows((value,))))


@pytest.mark.parametrize("value", [object(), np.float32(1), {1, 2}.__iter__(), lambda: 0])
def test_no_objects_are_written(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(of(m.Declare(({"a": value},))))


# --- cut, stretched, mangled -----------------------------------------------------------------------------------------


@given(ENVELOPE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cut_is_refused(envelope: m.Envelope) -> None:
    frames = wire(envelope)
    for end in range(len(frames)):
        with pytest.raises(ProtocolError):
            decode(frames[:end], LIMITS)
    for n, frame in enumerate(frames):
        for end in {*range(min(len(frame), 40)), len(frame) - 1} - {-1}:
            with pytest.raises(ProtocolError):
                decode([*frames[:n], frame[:end], *frames[n + 1 :]], LIMITS)


@given(ENVELOPE, st.binary(min_size=1, max_size=9))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_stretch_is_refused(envelope: m.Envelope, more: bytes) -> None:
    frames = wire(envelope)
    for n, frame in enumerate(frames):
        with pytest.raises(ProtocolError):
            decode([*frames[:n], frame + more, *frames[n + 1 :]], LIMITS)
        with pytest.raises(ProtocolError):
            decode([*frames[: n + 1], more, *frames[n + 1 :]], LIMITS)


def test_swapped_and_doubled_frames_are_refused() -> None:
    header, *tensors = wire(SAMPLE)
    for mixed in ([header, *tensors[::-1]], [header, *tensors, tensors[0]], [header, tensors[0], *tensors], [*tensors]):
        with pytest.raises(ProtocolError):
            decode(mixed, LIMITS)


@given(ENVELOPE, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_headers_are_refused_or_are_other_messages(
    envelope: m.Envelope, changes: list[tuple[int, int]]
) -> None:
    header, *tensors = wire(envelope)
    mangled = bytearray(header)
    for place, byte in changes:
        mangled[place % len(mangled)] = byte
    try:
        came = decode([bytes(mangled), *tensors], LIMITS)
    except ProtocolError:
        return
    assert isinstance(came, m.Envelope)


@given(st.lists(st.binary(max_size=200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(frames, LIMITS)


# --- what a peer says of its tensors ---------------------------------------------------------------------------------


def header_with(tensor: Any) -> bytes:
    body = {"type": "rows", "values": [tensor]}
    return msgspec.msgpack.encode([m.VERSION, "run", "worker:0", 1, 1, body])


@pytest.mark.parametrize(
    "tensor",
    [
        [1, "f4", [3]], [1, "f4", [2, 2**47]], [1, "f4", [2**62]], [1, "f4", [-2]], [1, "f4", [-1, -2]],
        [1, "f4", [1, 1, 1, 1, 2]], [1, "f4", [True, 2]], [1, "f4", [2.0]], [1, "f4", 2], [1, "O", [1]],
        [1, "V8", [1]], [1, ">f4", [2]], [1, "f2", [4]], [1, "", [2]], [1, "f4", []], [1, "f4"], [0, "f4", [2]],
        [2, "f4", [2]], [-1, "f4", [2]], ["1", "f4", [2]], [1, None, [2]], {}, None, 7, "x", [1, "f4", [2], 0],
        [1, "u1", [0]], [1, "f4", [0, 2**47]], [2**63, "f4", [2]],
    ],
)  # fmt: skip
def test_wrong_descriptions_of_eight_bytes_are_refused(tensor: Any) -> None:
    decode([header_with([1, "f4", [2]]), bytes(8)], LIMITS)
    with pytest.raises(ProtocolError):
        decode([header_with(tensor), bytes(8)], LIMITS)


def test_empty_shapes_that_numpy_cannot_hold_are_refused() -> None:
    with pytest.raises(ProtocolError):
        decode([header_with([1, "f8", [0, 2**47, 2**47]]), b""], LIMITS)


LENGTHS = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\x00\x0f\xff\xff" + bytes(999)]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("kind", "field"), [("rows", "values"), ("look", "pulls"), ("declare", "tables"), ("saved", "files"),
                        ("refusal", "reason"), ("arrive", "report"), ("pulse", "lost")]
)  # fmt: skip
def test_lengths_that_lie_allocate_nothing(kind: str, field: str, length: bytes) -> None:
    pack = msgspec.msgpack.encode
    body = b"\x82" + pack("type") + pack(kind) + pack(field) + length
    header = b"\x96" + pack([m.VERSION, "run", "worker:0", 1, 1])[1:] + body
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode([header], LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_deep_nests_are_refused() -> None:
    pack = msgspec.msgpack.encode
    nest = b"\x82" + pack("type") + pack("declare") + pack("tables") + b"\x91\x81" + pack("a") + b"\x91" * 60_000
    with pytest.raises(ProtocolError):
        decode([b"\x96" + pack([m.VERSION, "run", "w:0", 1, 1])[1:] + nest], LIMITS)


# --- limits and version ----------------------------------------------------------------------------------------------


def test_limits() -> None:
    frames = wire(of(m.Rows((np.zeros(3, np.float32),) * 3)))
    decode(frames, Limits(frames=4, frame_bytes=len(frames[0])))
    with pytest.raises(ProtocolError, match="a message has 1 to 3 frames, got 4"):
        decode(frames, Limits(frames=3))
    with pytest.raises(ProtocolError, match="over the limits"):
        decode(frames, Limits(frame_bytes=11))
    with pytest.raises(ProtocolError, match="got 0"):
        decode([], LIMITS)
    with pytest.raises(ProtocolError, match="over the limits"):
        decode([bytes(HEADER_BYTES_MAX + 1)], Limits())


@pytest.mark.parametrize("body", [m.Rows((np.zeros(9),)), m.Rows((np.zeros(1),) * 4), m.Refusal("x" * 99)])
def test_what_peers_would_not_take_is_not_written(body: Any) -> None:
    with pytest.raises(ConfigError, match=r"over (network\.frame_bytes_max|the limits)"):
        encode(of(body), Limits(frames=4, frame_bytes=64))


@pytest.mark.parametrize("body", [m.Refusal("x" * 4097), m.Pulse(("x" * 257,), ""), m.Saved({"x" * 257: ""})])
def test_long_names_are_refused(body: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(wire(of(body)), LIMITS)


@pytest.mark.parametrize("number", [-1, 2**53 + 1])
def test_counts_out_of_range_are_refused(number: int) -> None:
    with pytest.raises(ProtocolError):
        decode(wire(of(m.Declared((number,)))), LIMITS)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_by_its_number(version: int) -> None:
    envelope = msgspec.structs.replace(SAMPLE, version=version)
    with pytest.raises(ProtocolError, match=f"this is protocol version 1, the peer speaks {version}"):
        decode(wire(envelope), LIMITS)


def test_another_version_is_named_even_when_it_says_things_unheard_of() -> None:
    header = msgspec.msgpack.encode([2, "run", "worker:0", 1, 1, {"type": "teleport"}, "and more"])
    with pytest.raises(ProtocolError, match="this is protocol version 1, the peer speaks 2"):
        decode([header], LIMITS)


# --- privacy ---------------------------------------------------------------------------------------------------------

ROWS = np.ones((3, 2), np.float32)
HOLDERS: dict[str, Any] = {
    "push": lambda t: m.Update(0, 0, 1, True, (m.Push(0, None, t),), ()),
    "push keys": lambda t: m.Update(0, 0, 1, True, (m.Push(0, t, ROWS),), ()),
    "pull keys": lambda t: m.Look((m.Pull(0, t),)),
    "pull keys of a step": lambda t: m.Update(0, 0, 1, True, (), (m.Pull(0, t),)),
    "start": lambda t: m.Start((m.Push(0, None, t),)),
    "rows": lambda t: m.Rows((ROWS, t)),
    "window": lambda t: m.Window(0, 1, False, (m.Push(0, None, ROWS), m.Push(1, None, t)), {}),
    "changes": lambda t: m.Changes(1.0, (m.Push(0, None, t),), {}),
    "arrive": lambda t: m.Arrive("trained 0", m.Report({"loss": t})),
    "release": lambda t: m.Release(m.Report({"loss": t}), ()),
    "declare": lambda t: m.Declare(({"first": t},)),
}
MADE: dict[str, Any] = {
    "itself": lambda p: p,
    "view": lambda p: p.view(),
    "slice": lambda p: p[1:, :1],
    "sum": lambda p: p.sum(axis=0) + 1,
    "joined": lambda p: np.concatenate([ROWS, p]),
    "ascontiguousarray": np.ascontiguousarray,
    "asarray": np.asarray,
    "revealed": reveal,
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("holder", HOLDERS)
def test_nothing_private_is_written_and_the_owner_is_named(holder: str, made: str) -> None:
    encode(of(HOLDERS[holder](ROWS)))
    private = MADE[made](conceal(ROWS.copy(), "user_embedding"))
    with pytest.raises(PrivacyError, match="table 'user_embedding' is private: its rows may not leave this process"):
        encode(of(HOLDERS[holder](private)))


AT_ONCE = """
import sys, threading
import flps.message as m
from flps.frames import Limits, decode, encode
sys.setswitchinterval(1e-6)
envelope = m.Envelope(m.VERSION, "run", "worker:1", 1, 1, m.Look(()))
frames, barrier, read = encode(envelope), threading.Barrier(4), []

def take():
    barrier.wait()
    read.append(decode(frames, Limits()))

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert read == [envelope] * 4
"""


def test_several_threads_may_read_the_first_message_of_a_process() -> None:
    """msgspec works out types when they are first read; two threads doing so at once crashed one process in three."""
    for _ in range(5):
        ran = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, (ran.returncode, ran.stderr)
