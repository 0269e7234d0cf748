"""EmbeddingDP: of an activation only the signs go out, and some of them are wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.split.privacy.budget import Releases, Spent
from flps.split.privacy.chance import Chance, Seed
from flps.split.privacy.check import WrongType, WrongValue, epsilon

log = logging.getLogger(__name__)


class EmbeddingDP:
    """Sign quantisation, then symmetric unary encoding (Wang et al. 2017): a 1 stays one with
    p = e**(eps/2) / (e**(eps/2) + 1), a 0 becomes one with q = 1 - p.

    The gradient goes straight through: that of the output is that of the input. As whole numbers 0 and 1 the output
    fits `bit_pack` with one bit.

    Args:
        eps: from 0, above 100 it is 100; None: signs only, which promises nothing.
        seed: see `Chance`.
        rows_per_epoch: how many rows go out in an epoch, each once; None: every row counts as sent in every call.

    Raises:
        WrongType, WrongValue: also TypeError, ValueError.
    """

    def __init__(self, eps: float | None = None, seed: Seed = None, *, rows_per_epoch: int | None = None) -> None:
        self.eps = None if eps is None else epsilon(eps)
        self._chance = Chance(seed, "embedding_dp")
        self._releases = Releases(rows_per_epoch)
        self._width = 0
        if self.eps is None:
            log.info("Parameter eps is missing and the embedding is protected with quantization only.")
        else:
            log.info("The embedding is protected by EmbeddingDP with eps %f.", self.eps)

    def __call__(self, embedding: Tensor) -> Tensor:
        """0 or 1 for each number of embedding (N, ...), in its shape and type; `embedding` stays as it is."""
        if not isinstance(embedding, Tensor) or not embedding.is_floating_point():
            raise WrongType("EmbeddingDP takes a tensor of floating numbers")
        if embedding.ndim == 0 or bool(embedding.isnan().any()):
            raise WrongValue(f"EmbeddingDP takes rows of numbers, got shape {tuple(embedding.shape)} or NaN")
        signs: Tensor = _Signs.apply(embedding, self._flips(embedding.shape))  # type: ignore[no-untyped-call]
        return signs

    def _flips(self, shape: torch.Size) -> NDArray[np.bool_] | None:
        number = self._releases.count(shape[0])
        self._width = max(self._width, math.prod(shape[1:]))
        if self.eps is None:
            return None
        count = math.prod(shape)
        words = self._chance.stream(number, -(-count // 2)).view("<u4")[:count]
        return (words < np.uint32(math.ceil(self.flip * 2**32))).reshape(shape)

    @property
    def flip(self) -> float:
        """The chance that a bit is wrong: 1 / (e**(eps/2) + 1), rounded up to a multiple of 2**-32 when it is used."""
        return 0.0 if self.eps is None else 1 / (math.exp(self.eps / 2) + 1)

    @property
    def spent(self) -> Spent:
        """Of a row of d numbers: d * eps / 2 each time that it goes out. A bit: eps / 2."""
        bit = math.inf if self.eps is None else self.eps / 2
        row = self._width * bit if self._width else 0.0
        releases = self._releases.of_a_row
        more = {"epsilon_per_bit": bit, "epsilon_per_release": row}
        return Spent("embedding_dp", releases * row if releases else 0.0, 0.0, releases, more)

    @property
    def statement(self) -> str:
        if self.eps is None:
            return "EmbeddingDP without eps: signs only. Nothing is promised; signs say a lot about a row."
        spent = self.spent
        return (
            f"EmbeddingDP: epsilon {self.eps / 2:g} for each bit and time that it goes out, so "
            f"{spent.more['epsilon_per_release']:g} for a whole row of {self._width} numbers, and {spent.epsilon:g} "
            f"for the {spent.releases} times that a row went out so far. eps itself ({self.eps:g}) would be the "
            "promise for two bits, as in a one-hot row. It covers the features behind the activations of this forward, "
            "in training only: evaluation and prediction send signs without noise; not the gradients, and nothing "
            "against those who know the seed."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint, which is then as secret as the activations."""
        releases = self._releases
        return {"key": self._chance.state(), "spent": torch.tensor([releases.calls, releases.rows, self._width])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self._chance.take_up(state["key"])
        self._releases.calls, self._releases.rows, self._width = map(int, state["spent"].tolist())


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, flips: NDArray[np.bool_] | None) -> Tensor:
        signs = embedding > 0
        if flips is not None:
            signs = signs ^ torch.from_numpy(flips).to(embedding.device)
        return signs.to(embedding.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
