"""CutNoise: what one row's gradient says at the cut, made short and noised."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from flps.split.privacy.budget import Releases, Spent, gaussian_epsilon
from flps.split.privacy.chance import Chance, Seed
from flps.split.privacy.check import WrongValue, number, positive

_SENSITIVITY = 2.0  # in clips: how far apart two gradients of at most that length can be


class CutNoise:
    """The gradient of each row is cut to the length `clip`, and each number gets Gaussian noise of `noise * clip`.

    Args:
        clip: the longest gradient of a row, in the 2-norm over all tensors of a call together, in the units of what is
            given (a loss that is a mean over N rows, times a loss scale S, gives gradients of S/N).
        noise: standard deviation, in clips; 0: clipping only, which promises nothing.
        seed: see `Chance`.
        delta: of the (epsilon, delta) that `spent` says; below 1 / rows.
        rows_per_epoch: how many rows go out in an epoch, each once; None: every row counts as sent in every call.

    Raises:
        WrongType, WrongValue: also TypeError, ValueError.
    """

    def __init__(
        self, clip: float, noise: float, seed: Seed = None, *, delta: float = 1e-5, rows_per_epoch: int | None = None
    ) -> None:
        self.clip = positive("clip", clip)
        self.noise = number("noise", noise)
        self.delta = positive("delta", delta)
        gaussian_epsilon(0, self.noise, self.delta)  # refuses a delta of 1 and above
        self._chance = Chance(seed, "cut_noise")
        self._releases = Releases(rows_per_epoch)

    @overload
    def __call__(self, gradients: Tensor, scale: float = 1.0) -> Tensor: ...

    @overload
    def __call__(self, gradients: Mapping[str, Tensor], scale: float = 1.0) -> OrderedDict[str, Tensor]: ...

    def __call__(
        self, gradients: Tensor | Mapping[str, Tensor], scale: float = 1.0
    ) -> Tensor | OrderedDict[str, Tensor]:
        """Noisy gradients, of the same shapes and types: one tensor (N, ...), or all of a step by name.

        scale: by how much the gradients are larger than those that `clip` is meant for (a loss scale that has moved);
        clip and noise are, too. Where one number is NaN or infinite, all that comes out is NaN: the step has
        overflowed, and says no more than that.
        """
        positive("scale", float(scale))
        if isinstance(gradients, Tensor):
            return self._noised({"": gradients}, scale)[""]
        return self._noised(gradients, scale)

    def _noised(self, gradients: Mapping[str, Tensor], scale: float) -> OrderedDict[str, Tensor]:
        rows = _rows_of(gradients)
        releases, clip = self._releases.count(rows), self.clip * scale
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            return OrderedDict((name, torch.full_like(gradient, torch.nan)) for name, gradient in gradients.items())
        widths = [math.prod(gradient.shape[1:]) for gradient in gradients.values()]
        whole = torch.cat(
            [
                gradient.detach().double().reshape(rows, width)
                for gradient, width in zip(gradients.values(), widths, strict=True)
            ],
            1,
        )
        shrink = (clip / torch.linalg.vector_norm(whole, dim=1, keepdim=True)).clamp(max=1)
        noise = torch.from_numpy(self._chance.normal(releases, whole.numel())).reshape(whole.shape).to(whole.device)
        noisy = torch.split(whole * shrink + noise * (self.noise * clip), widths, dim=1)
        return OrderedDict(
            (name, part.reshape(gradient.shape).to(gradient.dtype))
            for (name, gradient), part in zip(gradients.items(), noisy, strict=True)
        )

    def epsilon(self, releases: int) -> float:
        """For a row that goes out so many times, at `delta` (see `gaussian_epsilon`).

        Two gradients of a row are at most 2 clips apart, so the noise is noise / 2 sensitivities.
        """
        return gaussian_epsilon(releases, self.noise / _SENSITIVITY, self.delta)

    @property
    def spent(self) -> Spent:
        """By Renyi differential privacy over all times that a row went out."""
        releases = self._releases.of_a_row
        return Spent(
            "cut_noise", self.epsilon(releases), self.delta, releases, {"epsilon_per_release": self.epsilon(1)}
        )

    @property
    def statement(self) -> str:
        if self.noise == 0:
            return f"CutNoise without noise: gradients at the cut are at most {self.clip:g} long. Nothing is promised."
        spent = self.spent
        return (
            f"CutNoise: epsilon {self.epsilon(1):.4g} at delta {self.delta:g} for one gradient of a row at the cut, "
            f"and {spent.epsilon:.4g} for the {spent.releases} times that a row went out so far. It covers what the "
            "gradients of a row say directly about that row (its label, and what the sender's other columns hold). It "
            "does not cover what a row leaves in the sender's weights and so in later gradients of other rows, what "
            "a layer that mixes rows (batch norm) carries between them, or anything against those who know the seed."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint, which is then as secret as the gradients."""
        return {"key": self._chance.state(), "spent": torch.tensor([self._releases.calls, self._releases.rows])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self._chance.take_up(state["key"])
        self._releases.calls, self._releases.rows = map(int, state["spent"].tolist())


def _rows_of(gradients: Mapping[str, Tensor]) -> int:
    """How many rows all of them have. Raises WrongValue."""
    counts = {gradient.shape[0] if gradient.ndim else None for gradient in gradients.values()}
    if len(counts) != 1 or None in counts:
        shapes = {name: tuple(gradient.shape) for name, gradient in gradients.items()}
        raise WrongValue(f"CutNoise takes gradients with the same rows, got {shapes}")
    return int(counts.pop() or 0)
