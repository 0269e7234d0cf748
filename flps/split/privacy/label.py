"""LabelDP: randomised response on labels, tossed once for each row and never again.

Why once: a label that is noised anew each epoch is averaged out. At eps 1 and 15 epochs the majority of the noisy
labels is right for 97 of 100 rows, and the promise is 15 eps. So the coin of a row follows from (secret key, row id,
label): asked again, the row gets the same answer, which tells nothing new, and nothing must be stored.

Why the label is part of it, too: with a coin of the row alone, a row that comes with two labels would be flipped both
times or neither, and the two answers would tell for certain that its labels differ. With a coin for each (row, label)
the two answers are independent, at 2 eps. Even so a label that changes again and again shows when it does: the promise
is for a row that keeps its label.

Why AES and not a plain hash or a generator for simulations: who knows some labels himself must learn nothing from their
noise about the coins of others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.split.privacy.budget import Spent
from flps.split.privacy.chance import Chance, Seed
from flps.split.privacy.check import WrongType, WrongValue, epsilon

log = logging.getLogger(__name__)
Ids: TypeAlias = Tensor | NDArray[Any] | Sequence[str]


class LabelDP:
    """Randomised response (Warner 1965): the truth with e**eps / (e**eps + K - 1), else one of the K - 1 others.

    Labels are (N,) or (N, 1) of 0 and 1 (K = 2: flipped with 1 / (e**eps + 1)), or one-hot (N, K).

    Args:
        eps: from 0; above 100 it is 100, as in the original.
        seed: see `Chance`; None: a fresh key, which a checkpoint must keep.

    Raises:
        WrongType, WrongValue: also TypeError, ValueError.
    """

    def __init__(self, eps: float, seed: Seed = None) -> None:
        self.eps = epsilon(eps)
        self._chance = Chance(seed, "label_dp")
        self._names: set[str] = set()  # of the labels that came with ids
        self._earlier = 0  # how many there were when the checkpoint was written
        self._calls = 0  # those without ids
        log.info("The label is protected by LabelDP with eps %f.", self.eps)

    def __call__(self, labels: Tensor, ids: Ids | None = None, *, name: str = "label") -> Tensor:
        """Noisy labels, in the same shape, type and place; `labels` stay as they are.

        ids: (N,) what each row, and no other, is called in every epoch: integers or strings. Without them the noise is
        fresh in every call, as in the original, and every call spends eps again.
        name: of several labels of a row each has its own, and its own coins.
        """
        classes = _classes_of(labels)
        answers = classes.detach().cpu().numpy().astype(np.uint64)
        options = labels.shape[1] if _is_one_hot(labels) else 2
        words = self._words(answers, ids, name)
        lies = words[:, 0] < np.uint64(min(_threshold(self.lie(options)), 2**64 - 1))
        others = (answers + 1 + words[:, 1] % np.uint64(options - 1)) % np.uint64(options)
        noisy = torch.from_numpy(np.where(lies, others, answers).astype(np.int64))
        if _is_one_hot(labels):
            noisy = torch.nn.functional.one_hot(noisy, options)
        return noisy.reshape(labels.shape).to(labels)

    def _words(self, answers: NDArray[np.uint64], ids: Ids | None, name: str) -> NDArray[np.uint64]:
        if ids is not None:
            self._names.add(name)
            return self._chance.of_rows(self._numbers(ids, answers.size), answers, name)
        if self._calls == 0:
            log.warning("LabelDP without row ids: labels are noised in every call, and each call spends eps again")
        self._calls += 1
        return self._chance.stream(self._calls, 2 * answers.size).reshape(-1, 2)

    def _numbers(self, ids: Ids, count: int) -> NDArray[np.uint64]:
        if isinstance(ids, Tensor):
            ids = ids.detach().cpu().numpy()
        if not isinstance(ids, np.ndarray):
            ids = self._chance.of_names(list(ids))
        if ids.shape != (count,) and ids.shape != (count, 1):
            raise WrongValue(f"{count} labels want {count} row ids, got {ids.shape}")
        if ids.dtype.kind not in "iu":
            raise WrongType(f"row ids are integers or strings, got {ids.dtype}")
        return (
            ids.reshape(-1).astype(np.int64).view(np.uint64) if ids.dtype.kind == "i" else ids.reshape(-1).astype("u8")
        )

    def lie(self, options: int = 2) -> float:
        """The chance that a label of `options` classes is not the true one: (K - 1) / (e**eps + K - 1)."""
        return (options - 1) / (math.exp(self.eps) + options - 1)

    def noisy(self, probabilities: Tensor) -> Tensor:
        """How likely the noisy label is, from how likely the true one is: a loss of this against noisy labels is least
        where the model is right about the true ones (forward correction, Patrini et al. 2017).

        (N,) or (N, 1): of label 1; (N, K): of each class.
        """
        other, slope = self._line(probabilities)
        return other + slope * probabilities

    def unbiased(self, labels: Tensor) -> Tensor:
        """Numbers whose expectation, over the noise, is the true label. Their mean estimates the true share.

        Raises WrongValue at eps 0, where noisy labels say nothing.
        """
        other, slope = self._line(labels)
        if slope == 0:
            raise WrongValue("labels noised with eps 0 say nothing about the true ones")
        return (labels - other) / slope

    def _line(self, labels: Tensor) -> tuple[float, float]:
        """The chance to come out as a given other class, and how much more likely the true one is."""
        options = labels.shape[1] if _is_one_hot(labels) else 2
        lie = self.lie(options)
        other = lie / (options - 1)
        return other, 1 - lie - other

    @property
    def _once(self) -> int:
        return max(len(self._names), self._earlier)

    @property
    def spent(self) -> Spent:
        """eps once for all calls with ids (for each name of a label), and once for each call without."""
        releases = self._once + self._calls
        return Spent("label_dp", releases * self.eps, 0.0, releases, {})

    @property
    def statement(self) -> str:
        once = f"LabelDP: epsilon {self.eps:g} for each row's label, once: epochs do not add to it. "
        again = f"LabelDP: epsilon {self.eps:g} for each row's label and call, {self._calls} calls so far. "
        return (
            (again if self._calls else once)
            + "It covers everything that is computed from the noisy labels, gradients and weights included, as long as "
            "a row keeps its label and no other row has its id. It does not cover the features, true labels that are "
            "used elsewhere (metrics, evaluation), or anything against those who know the seed."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint, which is then as secret as the labels."""
        return {"key": self._chance.state(), "spent": torch.tensor([self._once, self._calls])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint, with the same noise."""
        self._chance.take_up(state["key"])
        self._earlier, self._calls = map(int, state["spent"].tolist())


def _is_one_hot(labels: Tensor) -> bool:
    return labels.ndim == 2 and labels.shape[1] != 1


def _threshold(chance: float) -> int:
    """Below this a random 64-bit word is, with that chance or (by up to 2**-64) a little more: never less noise."""
    return math.ceil(chance * 2**64)


def _classes_of(labels: Any) -> Tensor:
    """(N,) the class of each row. Raises WrongType, WrongValue."""
    if not isinstance(labels, Tensor):
        raise WrongType(f"LabelDP takes a tensor, got {type(labels).__name__}")
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] == 0):
        raise WrongValue(f"labels are (N,), (N, 1) or one-hot (N, K), got shape {tuple(labels.shape)}")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise WrongValue("Invalid label form: the elements should be either 0 or 1.")
    if not _is_one_hot(labels):
        return labels.reshape(-1).int()
    if not bool(((labels == 1).sum(dim=1) == 1).all()):
        raise WrongValue("Invalid one-hot form: each row should have exactly one 1.")
    return labels.int().argmax(dim=1)
