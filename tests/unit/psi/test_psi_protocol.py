"""The protocol of two parties without links and processes: what comes out, what is refused, what is said."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import ConfigError, ProtocolError
from flps.psi import curve
from flps.psi.message import Blinded, Closing, Doubled, Greeting, Message, Reveal, Stop, Wanted
from flps.psi.protocol import Alignment, Multiply, Side, Terms, digest_of, match

pytest.importorskip("cryptography")

Change = Callable[[Message], Message]
IDS = st.lists(st.text(min_size=1, max_size=12).map(curve.normal).filter(bool), unique=True, max_size=12)
U_OF_LOW_ORDER = (  # the points of order 1, 2, 4 and 8 on the curve and its twist, below the prime
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
)


class Table:
    """Two parties at one table: everything that is said goes through `change`, and into `said`."""

    def __init__(self, leader: Side, follower: Side, change: Change = lambda message: message) -> None:
        self.sides = (leader, follower)
        self.said: list[tuple[int, Message]] = []
        self._change = change

    def play(self) -> tuple[Alignment, Alignment]:
        """Until nothing is left to be done; Raises what a party raises."""
        todo = deque((number, step) for number, side in enumerate(self.sides) for step in side.start())
        while todo:
            number, step = todo.popleft()
            if isinstance(step, Multiply):
                products = curve.multiply(self.sides[number].key, step.points.tobytes())
                array = np.frombuffer(products, np.uint8).reshape(-1, 32)
                todo.extend((number, more) for more in self.sides[number].multiplied(step, array))
            else:
                message = self._change(step.message)
                self.said.append((number, message))
                todo.extend((1 - number, more) for more in self.sides[1 - number].received(message))
        return self.sides[0].alignment, self.sides[1].alignment


def side(role: str, ids: Iterable[str], **terms: Any) -> Side:
    return Side(Terms(role, **terms), curve.to_points(list(ids)))  # type: ignore[arg-type]


def align(
    leader: list[str], follower: list[str], reveal: Reveal = "both", chunk_rows: int = 3, cover: float = 1.0
) -> tuple[Alignment, Alignment]:
    ends = (
        side("leader", leader, reveal=reveal, chunk_rows=chunk_rows, cover=cover),
        side("follower", follower, reveal=reveal, chunk_rows=chunk_rows),
    )
    return Table(*ends).play()


@settings(max_examples=60)
@given(IDS, IDS, IDS, st.integers(1, 5))
def test_both_get_the_intersection_and_nothing_else_in_one_order(
    common: list[str], more: list[str], others: list[str], chunk_rows: int
) -> None:
    leader = list(dict.fromkeys([*common, *more]))
    follower = list(dict.fromkeys([*others, *common]))
    here, there = align(leader, follower, chunk_rows=chunk_rows)
    assert [leader[row] for row in here.rows] == [follower[row] for row in there.rows]
    assert {leader[row] for row in here.rows} == set(leader) & set(follower)
    assert len(set(here.rows)) == len(here.rows) == here.matched == there.matched
    assert here.digest == there.digest


@settings(max_examples=40)
@given(IDS, IDS, IDS, st.sampled_from([0.0, 0.5, 1.0]))
def test_a_follower_that_is_not_to_know_gets_the_rows_that_are_asked_for(
    common: list[str], more: list[str], others: list[str], cover: float
) -> None:
    leader = list(dict.fromkeys([*common, *more]))
    follower = list(dict.fromkeys([*others, *common]))
    here, there = align(leader, follower, "leader", cover=cover)
    both = set(leader) & set(follower)
    assert len(here.rows) == len(there.rows) == len(both) + round(cover * (len(follower) - len(both)))
    for own, theirs in zip(here.rows, there.rows, strict=True):
        assert (leader[own] if own >= 0 else None) == (follower[theirs] if follower[theirs] in both else None)
    assert here.matched == len(both)
    assert there.matched is None
    assert here.digest == there.digest


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0), (1, 1), (200, 31)])
@pytest.mark.parametrize("reveal", ["both", "leader"])
def test_sizes(sizes: tuple[int, int], reveal: Reveal) -> None:
    leader, follower = [f"a{n}" for n in range(sizes[0])], [f"a{n}" for n in range(0, 2 * sizes[1], 2)]
    here, there = align(leader, follower, reveal, chunk_rows=64)
    assert here.matched == len(set(leader) & set(follower))
    assert here.digest == there.digest
    assert len(here.rows) == len(there.rows)


def test_two_runs_have_nothing_in_common_but_the_result() -> None:
    ids = [f"patient {number}" for number in range(50)]
    first, second = Table(side("leader", ids), side("follower", ids)), Table(side("leader", ids), side("follower", ids))
    one, other = first.play()[0], second.play()[0]
    assert set(one.rows) == set(other.rows)
    assert one.digest != other.digest
    assert not points_of(first) & points_of(second)


def points_of(table: Table) -> set[bytes]:
    said = [message.points for _, message in table.said if isinstance(message, Blinded | Doubled)]
    return {row.tobytes() for points in said for row in points}


@pytest.mark.parametrize("reveal", ["both", "leader"])
def test_no_id_and_no_hash_of_one_is_said(reveal: Reveal) -> None:
    leader, follower = [f"patient-{n:06}" for n in range(40)], [f"patient-{n:06}" for n in range(20, 60)]
    table = Table(side("leader", leader, reveal=reveal), side("follower", follower, reveal=reveal))
    table.play()
    said = b"\n".join(
        msgspec.msgpack.encode(message, enc_hook=lambda array: array.tobytes()) for _, message in table.said
    )
    for text, point in zip([*leader, *follower], curve.to_points([*leader, *follower]), strict=True):
        assert text.encode() not in said
        assert text[-6:].encode() not in said
        assert point.tobytes() not in said


def test_what_is_said_has_the_size_that_the_numbers_of_rows_give_it() -> None:
    table = Table(side("leader", ["a", "b", "c"]), side("follower", ["c", "d"]))
    table.play()
    kinds = [(number, type(message)) for number, message in table.said]
    assert sorted(kinds, key=str) == sorted(
        [(number, kind) for number in (0, 1) for kind in (Greeting, Blinded, Doubled, Closing)], key=str
    )


def test_a_follower_that_is_not_to_know_is_told_no_product() -> None:
    table = Table(side("leader", "abcdef", reveal="leader"), side("follower", "defghi", reveal="leader"))
    table.play()
    assert [number for number, message in table.said if isinstance(message, Doubled)] == [1]


def test_with_full_cover_the_request_is_the_same_whoever_matched() -> None:
    for leader in ("abc", "xyz"):
        table = Table(side("leader", leader, reveal="leader"), side("follower", "abcdef", reveal="leader"))
        table.play()
        (wanted,) = [message for _, message in table.said if isinstance(message, Wanted)]
        assert sorted(wanted.positions.tolist()) == list(range(6))


# --- what a peer may not do ------------------------------------------------------------------------------------------


def point(number: int) -> bytes:
    return number.to_bytes(32, "little")


def with_first_point(kind: type[Any], number: int) -> Change:
    def change(message: Message) -> Message:
        if not isinstance(message, kind):
            return message
        points = message.points.copy()
        points[0] = np.frombuffer(point(number), np.uint8)
        return kind(message.first, points)

    return change


def refused(change: Change, reveal: Reveal = "both") -> str:
    """What is said when one kind of message is changed on its way; the parties have six and four ids, three alike."""
    sides = side("leader", "abcdef", reveal=reveal, chunk_rows=2), side("follower", "defg", reveal=reveal, chunk_rows=2)
    with pytest.raises(ProtocolError) as error:
        Table(*sides, change).play()
    return str(error.value)


@pytest.mark.parametrize("number", U_OF_LOW_ORDER)
def test_points_of_low_order_are_refused(number: int) -> None:
    assert "low order" in refused(with_first_point(Blinded, number))


@pytest.mark.parametrize("kind", [Blinded, Doubled])
@pytest.mark.parametrize("number", [2**255 - 19, 2**255 - 1, 2**255, 2**256 - 1])
def test_a_point_has_one_way_to_be_written(kind: type[Any], number: int) -> None:
    assert "not below the prime" in refused(with_first_point(kind, number))


@pytest.mark.parametrize("kind", [Blinded, Doubled])
@pytest.mark.parametrize(
    "points",
    [
        np.zeros((1, 31), np.uint8),
        np.zeros((0, 32), np.uint8),
        np.zeros((3, 32), np.uint8),
        np.zeros((1, 32), np.int8),
        np.zeros(32, np.uint8),
        b"\x09" * 32,
    ],
)
def test_points_of_another_shape_are_refused(kind: type[Any], points: Any) -> None:
    said = refused(lambda message: kind(message.first, points) if isinstance(message, kind) else message)
    assert "points" in said


@pytest.mark.parametrize("kind", [Blinded, Doubled])
@pytest.mark.parametrize("reveal", ["both", "leader"])
def test_a_repeated_value_is_refused(kind: type[Any], reveal: Reveal) -> None:
    def change(message: Message) -> Message:
        if isinstance(message, kind) and len(message.points) == 2:
            return kind(message.first, np.repeat(message.points[:1], 2, axis=0))
        return message

    assert "came twice" in refused(change, reveal)


@pytest.mark.parametrize("kind", [Blinded, Doubled])
@pytest.mark.parametrize("by", [1, 2, 100])
def test_chunks_come_in_their_turn(kind: type[Any], by: int) -> None:
    said = refused(lambda message: kind(message.first + by, message.points) if isinstance(message, kind) else message)
    assert f"{kind.__name__} " in said
    assert "expected from 0 on" in said


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("version", 2, "version"),
        ("role", "leader", "both parties are the leader"),
        ("reveal", "leader", "reveal is both here and leader at the peer"),
        ("rows", 2**40, "at most"),
        ("rows", 1, "up to 1"),
    ],
)
def test_a_greeting_must_fit(field: str, value: Any, why: str) -> None:
    def change(message: Message) -> Message:
        if isinstance(message, Greeting) and message.role == "follower":
            return msgspec.structs.replace(message, **{field: value})
        return message

    assert why in refused(change)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([Blinded(0, np.zeros((1, 32), np.uint8))], "before a greeting"),
        ([Closing(0, "")], "before a greeting"),
        ([Greeting(1, "follower", "both", 0, 9)] * 2, "second greeting"),
        ([Greeting(1, "follower", "both", 1, 9), Closing(0, ""), Closing(0, "")], "after the peer's closing"),
        ([Greeting(1, "follower", "both", 1, 9), Doubled(0, np.ones((1, 32), np.uint8))], "up to 0"),
        ([Greeting(1, "follower", "both", 1, 9), Wanted(0, 1, np.zeros(1, np.uint64))], "Wanted came"),
        ([Stop("no more")], "the peer stopped: no more"),
    ],
)
def test_what_comes_out_of_turn_is_refused(messages: list[Message], why: str) -> None:
    leader = side("leader", "abc")
    leader.start()
    for message in messages[:-1]:
        leader.received(message)
    with pytest.raises(ProtocolError, match=why):
        leader.received(messages[-1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: Wanted(w.first, w.total, np.zeros(len(w.positions), np.uint64)), "twice"),
        (lambda w: Wanted(w.first, w.total, w.positions + np.uint64(4)), "below 4"),
        (lambda w: Wanted(w.first, w.total, w.positions.astype(np.int64)), "64-bit"),
        (lambda w: Wanted(w.first + 1, w.total, w.positions), "expected from"),
        (lambda w: Wanted(w.first, 9, w.positions), "9 rows are wanted"),
        (lambda w: Wanted(w.first, w.total + w.first, w.positions), "wanted"),
        (lambda w: Wanted(w.first, w.total, np.zeros(99, np.uint64)), "99 positions"),
    ],
)
def test_a_wrong_request_for_rows_is_refused(change: Callable[[Wanted], Wanted], why: str) -> None:
    said = refused(lambda message: change(message) if isinstance(message, Wanted) else message, "leader")
    assert why in said


def test_a_follower_that_is_not_to_know_refuses_to_be_told() -> None:
    follower = side("follower", "abc", reveal="leader")
    follower.start()
    follower.received(Greeting(1, "leader", "leader", 1, 9))
    with pytest.raises(ProtocolError, match="was told so"):
        follower.received(Doubled(0, np.ones((1, 32), np.uint8)))


def test_a_peer_that_changes_products_is_found_out_by_the_digest() -> None:
    leader, follower = side("leader", "abcdef"), side("follower", "abcdef")
    other = curve.multiply(curve.new_key(), curve.to_points(["q"]).tobytes())
    number = int.from_bytes(other, "little")
    with pytest.raises(ProtocolError, match="different alignments"):
        Table(leader, follower, with_first_point(Doubled, number)).play()


# --- pieces ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(min_size=2, max_size=2), unique=True), st.lists(st.binary(min_size=2, max_size=2), unique=True)
)
def test_match_is_the_sorted_intersection(own: list[bytes], peer: list[bytes]) -> None:
    def table(values: list[bytes]) -> curve.Points:
        return np.frombuffer(b"".join(v[:1] + bytes(30) + v[1:] for v in values), np.uint8).reshape(-1, 32)

    left, right = match(table(own), table(peer))
    assert [own[at] for at in left] == [peer[at] for at in right] == sorted(set(own) & set(peer))


def test_the_digest_is_of_the_order() -> None:
    assert digest_of(np.array([1, 2])) == digest_of(np.array([1, 2])) != digest_of(np.array([2, 1]))


def test_terms_must_make_sense() -> None:
    terms = Terms("leader")
    for wrong in ({"cover": 1.5}, {"cover": -1.0}, {"chunk_rows": 0}, {"chunk_rows": 10**6}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(terms, **wrong)  # type: ignore[arg-type]


def test_curve_multiplication_is_rfc_7748s() -> None:
    """The first vector of section 5.2; and the numbers commute, on the curve and on its twist."""
    number = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    given_point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert curve.multiply(number, given_point).hex() == product
    rng = random.Random(1)
    points = curve.to_points([str(rng.random()) for _ in range(40)])
    one, two = curve.new_key(), curve.new_key()
    there = curve.multiply(one, curve.multiply(two, points.tobytes()))
    assert there == curve.multiply(two, curve.multiply(one, points.tobytes()))


def test_an_id_has_one_form() -> None:
    assert curve.normal("  caf\u0065\u0301 \n") == curve.normal("caf\u00e9") == "caf\u00e9"
    assert curve.normal("Ab 01") == "Ab 01"
    assert (curve.to_points(["a", "b"])[:, -1] <= 0x7F).all()
