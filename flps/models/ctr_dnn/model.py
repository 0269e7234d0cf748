"""CTR-DNN, cut where party A's slots and party B's dense columns meet: will this be clicked?

    A: slots -> rows of the embedding, side by side -> layers --\\
                                                                 add -> linear to 2 -> logit
    B: dense columns -> layers ---------------------------------/

Law: a model that is trained between two parties has two parts: `a(batch)` gives what crosses the cut, `b(batch, joint)`
the logits. Whole, it is `b(batch, a(batch))`, and trains alone.

Shapes: B samples of a batch, S slots, D numbers of a row, X dense columns, J columns of the cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flps.nn import Embedding

Batch = Mapping[str, Tensor]


class SparsePart(nn.Module):
    """Party A: what it makes of its slots."""

    def __init__(self, embedding: Embedding, slots: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers([slots * embedding.spec.dim, *widths])

    def forward(self, batch: Batch) -> Tensor:
        """What crosses the cut (B, J), of the keys `slots` (B, S)."""
        rows_BSD: Tensor = self.embedding(batch["slots"])
        joint_BJ: Tensor = self.layers(rows_BSD.flatten(1))
        return joint_BJ


class LabelPart(nn.Module):
    """Party B: its dense columns, the layer after the cut, the loss."""

    def __init__(self, columns: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = layers([columns, *widths])
        self.top = linear(widths[-1], 2)

    def forward(self, batch: Batch, joint_BJ: Tensor) -> Tensor:
        """Logits (B,) of `dense` (B, X) and what came across the cut (B, J)."""
        scores_B2: Tensor = self.top(joint_BJ + self.layers(batch["dense"]))
        return scores_B2[:, 1] - scores_B2[:, 0]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy of `logits` (B,) against `label` (B,): that of the softmax of the two scores."""
        return F.binary_cross_entropy_with_logits(logits, batch["label"].to(logits.dtype))


class CtrDnn(nn.Module):
    """Both parts."""

    target: ClassVar[str] = "label"

    def __init__(self, a: SparsePart, b: LabelPart) -> None:
        super().__init__()
        self.a = a
        self.b = b

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B,) of `slots` (B, S) and `dense` (B, X)."""
        logits: Tensor = self.b(batch, self.a(batch))
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross entropy of `logits` (B,) against `label` (B,)."""
        return self.b.loss(logits, batch)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the dense weights anew: normal(0, 1 / sqrt(inputs)) as in the original, biases zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(layer.in_features), generator=generator)
                nn.init.zeros_(layer.bias)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights are to be drawn later; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear and ReLU from each width to the next."""
    made: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        made += [linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*made)
