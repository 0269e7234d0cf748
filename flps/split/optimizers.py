"""Optimizers by the name that the yaml says: all of torch.optim, and FTRL and AdamWeightDecay, which torch has not.

Names of hyper parameters are torch's or MindSpore's (`learning_rate` for `lr`, `beta1` for the first of `betas`).
Where the two have an optimizer of one name, torch's is meant: its Adam adds eps behind the bias correction, MindSpore's
before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from flps.errors import ConfigError

_ALIASES = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "use_nesterov": "nesterov",
    "use_amsgrad": "amsgrad",
    "decay": "alpha",  # RMSProp's
    "accum": "initial_accumulator_value",  # Adagrad's
}
_WITHOUT_MEANING = ("use_locking", "use_lazy", "use_offload", "update_slots")  # how MindSpore runs it, not what it does
_ALSO = {"Momentum": "SGD", "RMSProp": "RMSprop", "AdaMax": "Adamax"}  # MindSpore's names of torch's
_NOT_OFFERED = {"LBFGS": "it runs the net many times in a step, a split net runs once"}


class Weightwise(Optimizer):
    """Optimizers that say how one weight moves by its gradient, whatever the others do."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = _loss_of(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class FTRL(Weightwise):
    """Follow the regularised leader, proximal (McMahan et al. 2013), as MindSpore writes it. With p = -lr_power:

    n' = n + g**2;  z' = z + g - (n'**p - n**p) / lr * w;
    w' = 0 where |z'| <= l1, else (sign(z') l1 - z') / (n'**p / lr + 2 l2).
    State: n, from `initial_accum`; z, from 0: a weight that never had a gradient becomes 0 at the first step. Of a
    sparse gradient (torch.nn.Embedding with sparse=True) only the rows that it names move.
    With lr_power -0.5 it is the table rule `ftrl` with beta 0, and l2 twice as large there.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        initial_accum: float = 0.1,
        lr_power: float = -0.5,
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        """Raises ValueError for settings that it cannot be run with."""
        if not (lr > 0 and initial_accum >= 0 and lr_power <= 0 and l1 >= 0 and l2 >= 0 and weight_decay >= 0):
            raise ValueError("FTRL wants lr above 0, lr_power of at most 0, and the others of at least 0")
        defaults = {"lr": lr, "initial_accum": initial_accum, "lr_power": lr_power, "l1": l1, "l2": l2}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["accum"] = torch.full_like(weight, group["initial_accum"])
            state["linear"] = torch.zeros_like(weight)
        whole = [weight, state["accum"], state["linear"]]
        if not gradient.is_sparse:
            self._move(whole, gradient, group)
            return
        gradient = gradient.coalesce()
        (rows,) = gradient.indices()
        moved = [tensor[rows] for tensor in whole]
        self._move(moved, gradient.values(), group)
        for tensor, part in zip(whole, moved, strict=True):
            tensor.index_copy_(0, rows, part)

    def _move(self, tensors: Sequence[Tensor], gradient: Tensor, group: dict[str, Any]) -> None:
        """Change weights, n and z in place."""
        weight, accum, linear = tensors
        power, decay = -group["lr_power"], group["weight_decay"]
        gradient = gradient.add(weight, alpha=decay) if decay else gradient
        before = accum.pow(power)
        accum.addcmul_(gradient, gradient)
        after = accum.pow(power)
        linear.add_(gradient).addcmul_(before.sub_(after), weight, value=1 / group["lr"])
        # z drawn towards 0 by l1: what lies within l1 is 0, whatever the denominator, which may be 0 there
        shrunk = linear.clamp(-group["l1"], group["l1"]).sub_(linear)
        new = shrunk / after.div_(group["lr"]).add_(2 * group["l2"])
        weight.copy_(new.masked_fill_(shrunk == 0, 0.0))


class AdamWeightDecay(Weightwise):
    """Adam without bias correction, weight decay beside the gradient (BERT's optimizer, and MindSpore's):

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g**2;  w -= lr (m / (sqrt(v) + eps) + weight_decay w).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        """Raises ValueError for settings that it cannot be run with."""
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError("AdamWeightDecay wants betas in [0, 1), and lr, eps and weight_decay of at least 0")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            raise ConfigError("AdamWeightDecay wants dense gradients: make the Embedding with sparse=False")
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state["first"], state["second"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = state["first"] / state["second"].sqrt().add_(group["eps"])
        weight.add_(update.add_(weight, alpha=group["weight_decay"]), alpha=-group["lr"])


_OWN: dict[str, type[Optimizer]] = {"FTRL": FTRL, "Ftrl": FTRL, "AdamWeightDecay": AdamWeightDecay}


def is_known(name: str) -> bool:
    """Whether `make_optimizer` makes one of that name."""
    return _class_of(name) is not None


def make_optimizer(
    name: str, parameters: Iterable[Parameter], hyper_parameters: Mapping[str, Any], place: str
) -> Optimizer:
    """An optimizer of that name; `loss_scale` among its hyper parameters is not its own.

    place: file and line of its entry in the yaml. Raises ConfigError, naming it.
    """
    kind = _class_of(name)
    if kind is None:
        raise ConfigError(f"{place}: {_no_such(name)}")
    settings = _settings(name, kind, hyper_parameters, place)
    weights = list(parameters)
    try:
        return kind(weights, **{**_pace(kind, weights, settings), **settings})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{place}: optimizer {name} cannot be made: {error}") from error


def _class_of(name: str) -> type[Optimizer] | None:
    name = _ALSO.get(name, name)
    if name in _OWN or name in _NOT_OFFERED:
        return _OWN.get(name)
    kind = getattr(torch.optim, name, None)
    is_optimizer = isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    return kind if is_optimizer else None


def _no_such(name: str) -> str:
    if name in _NOT_OFFERED:
        return f"optimizer {name} is not offered: {_NOT_OFFERED[name]}"
    names = sorted({*filter(is_known, dir(torch.optim)), *_OWN, *_ALSO})
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no optimizer {name!r}; {hint}there are {', '.join(names)}; your own is given as FLModel(optimizers=...)"


def _settings(name: str, kind: type[Optimizer], hyper: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Hyper parameters as the class wants them."""
    known = set(inspect.signature(kind).parameters) - {"params"}
    settings: dict[str, Any] = {}
    for key, value in hyper.items():
        own = key if key in known else _ALIASES.get(key, key)
        if own in known:
            settings[own] = _number(value)
        elif key not in ("beta1", "beta2", "loss_scale", *_WITHOUT_MEANING) or (
            key[:-1] == "beta" and "betas" not in known
        ):
            near = get_close_matches(key, [*known, *_ALIASES, "beta1", "beta2"], n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{place}: {name} has no hyper parameter {key!r}{hint} It has {', '.join(sorted(known))}")
    if "beta1" in hyper or "beta2" in hyper:
        first, second = inspect.signature(kind).parameters["betas"].default
        settings["betas"] = (float(hyper.get("beta1", first)), float(hyper.get("beta2", second)))
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    return settings


def _pace(kind: type[Optimizer], weights: Sequence[Parameter], settings: Mapping[str, Any]) -> dict[str, bool]:
    """torch's Adam in its fused form, where nothing else is said: one pass over a weight instead of eight. Not those
    that take sparse gradients, which their fused forms refuse.
    """
    is_adam = kind in (torch.optim.Adam, torch.optim.AdamW)
    is_open = not any(key in settings for key in ("fused", "foreach", "capturable", "differentiable"))
    fits = all(weight.is_floating_point() and weight.device.type in ("cpu", "cuda") for weight in weights)
    return {"fused": True} if is_adam and is_open and weights and fits else {}


def _number(value: Any) -> Any:
    """YAML 1.1 reads `5e-6`, without a point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _loss_of(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
