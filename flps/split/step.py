"""One step of a net between its forward and its update: what is asked of the graph, and what came out.

Plan    which gradients the yaml asks for, and of which terms; the same in every step
Found   what one backward gave
Held    what the backwards of a step have added up to
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flps.errors import FlpsError
from flps.split.forward import Forward
from flps.split.gradients import Sens, Term, Want, differentiate, terms_of, weights_of
from flps.split.scale import is_finite
from flps.split.updates import Update

log = logging.getLogger(__name__)
Scales: TypeAlias = "dict[str, OrderedDict[str, Tensor]]"  # label -> input -> gradient: the `sens` of the nets before
Gradients: TypeAlias = "list[dict[str, Tensor | None]]"  # of each update, by parameter


@dataclass
class Found:
    """What a backward gave."""

    gradients: Gradients
    scales: Scales
    is_overflow: bool


@dataclass
class Held:
    """Gradients that wait for the update."""

    gradients: Gradients = field(default_factory=list)
    inputs: Sequence[Tensor] = ()  # of the last forward, for optimizers that are given
    sens: Sens | None = None

    def add(self, gradients: Gradients, inputs: Sequence[Tensor], sens: Sens | None) -> None:
        """Add those of one more backward."""
        self.inputs, self.sens = inputs, sens
        if not self.gradients:
            self.gradients = gradients
            return
        for held, more in zip(self.gradients, gradients, strict=True):
            for name, gradient in more.items():
                before = held[name]
                held[name] = gradient if before is None else before if gradient is None else before.add_(gradient)


class Plan:
    """What a yaml asks of the graph of a forward."""

    def __init__(self, net: str, updates: Sequence[Update], grad_scalers: Iterable[Mapping[str, Any]]) -> None:
        self._net = net
        self._updates = updates
        self._scalers = [
            (term.output, [str(entry["name"]) for entry in scaler["inputs"]], term)
            for scaler in grad_scalers
            for term in terms_of([scaler])
        ]
        asked = [*(term for _, _, term in self._scalers), *self._of_updates()]
        self._terms = list(dict.fromkeys(asked))
        self._noted: set[str] = set()

    @property
    def inputs(self) -> list[str]:
        """Inputs whose gradient is asked for."""
        return list(dict.fromkeys(name for _, names, _ in self._scalers for name in names))

    def back(self, forward: Forward, sens: Sens | None, factor: float, is_checked: bool) -> Found:
        """All that is asked for, in one backward. factor: of the yaml's numbers in `sens`; is_checked: look for
        overflows. Raises as gradients.weights_of does.
        """
        weights = weights_of(self._net, self._terms, forward.outputs, sens, factor)
        self._expect_graph(forward)
        parameters = [
            (index, name, Want(parameter, update.terms[name]))
            for index, update in enumerate(self._updates)
            for name, parameter in update.parameters.items()
        ]
        inputs = [
            (label, name, Want(forward.leaves[name], frozenset([term])))
            for label, names, term in self._scalers
            for name in names
            if name in forward.leaves
        ]
        wants = [want for _, _, want in (*parameters, *inputs)]
        found = differentiate(forward.outputs, weights, wants)
        is_overflow = is_checked and not is_finite([*weights.values(), *found])
        gradients: Gradients = [{} for _ in self._updates]
        for (index, name, _), gradient in zip(parameters, found, strict=False):
            gradients[index][name] = gradient
        scales: Scales = {label: OrderedDict() for label, _, _ in self._scalers}
        for (label, name, want), gradient in zip(inputs, found[len(parameters) :], strict=True):
            gradient = torch.zeros_like(want.leaf) if gradient is None else gradient
            # Whoever gets the gradients of a step that overflowed must see that it did, whatever part of it they get.
            scales[label][name] = torch.full_like(gradient, torch.nan) if is_overflow else gradient.detach()
        return Found(gradients, scales, is_overflow)

    def _of_updates(self) -> Iterable[Term]:
        """Terms in an order that does not change from run to run, as that of a set of texts does."""
        for update in self._updates:
            for terms in update.terms.values():
                yield from sorted(terms, key=lambda term: (term.output, str(term.sens), term.copy))

    def _expect_graph(self, forward: Forward) -> None:
        """Raises FlpsError for a forward that cannot be gone back; notes once what has no gradient."""
        if not forward.has_graph:
            raise FlpsError(f"{self._net}: the forward ran within torch.no_grad(), so there is no way back through it")
        for name in self.inputs:
            if name not in forward.leaves:
                kind = forward.inputs[name].dtype
                self._note(f"grad_scalers: input {name!r} is {kind} and has no gradient; it is left out")
        for name in {term.output for term in self._terms}:
            if not forward.outputs[name].requires_grad:
                self._note(f"output {name!r} depends on nothing that is trained: it gives no gradients")

    def _note(self, what: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            log.warning("%s: %s", self._net, what)
