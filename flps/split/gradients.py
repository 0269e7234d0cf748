"""All gradients of a step, from one forward and one backward.

The yaml asks for gradients piece by piece: the entries of `opts[].grads` for parameters, `grad_scalers` for inputs.
Each piece is a *term*: an output of the net, and what it is weighted with (`sens`). A *want* is a tensor and the terms
whose sum it wants: of terms t with outputs y_t and weights s_t, the gradient of sum_t <s_t, y_t>.

Law 1: a net runs forward once in a step and its graph is the one that is differentiated: the gradient that is sent
belongs to the activation that was sent, dropout included.
Law 2: a backward over a set U of terms gives a tensor x the sum over those of U that reach x. With R(x) for the terms
whose graph reaches x, and W(x) for those that x wants, that is right exactly when U and R(x) share what W(x) and R(x)
share. R is read from the graph itself. One backward over all terms serves Wide&Deep and PanGu-alpha as their yaml
stands; only where some x is reached by a term that it does not list, and that somebody else needs, another backward
goes over the same graph: as few as first fit finds, and never a second forward.
Law 3: what no wanted term reaches has gradient 0 and costs no backward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flps.errors import ConfigError, FlpsError, ProtocolError

Sens: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # label -> name of this net's output -> its weight
Weight: TypeAlias = str | float | None


class Term(NamedTuple):
    """One output of the net, and what it is weighted with."""

    output: str
    sens: Weight  # a label in the `sens` of the step, a number for every element, or None: 1
    copy: int = 0  # listed twice it counts twice: the second is copy 1


class Want(NamedTuple):
    """The gradient that a leaf of the graph wants: of the sum of these terms."""

    leaf: Tensor
    terms: frozenset[Term]


class Pass(NamedTuple):
    """One backward: over these terms, for the wants of these numbers; `without`: terms that must stay out."""

    terms: set[Term]
    without: set[Term]
    wants: list[int]


def terms_of(entries: Iterable[Mapping[str, Any]]) -> list[Term]:
    """The terms of entries `{output: {name}, sens}` of the yaml, in their order."""
    seen: Counter[Term] = Counter()
    terms = []
    for entry in entries:
        sens = entry.get("sens")
        term = Term(entry["output"]["name"], float(sens) if isinstance(sens, int) else sens)
        terms.append(term._replace(copy=seen[term]))
        seen[term] += 1
    return terms


def weights_of(
    net: str, terms: Iterable[Term], outputs: Mapping[str, Tensor], sens: Sens | None, factor: float
) -> dict[Term, Tensor]:
    """Each term's weight, of its output's shape, type and device.

    factor: for weights that are numbers; those of other nets carry theirs. Raises ConfigError for a label that is not
    in `sens`, ProtocolError for a weight of another shape.
    """
    return {
        term: _sent(net, term, outputs[term.output], sens or {})
        if isinstance(term.sens, str)
        else torch.full_like(outputs[term.output], (1.0 if term.sens is None else term.sens) * factor)
        for term in terms
    }


def differentiate(
    outputs: Mapping[str, Tensor], weights: Mapping[Term, Tensor], wants: Sequence[Want]
) -> list[Tensor | None]:
    """Each want's gradient, in their order; None where no wanted term reaches the leaf.

    outputs: of one forward, with its graph, which is used up. What the leaves hold in `.grad` is lost.
    """
    live = {term for term in weights if outputs[term.output].requires_grad}
    passes, unseen = _passes(outputs, live, wants)
    found: list[Tensor | None] = [None] * len(wants)
    for number, step in enumerate(passes, start=1):
        _clear(wants)
        _backward(outputs, weights, step.terms, keep_graph=number < len(passes))
        for index, gradient in zip(step.wants, _collected([wants[index].leaf for index in step.wants]), strict=True):
            found[index] = gradient
        if any(leaf.grad is not None for leaf in unseen):
            raise FlpsError(
                "gradients came out of a part of the graph that cannot be seen (checkpoint with use_reentrant=True, or "
                "sharded parameters), so it cannot be told which output they belong to: list one set of outputs for "
                "all `opts` of this net, or use checkpoint(use_reentrant=False)"
            )
    _clear(wants)
    return found


def leaves_of(output: Tensor) -> set[int]:
    """`id` of every leaf that a tensor's graph reaches; of the tensor itself when it is one."""
    if output.grad_fn is None:
        return {id(output)} if output.requires_grad else set()
    found, seen, waiting = set(), {output.grad_fn}, [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::AccumulateGrad":
            found.add(id(node.variable))  # type: ignore[attr-defined]
        fresh = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= fresh
        waiting += fresh
    return found


def _passes(outputs: Mapping[str, Tensor], live: set[Term], wants: Sequence[Want]) -> tuple[list[Pass], list[Tensor]]:
    """As few backwards as first fit finds, one where one is enough; and the leaves that no graph shows."""
    if not live or not wants:
        return [], []
    if all(want.terms >= live for want in wants):  # no leaf can get what it does not want
        return [Pass(live, set(), list(range(len(wants))))], []
    leaves = {name: leaves_of(outputs[name]) for name in {term.output for term in live}}
    passes: list[Pass] = []
    unseen = []
    for index, (leaf, terms) in enumerate(wants):
        reach = {term for term in live if id(leaf) in leaves[term.output]}
        _place(passes, index, reach & terms, reach - terms)
        if not reach:
            unseen.append(leaf)
    return passes, unseen


def _place(passes: list[Pass], index: int, wanted: set[Term], unwanted: set[Term]) -> None:
    """Put a want into the first backward that can serve it, or into a new one."""
    if not wanted:
        return
    for step in passes:
        if not (wanted & step.without or unwanted & step.terms):
            break
    else:
        passes.append(step := Pass(set(), set(), []))
    step.terms.update(wanted)
    step.without.update(unwanted)
    step.wants.append(index)


def _backward(
    outputs: Mapping[str, Tensor], weights: Mapping[Term, Tensor], terms: Iterable[Term], keep_graph: bool
) -> None:
    """Fill `.grad` of the leaves. Terms of one output are one root of the backward; in the order of `weights`, so that
    the same step gives the same numbers."""
    chosen = set(terms)
    roots: dict[str, Tensor] = {}
    for term, weight in weights.items():
        if term in chosen:
            roots[term.output] = roots[term.output] + weight if term.output in roots else weight
    torch.autograd.backward([outputs[name] for name in roots], list(roots.values()), retain_graph=keep_graph)


def _collected(leaves: Iterable[Tensor]) -> list[Tensor | None]:
    """What the leaves hold in `.grad`. Two wants of one leaf get a tensor each: what an optimizer does to one in place
    must not reach the other."""
    taken: set[int] = set()
    gradients = []
    for leaf in leaves:
        gradient = leaf.grad
        gradients.append(gradient.clone() if gradient is not None and id(leaf) in taken else gradient)
        taken.add(id(leaf))
    return gradients


def _clear(wants: Iterable[Want]) -> None:
    for leaf, _ in wants:
        leaf.grad = None


def _sent(net: str, term: Term, output: Tensor, sens: Sens) -> Tensor:
    """The weight of a term as another net sent it."""
    label = str(term.sens)
    there = sens.get(label)
    if there is None:
        raise ConfigError(
            f"{net}: its yaml weights {term.output!r} with sens {label!r}, but backward_one_step got "
            + (f"sens {_names(sens)}" if sens else "no sens")
            + "; the label is the name of the output that the next net's grad_scalers differentiate"
        )
    if term.output not in there:
        raise ConfigError(
            f"{net}: sens[{label!r}] has no {term.output!r}, the output it is for; it has {_names(there)}"
        )
    weight = there[term.output]
    if weight.shape != output.shape:
        raise ProtocolError(
            f"{net}: sens[{label!r}][{term.output!r}] has shape {tuple(weight.shape)}, but {term.output!r} has shape "
            f"{tuple(output.shape)}: the gradient of an output has the output's shape"
        )
    return weight.detach().to(output.device, output.dtype)


def _names(tensors: Iterable[str]) -> str:
    return ", ".join(map(repr, tensors)) or "nothing"
