"""The different ones of many keys or slots.

Law: the answer depends on the keys alone. Where they are known to be small, an array of their range that notes who
came takes a third of the time of sorting them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flps.table.index import Slots

Whole = TypeVar("Whole", np.int64, np.uint64)
_MARKS_A_KEY = 64  # marking costs by the bound, sorting by the keys: about here they cost the same


def distinct(keys: NDArray[Whole], bound: int | None) -> tuple[NDArray[Whole], NDArray[np.int64]]:
    """Each key of `keys` (N,) once (M,), in an order of no meaning, and where in them each key stands (N,).

    bound: keys are said to be below it; None when nothing is known. A key that is not below it is found all the same.
    """
    return distinct_each([keys], bound)[0]


def distinct_each(parts: Sequence[NDArray[Whole]], bound: int | None) -> list[tuple[NDArray[Whole], NDArray[np.int64]]]:
    """`distinct` of each of several arrays; of many small ones at once it costs little more than of one."""
    whole = np.concatenate(parts)
    if bound is None or not _is_small(whole, bound, len(parts)):
        return [_sorted(keys) for keys in parts]
    sizes: list[int] = [keys.size for keys in parts]
    index = whole.view(np.int64)
    if len(parts) > 1:
        index = index + np.repeat(np.arange(len(parts)) * bound, sizes)
    numbers = np.arange(whole.size)
    place = np.empty(len(parts) * bound, np.int64)
    place[index] = numbers  # of those with one key the last one stays
    last = (place.take(index) == numbers).nonzero()[0]
    once = whole.take(last)
    place[index.take(last)] = numbers[: last.size]
    places = place.take(index)
    edges = [0, *itertools.accumulate(sizes)]
    firsts = np.searchsorted(last, edges).tolist()
    return [(once[firsts[n] : firsts[n + 1]], places[edges[n] : edges[n + 1]] - firsts[n]) for n in range(len(parts))]


def union(parts: Sequence[Slots]) -> Slots:
    """Each slot that stands in any of the arrays once, sorted."""
    parts = [part for part in parts if part.size]
    bound = 1 + max((int(part.max()) for part in parts), default=-1)
    if bound > _MARKS_A_KEY * sum(part.size for part in parts):
        return np.unique(np.concatenate(parts))
    return _marked(parts, bound)


def _sorted(keys: NDArray[Whole]) -> tuple[NDArray[Whole], NDArray[np.int64]]:
    once, places = np.unique(keys, return_inverse=True)
    return once, places.astype(np.int64, copy=False)


def _is_small(keys: NDArray[Any], bound: int, parts: int) -> bool:
    """Whether every key is below the bound, and the bound is worth an array for each part."""
    return keys.size * _MARKS_A_KEY >= parts * bound > 0 and int(keys.view(np.uint64).max()) < bound


def _marked(parts: Sequence[Slots], bound: int) -> Slots:
    marks = np.zeros(bound, bool)
    for part in parts:
        marks[part] = True
    return np.flatnonzero(marks)
