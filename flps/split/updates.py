"""Which parameters an entry of `opts` trains, by what gradient, and the optimizer that does it.

Law 1: a parameter belongs to an entry when its name contains one of the names under `params` (case counts); without
`params` every one does. A tied parameter goes by each of its names. Names that no parameter contains are an error.
Law 2: the gradient of a parameter is the sum over the `grads` whose own `params`, or else the entry's, name it.
Law 3: an optimizer finds the gradients in `.grad`, divided by the loss scale, and they are gone when it is done. All
gradients of a step are of the weights before the step: one entry's update does not change what the next one gets.

An optimizer that is given is a torch.optim.Optimizer, or anything callable as `optimizer(*inputs, sens=...)`: it is
called once a step, after `.grad` of the entry's parameters has been filled, with the net's inputs in the yaml's order
and what backward_one_step was given as `sens` (left out when nothing was). It runs no forward and no backward. With
`state_dict` and `load_state_dict` it is part of the checkpoints.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from flps.errors import ConfigError
from flps.split.gradients import Sens, Term, terms_of
from flps.split.optimizers import make_optimizer
from flps.split.scale import divisor_of

log = logging.getLogger(__name__)
Where = Callable[[str], str]


@dataclass
class Update:
    """What one entry of `opts` does in a step; of all entries together, where one optimizer is given for them."""

    name: str  # the entry's `type`
    optimizer: Optimizer | Callable[..., object]
    parameters: dict[str, Parameter]  # by its first name; only those that have a gradient to get
    terms: dict[str, frozenset[Term]]  # parameter -> the terms of its gradient
    divisor: float  # loss scale at first
    is_given: bool  # not made from the yaml

    def step(
        self, gradients: Mapping[str, Tensor | None], ratio: float, inputs: Sequence[Tensor], sens: Sens | None
    ) -> None:
        """Update the parameters. gradients: by parameter, used up; ratio: how far the loss scale has moved."""
        divisor = self.divisor * ratio
        for name, parameter in self.parameters.items():
            gradient = gradients[name]
            parameter.grad = gradient if gradient is None or divisor == 1 else gradient.div_(divisor)
        try:
            if isinstance(self.optimizer, Optimizer):
                self.optimizer.step()
            elif sens:
                self.optimizer(*inputs, sens=sens)
            else:
                self.optimizer(*inputs)
        finally:
            for parameter in self.parameters.values():
                parameter.grad = None

    def state(self) -> dict[str, Any] | None:
        """What the optimizer remembers, for a checkpoint; None when it does not say."""
        if not isinstance(self.optimizer, Optimizer) and not hasattr(self.optimizer, "state_dict"):
            log.warning("optimizer %s has no state_dict: what it remembers is not in the checkpoint", self.name)
            return None
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def take_up(self, state: dict[str, Any] | None, keeps_settings: bool) -> None:
        """Go on with what `state` gave. keeps_settings: an optimizer of the yaml keeps its learning rate, eps, ..."""
        if state is None:
            return
        if keeps_settings and isinstance(self.optimizer, Optimizer) and not self.is_given:
            settings = [
                {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
            ]
            state = {
                **state,
                "param_groups": [{**group, **own} for group, own in zip(state["param_groups"], settings, strict=True)],
            }
        load = getattr(self.optimizer, "load_state_dict")  # noqa: B009  a callable's type does not tell of it
        load(state)


def updates_of(
    net: str, network: nn.Module, opts: Sequence[Mapping[str, Any]], given: object, where: Where
) -> list[Update]:
    """One update for each entry of `opts`.

    given: None (the optimizers are made from the yaml), one optimizer, or a list of them. As many as there are entries
    go by their order; a single one gets the gradients of all. Raises ConfigError with all complaints.
    """
    names = names_of(network)
    chosen: list[dict[str, frozenset[Term]]] = []
    complaints: list[str] = []
    for index, opt in enumerate(opts):
        try:
            chosen.append(_terms(f"opts[{index}]", opt, names, where))
        except ConfigError as error:
            complaints.append(str(error))
    if complaints:
        raise ConfigError("\n".join(complaints))
    parameters = {every[0]: parameter for parameter, every in names.items()}
    if given is None:
        return [
            _made(index, opt, terms, parameters, where)
            for index, (opt, terms) in enumerate(zip(opts, chosen, strict=True))
        ]
    return _given(net, given, opts, chosen, parameters)


def names_of(network: nn.Module) -> dict[Parameter, list[str]]:
    """Every parameter that can be trained, and all its names."""
    names: dict[Parameter, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(parameter, []).append(name)
    return names


def untrained(network: nn.Module, updates: Iterable[Update]) -> list[str]:
    """Parameters that could be trained, and that no entry of `opts` gives a gradient to."""
    trained = {name for update in updates for name in update.parameters}
    return [every[0] for every in names_of(network).values() if every[0] not in trained]


def _terms(
    key: str, opt: Mapping[str, Any], names: Mapping[Parameter, list[str]], where: Where
) -> dict[str, frozenset[Term]]:
    """Parameter -> the terms of its gradient, for one entry of `opts`."""
    own = _matching(f"{key}.params", opt.get("params"), names, where)
    grads = list(opt.get("grads") or ())
    listed: dict[str, list[int]] = {name: [] for name in own}
    for number, grad in enumerate(grads):
        said = _matching(f"{key}.grads[{number}].params", grad.get("params"), names, where)
        for name in own:
            if name in said:
                listed[name].append(number)
    return {
        name: frozenset(terms_of(grads[number] for number in numbers)) for name, numbers in listed.items() if numbers
    }


def _matching(
    key: str, params: Sequence[Mapping[str, Any]] | None, names: Mapping[Parameter, list[str]], where: Where
) -> list[str]:
    """First names of the parameters that the yaml's `params` names; each once, in the net's order.

    One of several that matches nothing is told, no more: the original's files name parts that only other nets have.
    """
    if not params:
        return [every[0] for every in names.values()]
    pieces = [str(entry["name"]) for entry in params]
    there = ", ".join(every[0] for every in names.values())
    idle = [n for n, piece in enumerate(pieces) if not any(piece in name for every in names.values() for name in every)]
    complaints = [
        f"{where(f'{key}[{n}].name')}: no parameter's name contains {pieces[n]!r}; this net has {there}" for n in idle
    ]
    if len(idle) == len(pieces):
        raise ConfigError("\n".join(complaints))
    for complaint in complaints:
        log.warning("%s", complaint)
    return [every[0] for every in names.values() if any(piece in name for piece in pieces for name in every)]


def _made(
    index: int,
    opt: Mapping[str, Any],
    terms: dict[str, frozenset[Term]],
    parameters: Mapping[str, Parameter],
    where: Where,
) -> Update:
    own = {name: parameters[name] for name in terms}
    place = where(f"opts[{index}].type")
    optimizer = make_optimizer(str(opt["type"]), own.values(), opt.get("hyper_parameters") or {}, place)
    return Update(str(opt["type"]), optimizer, own, terms, divisor_of(opt), is_given=False)


def _given(
    net: str,
    given: object,
    opts: Sequence[Mapping[str, Any]],
    chosen: list[dict[str, frozenset[Term]]],
    parameters: Mapping[str, Parameter],
) -> list[Update]:
    optimizers: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    odd = [optimizer for optimizer in optimizers if not (isinstance(optimizer, Optimizer) or callable(optimizer))]
    if odd:
        raise TypeError(f"FLModel: an optimizer is a torch.optim.Optimizer or a callable, got {type(odd[0]).__name__}")
    if len(optimizers) == 1 and len(opts) > 1:
        opts, chosen = [_joined(opts)], [_joined_terms(opts, chosen)]
    if len(optimizers) != len(opts):
        raise ConfigError(
            f"{net}: {len(optimizers)} optimizers were given for {len(opts)} entries of opts; give one, or {len(opts)}"
        )
    updates = []
    for optimizer, opt, terms in zip(optimizers, opts, chosen, strict=True):
        own = {name: parameters[name] for name in terms}
        updates.append(Update(str(opt["type"]), optimizer, own, terms, divisor_of(opt), is_given=True))
    return updates


def _joined(opts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the entries say together to the one optimizer that serves them all."""
    divisors = {divisor_of(opt) for opt in opts}
    if len(divisors) > 1:
        raise ConfigError(f"one optimizer was given for entries of opts with different loss_scale: {sorted(divisors)}")
    return opts[0]


def _joined_terms(
    opts: Sequence[Mapping[str, Any]], chosen: list[dict[str, frozenset[Term]]]
) -> dict[str, frozenset[Term]]:
    """Parameter -> the terms of all its entries; one listed by two entries counts twice."""
    joined: dict[str, list[Term]] = {}
    for terms in chosen:
        for name, own in terms.items():
            joined.setdefault(name, []).extend(own)
    return {name: frozenset(_recounted(terms)) for name, terms in joined.items()}


def _recounted(terms: Iterable[Term]) -> list[Term]:
    seen: Counter[Term] = Counter()
    recounted = []
    for term in terms:
        plain = term._replace(copy=0)
        recounted.append(plain._replace(copy=seen[plain]))
        seen[plain] += 1
    return recounted
