"""Error feedback: what packing takes from a tensor goes with the next one of that name (Seide et al. 2014; Stich,
Karimireddy 2019).

When it makes sense: where tensors of one name are added up over the steps, place by place, by whoever gets them, such
as the gradients of a weight, or those of the cut when every step has the same rows (full batch). Then nothing is lost,
only late, and topk converges. Where each step has other rows, what row i lost would be given to the row that stands at
place i next: the mean over the rows is kept, so a bias still gets its share, but each row's gradient is disturbed. It
is off by default, and activations never have it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flps.compression.packed import Array


class Feedback:
    """What was kept back, by tensor name."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def added_to(self, name: str, array: Array) -> Array:
        """The tensor with what was kept back of earlier ones; of another shape (the last batch): as it is."""
        kept = self._kept.get(name)
        return array if kept is None or kept.shape != array.shape else array + kept.astype(array.dtype)

    def keep(self, name: str, meant: Array, arriving: Array) -> None:
        """Of `meant` only `arriving`, of the same shape, gets there. What was kept for another shape is dropped."""
        with np.errstate(over="ignore"):
            kept = meant - arriving
        self._kept[name] = np.where(np.isfinite(kept), kept, 0).astype(meant.dtype)

    def content(self) -> dict[str, Array]:
        """All of it, for a checkpoint: tensor name -> what was kept back."""
        return dict(self._kept)

    def take_up(self, content: Mapping[str, Array]) -> None:
        """Go on from a checkpoint."""
        self._kept = {name: np.array(kept) for name, kept in content.items()}
