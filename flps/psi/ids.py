"""The id column of a table as points, and what happens to ids that are there twice or not at all.

Law 1: an id is text: `curve.normal`. Whole numbers become their decimal digits; anything else is refused by its type,
since two parties would not write it alike (1.0 or 1, True or 1).
Law 2: empty ids and duplicates are refused, with their count and the first of them, unless the caller says what else.
Law 3: the ids themselves are not kept: 32 bytes and a row number stay of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from flps.errors import DataError
from flps.psi.curve import POINT_BYTES, Points, normal, to_points
from flps.psi.protocol import Positions

Duplicates: TypeAlias = Literal["refuse", "first"]
Empty: TypeAlias = Literal["refuse", "drop"]
_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Ids:
    """A party's ids, ready to be aligned."""

    points: Points  # (N, 32), each once
    rows: Positions  # (N,) row of the table that each came from, ascending
    table_rows: int
    empty: int  # rows dropped, since their id is empty
    repeated: int  # rows dropped, since an earlier one has the same id


def text_of(value: Any, where: str = "") -> str:
    """An id as text; "" for one that is not there. Raises DataError for a type that has no one way to be written."""
    if isinstance(value, str):
        return normal(value)
    if value is None or type(value).__name__ == "NAType" or value != value:  # also NaN; pandas' NA is no truth value
        return ""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise DataError(
        f"{where}an id is a {type(value).__name__}; ids are text or whole numbers, since others may be written in "
        "several ways: turn the column into text first"
    )


def read_ids(
    chunks: Iterable[Sequence[Any]], where: str, duplicates: Duplicates = "refuse", empty: Empty = "refuse"
) -> Ids:
    """The ids of a column that comes in pieces. `where`: what to call it in complaints.

    Raises DataError for empty ids and duplicates that are to be refused, and for ids that are neither text nor numbers.
    """
    points, rows, empties = _read(chunks, where)
    total = sum(map(len, rows)) + len(empties)
    if empties and empty == "refuse":
        shown = ", ".join(map(str, empties[:_EXAMPLES]))
        raise DataError(
            f"{where}: {len(empties)} of {total} ids are empty, in rows {shown} (from 0); drop them, or say so"
        )
    all_points = np.concatenate([np.empty((0, POINT_BYTES), np.uint8), *points])
    all_rows = np.concatenate([np.empty(0, np.int64), *rows])
    first = _first_of_each(all_points)
    repeated = len(all_points) - len(first)
    if repeated and duplicates == "refuse":
        raise DataError(_complaint(all_points, all_rows, first, where))
    if repeated:
        all_points, all_rows = all_points[first], all_rows[first]
    return Ids(all_points, all_rows, total, len(empties), repeated)


def _read(chunks: Iterable[Sequence[Any]], where: str) -> tuple[list[Points], list[Positions], list[int]]:
    points, rows, empties, at = [], [], [], 0
    for chunk in chunks:
        texts = list(_texts(chunk, where))
        here = np.array([bool(text) for text in texts], np.bool_)
        points.append(to_points([text for text in texts if text]))
        rows.append(at + np.flatnonzero(here))
        empties += (at + np.flatnonzero(~here)).tolist()
        at += len(texts)
    return points, rows, empties


def _texts(chunk: Sequence[Any], where: str) -> Iterator[str]:
    for value in chunk:
        yield text_of(value, f"{where}: ")


def _order(points: Points) -> tuple[Positions, Any]:
    """An order in which equal points stand together, the first row first; and the points as (N, 4) numbers."""
    words = np.ascontiguousarray(points).view("<u8")
    return np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0])), words


def _first_of_each(points: Points) -> Positions:
    """Ascending positions of points that have no equal before them."""
    if not len(points):
        return np.empty(0, np.int64)
    order, words = _order(points)
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    return np.sort(order[is_new])


def _complaint(points: Points, rows: Positions, first: Positions, where: str) -> str:
    again = np.setdiff1d(np.arange(len(points)), first, assume_unique=True)[:_EXAMPLES]
    pairs = []
    for position in again:
        earlier = int(np.flatnonzero((points[:position] == points[position]).all(axis=1))[0])
        pairs.append(f"{rows[position]} (as in row {rows[earlier]})")
    count = len(points) - len(first)
    return (
        f"{where}: {count} of {len(points)} rows repeat the id of an earlier one: rows {', '.join(pairs)}, from 0; "
        "an id names one row. Keep the first of each by duplicates: first, or clean the table"
    )
