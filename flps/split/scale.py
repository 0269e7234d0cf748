"""Loss scale: small gradients are multiplied so that a narrow type can hold them, and divided again by the optimizer.

`opts[].hyper_parameters.loss_scale` divides what that entry's optimizer gets. As a number it is fixed, and the
yaml's `sens` of the loss multiplies by the same number. As `{init, factor, window}` it moves: `sens` is what the loss
is multiplied with *at first*, and every number in `sens` is read times the ratio to which the scale has moved since.

Law 1: a step in which a gradient overflows (NaN or Inf) changes no weight and no moment: only the scale, and the counts
of steps. All nets of all parties skip it together; so their scales, which see the same steps, move together: their
yaml files must say the same `loss_scale`.
Law 2: without a `loss_scale` in the yaml nothing is checked and nothing skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flps.errors import ConfigError

CEILING = 2.0**24  # a scale that nothing stops would become infinite itself


@dataclass
class LossScale:
    """How far a scale has moved: down by `factor` at an overflow, up by it after `window` steps without one.

    As MindSpore's and torch's dynamic scales (Micikevicius et al. 2018, section 3.2), within 1 and 2**24.
    """

    init: float = 1.0
    factor: float = 2.0
    window: int = 0  # 0: fixed
    is_checked: bool = False  # the yaml has a loss scale: overflows are looked for
    now: float = 1.0
    clean_steps: int = 0  # since the last move

    @property
    def ratio(self) -> float:
        """What numbers in `sens`, and divisors, are to be multiplied with."""
        return self.now / self.init

    def settle(self, is_overflow: bool) -> None:
        """A step is over."""
        if not self.window:
            return
        self.clean_steps = 0 if is_overflow else self.clean_steps + 1
        if is_overflow:
            self.now = max(self.now / self.factor, min(1.0, self.init))
        elif self.clean_steps >= self.window:
            self.now = min(self.now * self.factor, max(CEILING, self.init))
            self.clean_steps = 0

    def take_up(self, now: float, clean_steps: int) -> None:
        """Go on where a checkpoint stood."""
        if self.window:
            self.now, self.clean_steps = now, clean_steps


def loss_scale_of(opts: Sequence[Mapping[str, Any]], where: Callable[[str], str]) -> LossScale:
    """The scale of a net by all its `opts`. Raises ConfigError when two of them move differently."""
    scales = [(index, opt.get("hyper_parameters") or {}) for index, opt in enumerate(opts)]
    said = [(index, hyper["loss_scale"]) for index, hyper in scales if hyper.get("loss_scale") is not None]
    moving = [(index, scale) for index, scale in said if isinstance(scale, Mapping)]
    first = dict(moving[0][1]) if moving else {}
    for index, scale in moving[1:]:
        if dict(scale) != first:
            place = where(f"opts[{index}].hyper_parameters.loss_scale")
            raise ConfigError(f"{place}: a net has one moving loss_scale, found {first} and {dict(scale)}")
    if not moving:
        return LossScale(is_checked=bool(said))
    init = float(first.get("init", 1024.0))
    return LossScale(init, float(first.get("factor", 2.0)), int(first.get("window", 1000)), True, init)


def divisor_of(opt: Mapping[str, Any]) -> float:
    """What an optimizer's gradients are divided by while the scale stands where it began."""
    said = (opt.get("hyper_parameters") or {}).get("loss_scale")
    if isinstance(said, Mapping):
        return float(said.get("init", 1024.0))
    return 1.0 if said is None else float(said)


def is_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether there is neither NaN nor Inf in any of them."""
    values = [_values(tensor) for tensor in tensors if tensor is not None]
    # A sum with NaN or Inf in it is one of the two: one quick pass over each, and one look at all. Only where finite
    # numbers add up to more than their type holds, every one must be looked at.
    sums = [tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).double() for tensor in values]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in values)


def _values(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.is_sparse else tensor
