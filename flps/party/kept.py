"""What packing took from gradients that went to other parties, and still owes them (error feedback): a part of what a
party remembers.

Law 1: it goes into the checkpoints, so a run that goes on sends what an uninterrupted one does.
Law 2: a step that is skipped leaves it as it was: nobody has used what was sent in it.
Law 3: it is in the scale of the gradients: when a loss scale moves, it moves with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from flps.compression import Feedback
from flps.split.scale import LossScale

State: TypeAlias = dict[str, dict[str, Tensor]]  # party -> tensor -> what was kept back


class KeptBack:
    """What is owed to each of the other parties."""

    def __init__(self, feedback: Mapping[str, Feedback]) -> None:
        """feedback: that of each link, which goes on to fill it."""
        self._feedback = feedback

    def state(self) -> State:
        """For a checkpoint."""
        owed = {party: feedback.content() for party, feedback in self._feedback.items()}
        return {party: {name: torch.from_numpy(kept) for name, kept in of.items()} for party, of in owed.items() if of}

    def take_up(self, state: State, factor: float = 1.0) -> None:
        """Owe that, times `factor`, and nothing else."""
        for party, feedback in self._feedback.items():
            owed = state.get(party, {})
            feedback.take_up({name: (kept * factor).numpy() for name, kept in owed.items()})

    def settle(self, before: State, is_skipped: bool, factor: float) -> None:
        """A step is over. before: what was owed before it; factor: by which the loss scale has moved at its end."""
        if is_skipped:
            self.take_up(before, factor)
        elif factor != 1:
            self.take_up(self.state(), factor)


def scale_of(scales: list[LossScale]) -> float:
    """How far the parties' loss scale has moved; those that move stand alike."""
    return next((scale.ratio for scale in scales if scale.window), 1.0)
