"""Private stays private, whatever is computed from it; only `reveal` unwraps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flps.errors import PrivacyError
from flps.frames import encode
from flps.message import VERSION, Envelope, Push, Start
from flps.packing import RowType, pack
from flps.privacy import PrivateArray, conceal, owner_of, reveal

ROWS = conceal(np.arange(6, dtype=np.float32).reshape(3, 2), "users")
PLAIN = np.ones((3, 2), np.float32)

DERIVED: dict[str, Any] = {
    "itself": ROWS,
    "view": ROWS.view(),
    "slice": ROWS[1:],
    "picked": ROWS[[0, 2]],
    "row": ROWS[0],
    "masked": ROWS[np.array([True, False, True])],
    "reshaped": ROWS.reshape(-1),
    "transposed": ROWS.T,
    "copy": ROWS.copy(),
    "astype": ROWS.astype(np.float64),
    "plus": ROWS + 1,
    "plus plain": PLAIN + ROWS,
    "minus self": ROWS - ROWS,
    "sum of rows": ROWS.sum(axis=0),
    "mean": np.mean(ROWS, axis=1),
    "matmul": ROWS @ PLAIN.T,
    "take": np.take(ROWS, [0], axis=0),
    "concatenated": np.concatenate([PLAIN, ROWS]),
    "stacked": np.stack([ROWS, ROWS]),
    "vstack": np.vstack([PLAIN, ROWS]),
    "where": np.where(PLAIN > 0, ROWS, PLAIN),
    "einsum": np.einsum("ij->i", ROWS),
    "unique": np.unique(ROWS),
    "reduceat": np.add.reduceat(ROWS, [0, 2]),
    "broadcast": np.broadcast_to(ROWS, (2, 3, 2)),
    "split": np.split(ROWS, 3)[1],
    "ascontiguousarray": np.ascontiguousarray(ROWS),
    "asarray": np.asarray(ROWS),
    "asarray of a slice": np.asarray(ROWS[1:])[:, :1],
    "revealed": reveal(ROWS),
    "clipped in place": np.clip(ROWS, 0, 1, out=ROWS.copy()),
}


@pytest.mark.parametrize("what", DERIVED)
def test_everything_made_of_private_rows_names_their_owner(what: str) -> None:
    assert owner_of(DERIVED[what]) == "users"


@pytest.mark.parametrize("what", [w for w in DERIVED if "array" not in w and w != "revealed"])
def test_and_is_of_the_type(what: str) -> None:
    assert type(DERIVED[what]) is PrivateArray


@pytest.mark.parametrize("plain", [PLAIN, PLAIN[:1], PLAIN + 1, np.empty(0), 3, None, "users", [PLAIN], {"a": PLAIN}])
def test_what_is_plain_has_no_owner(plain: Any) -> None:
    assert owner_of(plain) is None


def test_owners_are_found_in_nests() -> None:
    assert owner_of([PLAIN, {"deep": (PLAIN, ROWS)}]) == "users"


def test_private_rows_are_not_written_into_plain_arrays() -> None:
    plain = PLAIN.copy()
    with pytest.raises(PrivacyError, match="table 'users' is private"):
        plain += ROWS
    with pytest.raises(PrivacyError, match="table 'users' is private"):
        np.add(ROWS, 1, out=plain)
    assert np.array_equal(plain, PLAIN)


def test_computing_gives_the_same_numbers_as_plain_arrays() -> None:
    plain = reveal(ROWS)
    assert np.array_equal(reveal(np.sqrt(ROWS) * 2), np.sqrt(plain) * 2)
    own = ROWS.copy()
    own += 1
    np.add.at(own, [0], 1)
    assert type(own) is PrivateArray
    assert np.array_equal(reveal(own), plain + np.array([[2], [1], [1]]))
    parts = np.divmod(ROWS, 2)
    assert [owner_of(part) for part in parts] == ["users", "users"]


def test_reveal_and_conceal_copy_nothing() -> None:
    plain = PLAIN.copy()
    private = conceal(plain, "users")
    assert np.shares_memory(plain, private)
    assert np.shares_memory(reveal(private), plain)
    assert type(reveal(private)) is np.ndarray
    assert owner_of(plain) is None


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("rows", [ROWS, ROWS.reshape(-1)], ids=["rows", "dense"])
def test_packing_hides_nothing_from_the_encoder(rows: Any, kind: RowType) -> None:
    push = Push(0, np.arange(len(rows), dtype=np.uint64), pack(rows, kind))
    with pytest.raises(PrivacyError, match="'users' is private"):
        encode(Envelope(VERSION, "run", "worker:0", 1, 1, Start((push,))))
