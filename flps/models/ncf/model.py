"""Neural collaborative filtering (He et al. 2017): how likely is it that this user likes this item?

Law 1: written for one device; where rows live, and who trains, is not known here.
Law 2: one user table and one item table in every mode. NeuMF's rows hold the product part and the perceptron part
side by side, which is the same function as two tables each, at half the look-ups.

Shapes: B samples of a batch, G columns of the product part, M columns of the perceptron part, F features.
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


class Ncf(nn.Module):
    """What the three modes share: the tables, the last layer, the loss."""

    inputs: ClassVar[tuple[str, ...]] = ("user_input", "item_input")
    target: ClassVar[str] = "label"

    def __init__(self, users: int, items: int, dim: int, features: int, seed: int) -> None:
        """`users`, `items`: rows of the tables; `dim`: their width; `features`: inputs of the last layer; `seed`: for
        the first values of rows, which differ between the two tables.
        """
        super().__init__()
        self.user_embedding = Embedding("user_embedding", dim, rows=users, feature="user_input", seed=2 * seed)
        self.item_embedding = Embedding("item_embedding", dim, rows=items, feature="item_input", seed=2 * seed + 1)
        self.prediction = bare_linear(features, 1)

    def features(self, user_BD: Tensor, item_BD: Tensor) -> Tensor:
        """What the last layer sees of the rows of a pair, (B, F)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B,) of the pairs `user_input` (B,), `item_input` (B,)."""
        user_BD = self.user_embedding(batch["user_input"])
        item_BD = self.item_embedding(batch["item_input"])
        logits: Tensor = self.prediction(self.features(user_BD, item_BD))
        return logits.squeeze(1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean binary cross entropy of `logits` (B,) against `label` (B,) in [0, 1].

        Paddle's log_loss adds 1e-4 to the probabilities inside the logarithms. Without it the gradient of a sample's
        logit is exactly p - y; the two differ only where a prediction is wrong by nearly everything.
        """
        if logits.dtype == torch.bfloat16:  # a mean of many losses wants more than 8 bits
            logits = logits.float()
        return F.binary_cross_entropy_with_logits(logits, batch["label"].to(logits.dtype))

    def initialize(self, generator: torch.Generator, prediction_fan_in: int) -> None:
        """Draw the dense weights anew; the tables draw their own rows.

        Linear layers: normal(0, 1 / sqrt(inputs)) cut at two deviations; last layer: uniform within
        sqrt(6 / fan_in) (He et al. 2015); biases: zero. All as in the original.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                deviation = 1 / math.sqrt(layer.in_features)
                nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
                nn.init.zeros_(layer.bias)
        bound = math.sqrt(6 / prediction_fan_in)
        nn.init.uniform_(self.prediction.weight, -bound, bound, generator=generator)


class NCF_GMF(Ncf):  # noqa: N801  the name that the yaml and the original use
    """Weighted product: logit = w . (user * item) + b."""

    def __init__(self, users: int, items: int, mf_dim: int, seed: int) -> None:
        super().__init__(users, items, mf_dim, mf_dim, seed)

    def features(self, user_BD: Tensor, item_BD: Tensor) -> Tensor:
        return user_BD * item_BD


class NCF_MLP(Ncf):  # noqa: N801
    """Perceptron over the user's and the item's row side by side."""

    def __init__(self, users: int, items: int, fc_layers: Sequence[int], seed: int) -> None:
        super().__init__(users, items, fc_layers[0] // 2, fc_layers[-1], seed)
        self.tower = perceptron(fc_layers)

    def features(self, user_BD: Tensor, item_BD: Tensor) -> Tensor:
        features_BF: Tensor = self.tower(torch.cat((user_BD, item_BD), dim=1))
        return features_BF


class NCF_NeuMF(Ncf):  # noqa: N801
    """Both side by side: the first `mf_dim` columns of a row go into the product, the others into the perceptron."""

    def __init__(self, users: int, items: int, mf_dim: int, fc_layers: Sequence[int], seed: int) -> None:
        super().__init__(users, items, mf_dim + fc_layers[0] // 2, mf_dim + fc_layers[-1], seed)
        self.mf_dim = mf_dim
        self.tower = perceptron(fc_layers)

    def features(self, user_BD: Tensor, item_BD: Tensor) -> Tensor:
        product_BG = user_BD[:, : self.mf_dim] * item_BD[:, : self.mf_dim]
        tower_BF = self.tower(torch.cat((user_BD[:, self.mf_dim :], item_BD[:, self.mf_dim :]), dim=1))
        return torch.cat((product_BG, tower_BF), dim=1)


def bare_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose weights are to be drawn later; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear and ReLU from each width to the next."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [bare_linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)
