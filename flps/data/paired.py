"""Rows that two parties have between them: party A the slots, party B the dense columns and the label.

Each pair of workers has its share of the rows: every n-th one, from its own number on.

Law: order depends on (seed, epoch, number of rows) only, so both workers of a pair see the same rows without a word
between them; whether they have the same rows, `digest` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from flps.data.criteo_parties import Arrays, Party, PartyRows, batch_names, read_card
from flps.errors import DataError

Part = Literal["a", "b"]


class PairedRows:
    """One party's columns of the rows of a pair, in batches."""

    def __init__(self, rows: PartyRows, part: Part, batch_size: int, seed: int | None) -> None:
        """seed: of the shuffle; None keeps the order of the rows."""
        self._rows, self._part, self._batch_size, self._seed = rows, part, batch_size, seed
        self.samples = len(rows)
        self.width = rows.field_size

    @property
    def digest(self) -> str:
        """Equal at both workers of a pair if, and only if, they have the same rows in the same order."""
        return self._rows.digest()

    def steps(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return self._rows.steps(self._batch_size, drop_remainder=False)

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Arrays]:
        """The batches of an epoch, from a step on: {slots (B, S) int64}, or {dense (B, X) float32, label (B,)}."""
        ids, weights = batch_names(self._rows.party)
        for batch in self._rows.batches(self._batch_size, epoch, first_step, self._seed, drop_remainder=False):
            if self._part == "a":
                yield {"slots": batch[ids].astype(np.int64)}
            else:
                yield {"dense": batch[weights], "label": batch["label"].reshape(-1)}


def open_paired(
    folder: Path, part: Part, pair: int, pairs: int, batch_size: int, seed: int | None, test: bool = False
) -> PairedRows:
    """One party's rows of pair number `pair` of `pairs`.

    folder: what datasets/criteo.py wrote: a party's own, or the whole, of which the party gets its columns.

    Raises:
        DataError: no such folder, rows without labels for party B, or fewer rows than pairs.
    """
    card = read_card(folder)
    split = int(card["dense_dim"])
    division = (Party("b", tuple(range(split))), Party("a", tuple(range(split, len(card["columns"])))))
    rows = PartyRows.open(folder, "test" if test else "train", int(part == "a"), division)
    if part == "b" and "label" not in rows.arrays:
        raise DataError(f"{folder}: has no label; party B has the label and the dense columns")
    positions = np.arange(pair, len(rows), pairs)
    if not positions.size and not test:
        raise DataError(f"{folder}: {len(rows)} rows are fewer than the {pairs} pairs of workers")
    mine = PartyRows(rows.arrays, rows.party, rows.ids, rows.columns, positions)
    return PairedRows(mine, part, batch_size, seed)


def ids_of(folder: Path) -> int:
    """Every id of a slot is below this. Raises DataError."""
    return int(read_card(folder)["ids"])
