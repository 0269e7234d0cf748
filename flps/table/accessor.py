"""What a table counts about its rows, and what follows from it: which keys are let in, saved, and removed.

The counters of a row are one line of float32: how often it was shown and clicked, its score since the last delta save,
days without a push, the slot (feature) that it belongs to, pushes that it stood in, whether it has been let in.

    score = (show - click) nonclk_coeff + click click_coeff

The rules of counting, decay and saving are those of Paddle's CtrCommonAccessor.
Law: a row's counters depend on what was pushed to its key alone, so that rows may be divided over any number of
servers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from flps.table.initializer import chance

Counters: TypeAlias = NDArray[np.float32]  # (N, WIDTH), what stands in a row
Counts: TypeAlias = NDArray[np.float32]  # (N, 3), what a push adds: shows, clicks; and the slot
Which: TypeAlias = NDArray[np.bool_]
Mode = Literal["all", "delta", "base", "batch"]

SHOW, CLICK, DELTA_SCORE, UNSEEN_DAYS, SLOT, SIGHTINGS, ADMITTED = range(7)
COUNTERS, WIDTH = "counters", 7  # the column of the storage
COUNTS_WIDTH = 3
SLOTS_MAX = 1 << 16

NotNegative = Annotated[float, Meta(ge=0)]


class CountEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="count"):
    """A key is let in by the n-th push that it stands in."""

    count: Annotated[int, Meta(ge=1, le=2**24)] = 1

    def admits(self, counters: Counters, scores: NDArray[np.floating], keys: NDArray[np.uint64], seed: int) -> Which:
        return counters[:, SIGHTINGS] >= self.count


class ProbabilityEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="probability"):
    """Each push that a key stands in lets it in with this probability, drawn from (seed, key, which push)."""

    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def admits(self, counters: Counters, scores: NDArray[np.floating], keys: NDArray[np.uint64], seed: int) -> Which:
        return chance(keys, counters[:, SIGHTINGS].astype(np.uint64), seed) < self.probability


class ShowClickEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="show_click"):
    """A key is let in when its score reaches the threshold, the original's embedx_threshold."""

    threshold: NotNegative = 10.0

    def admits(self, counters: Counters, scores: NDArray[np.floating], keys: NDArray[np.uint64], seed: int) -> Which:
        return scores >= self.threshold


Entry: TypeAlias = CountEntry | ProbabilityEntry | ShowClickEntry


class Accessor(msgspec.Struct, frozen=True, kw_only=True):
    """How one table counts; defaults are the original's."""

    nonclk_coeff: NotNegative = 0.1
    click_coeff: NotNegative = 1.0
    base_threshold: NotNegative = 1.5
    delta_threshold: NotNegative = 0.25
    delta_keep_days: NotNegative = 16.0
    show_click_decay_rate: Annotated[float, Meta(ge=0, le=1)] = 0.98
    delete_threshold: NotNegative = 0.8
    delete_after_unseen_days: NotNegative = 30.0
    show_scale: bool = False
    entry: Entry | None = None
    slots: Annotated[tuple[str, ...], Meta(max_length=SLOTS_MAX)] = ()  # names of the slots, by number

    def score(self, show: NDArray[np.float32], click: NDArray[np.float32]) -> NDArray[np.float32]:
        """(show - click) nonclk_coeff + click click_coeff, each (N,)."""
        scores: NDArray[np.float32] = (show - click) * np.float32(self.nonclk_coeff)
        scores += click * np.float32(self.click_coeff)
        return scores

    def count(self, counters: Counters, counts: Counts, keys: NDArray[np.uint64], seed: int) -> Which:
        """Add a push (each key once) to the counters in place; which rows (N,) are let in, by it or before it."""
        counters[:, :2] += counts[:, :2]
        counters[:, DELTA_SCORE] += self.score(counts[:, 0], counts[:, 1])
        counters[:, UNSEEN_DAYS] = 0
        counters[:, SLOT] = counts[:, 2]
        counters[:, SIGHTINGS] += 1
        admitted: Which = counters[:, ADMITTED] > 0
        if self.entry is None:
            admitted |= True
        else:
            admitted |= self.entry.admits(counters, self.score(counters[:, SHOW], counters[:, CLICK]), keys, seed)
        counters[:, ADMITTED] = admitted
        return admitted

    def decay(self, counters: Counters) -> Which:
        """A day's decay of shows and clicks, in place; which rows (N,) are to be removed now."""
        counters[:, :2] *= np.float32(self.show_click_decay_rate)
        is_low: Which = self.score(counters[:, SHOW], counters[:, CLICK]) < np.float32(self.delete_threshold)
        return is_low | (counters[:, UNSEEN_DAYS] > self.delete_after_unseen_days)

    def is_saved(self, counters: Counters, mode: Mode) -> Which:
        """Which rows (N,) a save of this mode holds."""
        if mode in ("all", "batch"):
            return np.ones(len(counters), bool)
        threshold = self.delta_threshold if mode == "delta" else 0.0
        saved: Which = self.score(counters[:, SHOW], counters[:, CLICK]) >= np.float32(self.base_threshold)
        saved &= counters[:, DELTA_SCORE] >= np.float32(threshold)
        saved &= counters[:, UNSEEN_DAYS] <= self.delta_keep_days
        return saved

    def settle(self, counters: Counters, mode: Mode) -> None:
        """A save of this mode is on the disk: rows that a delta or base holds begin a new delta; a batch ends a day."""
        if mode in ("delta", "base"):
            counters[self.is_saved(counters, mode), DELTA_SCORE] = 0
        elif mode == "batch":
            counters[:, UNSEEN_DAYS] += 1


def counts_of(inverse: NDArray[np.int64], keys: int, clicks: NDArray[Any] | None = None, columns: int = 1) -> Counts:
    """What a batch says about its distinct keys: (keys, 3) of shows, clicks and slot.

    inverse: which of the `keys` distinct ones each look-up (N,) is. clicks: whether a look-up (N,) was of a clicked
    sample. columns: look-ups of one sample stand side by side, one a slot; a key's slot is the last one it stood in.
    """
    counts = np.zeros((keys, COUNTS_WIDTH), np.float32)
    counts[:, 0] = np.bincount(inverse, minlength=keys)
    if clicks is not None:
        counts[:, 1] = np.bincount(inverse, weights=clicks, minlength=keys)
    if columns > 1:
        counts[inverse, 2] = np.arange(inverse.size) % columns
    return counts


def merge_counts(keys: NDArray[np.uint64], counts: Counts) -> tuple[NDArray[np.uint64], Counts]:
    """Each key of `keys` (N,) once, sorted (M,), with the sum of its shows and clicks and its last slot (M, 3)."""
    once, places = np.unique(keys, return_inverse=True)
    merged = np.empty((once.size, COUNTS_WIDTH), np.float32)
    for column in (0, 1):
        merged[:, column] = np.bincount(places, weights=counts[:, column], minlength=once.size)
    merged[places, 2] = counts[:, 2]
    return once, merged
