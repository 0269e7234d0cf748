"""From text to (id, weight): what is learned of the training rows, and what it makes of any row.

A number is the id of its column with the weight value / (largest value of the column); a missing one weighs 0. A
category has weight 1 and an id of its own if it occurs more than `threshold` times, else the id of its column's rest.
Ids: one per number column, one per category column for its rest, then the frequent categories of the first category
column in the order of their first row, then those of the second, ...

Law 1: only rows that were given to `learn` leave a trace.
Law 2: a category is kept as a 64-bit hash of its text, its count and its first row, 16 bytes each, so the 33 million
different ones of the full data set take 0.5 GB. (Two texts of one column meet with a chance of 3e-5 in all.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.data.criteo_text import Categories, Layout, Lines
from flps.errors import DataError

Hashes = NDArray[np.uint64]
LARGEST_ID = 2**31 - 1


class Features(NamedTuple):
    """R rows as the nets take them."""

    labels: NDArray[np.float32]  # (R,)
    ids: NDArray[np.int32]  # (R, F)
    values: NDArray[np.float32]  # (R, F)


def hashes_of(texts: NDArray[Any]) -> Hashes:
    """(C,) hashes; the same text has the same one in every run and on every machine."""
    from pandas.util import hash_array

    return hash_array(texts, categorize=False)


@dataclass
class Counts:
    """How often each category of a column occurred, and where first; sorted by hash."""

    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    firsts: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    waiting: list[tuple[Hashes, NDArray[np.uint32], NDArray[np.uint32]]] = field(default_factory=list)

    def add(self, column: Categories, row: int) -> None:
        """Count a block's column whose first row has the number `row`.

        Blocks are merged when they have together as much as was merged before, so a row is moved log(n) times.
        """
        counts = np.bincount(column.codes, minlength=len(column.texts)).astype(np.uint32)
        firsts = np.full(len(counts), len(column.codes), np.int64)
        np.minimum.at(firsts, column.codes, np.arange(len(column.codes)))
        some = counts > 0
        self.waiting.append((hashes_of(column.texts[some]), counts[some], (firsts[some] + row).astype(np.uint32)))
        if sum(len(part[0]) for part in self.waiting) > len(self.hashes):
            self.merge()

    def merge(self) -> None:
        """Put what waits to the rest."""
        parts = [(self.hashes, self.counts, self.firsts), *self.waiting]
        hashes, counts, firsts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])) if len(hashes) else np.empty(0, np.int64)
        self.waiting.clear()
        self.hashes = hashes[starts]
        if len(hashes):
            self.counts = np.add.reduceat(counts[order], starts)
            self.firsts = np.minimum.reduceat(firsts[order], starts)

    def frequent(self, threshold: int) -> Hashes:
        """Hashes of what occurred more than `threshold` times, in order of the first row."""
        self.merge()
        often = self.counts > threshold
        return self.hashes[often][np.argsort(self.firsts[often], kind="stable")]


class Statistics:
    """What the training rows say: the largest value of each number column, the counts of each category column."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.maxima = np.zeros(layout.dense_dim)
        self.columns = [Counts() for _ in range(layout.slot_dim)]
        self.rows = 0

    def learn(self, lines: Lines, rows: NDArray[np.bool_]) -> None:
        """Take in the `rows` (R,) of the lines that are for training."""
        if not rows.any():
            return
        numbers = np.where(np.isnan(lines.numbers[rows]), 0.0, lines.numbers[rows])
        self.maxima = np.maximum(self.maxima, numbers.max(axis=0))
        for counts, column in zip(self.columns, lines.categories, strict=True):
            counts.add(Categories(column.codes[rows], column.texts), self.rows)
        self.rows += int(rows.sum())

    def vocabulary(self, threshold: int, skip_id_convert: bool = False) -> Vocabulary:
        """The ids that follow from what was learned."""
        return Vocabulary(
            self.layout, self.maxima, [c.frequent(threshold) for c in self.columns], skip_id_convert=skip_id_convert
        )


class Vocabulary:
    """Rows to ids and weights."""

    def __init__(
        self, layout: Layout, maxima: NDArray[np.float64], frequent: list[Hashes], skip_id_convert: bool = False
    ) -> None:
        """maxima (dense_dim,); frequent: the hashes of each category column that have ids, in the order of the ids.

        skip_id_convert: a frequent category is an integer and its own id (generated data); rare ones go to the rest.
        """
        self.layout, self.skip_id_convert = layout, skip_id_convert
        self.maxima = maxima
        # a column whose largest value is not above 0 keeps its values: there is nothing to divide by
        self.divisors = np.where(maxima > 0, maxima, 1.0)
        self.size = layout.fields + sum(map(len, frequent))
        if self.size > LARGEST_ID:
            raise DataError(f"{self.size} ids do not fit into 32 bits; raise --threshold")
        self.hashes: list[Hashes] = []
        self.ids: list[NDArray[np.int32]] = []
        start = layout.fields
        for hashes in frequent:
            order = np.argsort(hashes)
            self.hashes.append(hashes[order])
            self.ids.append((start + order).astype(np.int32))
            start += len(hashes)

    def convert(self, lines: Lines) -> Features:
        """Ids and weights of R lines."""
        rows, dense = len(lines.labels), self.layout.dense_dim
        ids = np.empty((rows, self.layout.fields), np.int32)
        values = np.ones((rows, self.layout.fields), np.float32)
        ids[:, :dense] = np.arange(dense)
        values[:, :dense] = np.where(np.isnan(lines.numbers), 0.0, lines.numbers / self.divisors)
        for slot, column in enumerate(lines.categories):
            ids[:, dense + slot] = self.ids_of(slot, column.texts)[column.codes]
        return Features(lines.labels, ids, values)

    def ids_of(self, slot: int, texts: NDArray[Any]) -> NDArray[np.int32]:
        """(C,) ids of the texts of a category column."""
        known, rest = self.hashes[slot], self.layout.dense_dim + slot
        wanted = hashes_of(texts)
        place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        found = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
        ids = np.full(len(wanted), rest, np.int32)
        if self.skip_id_convert:
            ids[found] = [own_id(slot, text) for text in texts[found]]
        else:
            ids[found] = self.ids[slot][place[found]]
        return ids


def own_id(slot: int, text: str) -> int:
    """The id that a category is itself. Raises DataError when it is none."""
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_ID):
        raise DataError(
            f"--skip_id_convert 1: column C{slot + 1} has the category {text!r}; expected integers from 0 to "
            f"{LARGEST_ID}, which are their own ids"
        )
    return int(text)
