"""The different ones of many keys or slots, sorted.

Law: the answer is that of `np.unique`, bit for bit. Where the keys are known to be small, marking them in an array
takes a third of the time of sorting them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flps.table.index import Slots

Whole = TypeVar("Whole", np.int64, np.uint64)
_MARKS_A_KEY = 64  # marking costs by the bound, sorting by the keys: about here they cost the same


def distinct(keys: NDArray[Whole], bound: int | None) -> tuple[NDArray[Whole], NDArray[np.int64]]:
    """Each key of `keys` (N,) once, sorted (M,), and where in them each key stands (N,).

    bound: keys are said to be below it; None when nothing is known. A key that is not below it is found all the same.
    """
    if not _is_small(keys, bound):
        once, places = np.unique(keys, return_inverse=True)
        return once, places.astype(np.int64, copy=False)
    assert bound is not None
    index = keys.view(np.int64)
    marked = _marked([index], bound)
    place = np.empty(bound, np.int64)
    place[marked] = np.arange(marked.size)
    return marked.view(keys.dtype), place[index]


def union(parts: Sequence[Slots]) -> Slots:
    """Each slot that stands in any of the arrays once, sorted."""
    parts = [part for part in parts if part.size]
    bound = 1 + max((int(part.max()) for part in parts), default=-1)
    if bound > _MARKS_A_KEY * sum(part.size for part in parts):
        return np.unique(np.concatenate(parts))
    return _marked(parts, bound)


def _is_small(keys: NDArray[Any], bound: int | None) -> bool:
    """Whether every key is below the bound, and the bound is worth an array."""
    return bound is not None and keys.size * _MARKS_A_KEY >= bound > 0 and int(keys.view(np.uint64).max()) < bound


def _marked(parts: Sequence[Slots], bound: int) -> Slots:
    marks = np.zeros(bound, bool)
    for part in parts:
        marks[part] = True
    return np.flatnonzero(marks)
