"""One backward gives every parameter and input what the terms that it lists would give it one by one."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flps.errors import ConfigError, FlpsError, ProtocolError
from flps.split.gradients import Term, Want, differentiate, leaves_of, terms_of, weights_of

A, B, C = (Term(name, 1.0) for name in "abc")
LEAVES = 4


def graph(uses: dict[str, list[int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Leaves, and outputs that each use some of them, through what they share."""
    source = torch.Generator().manual_seed(1)
    leaves = [torch.randn(3, generator=source, dtype=torch.float64, requires_grad=True) for _ in range(LEAVES)]
    shared = [leaf.sin() for leaf in leaves]
    outputs = {
        name: torch.stack([shared[index] * (index + 2) for index in used]).prod(dim=0)
        if used
        else torch.zeros(3).double()
        for name, used in uses.items()
    }
    return leaves, outputs


def one_by_one(outputs: dict[str, Tensor], weights: dict[Term, Tensor], want: Want) -> Tensor:
    """The definition: a backward for each term."""
    total = torch.zeros_like(want.leaf)
    for term in want.terms:
        if outputs[term.output].requires_grad:
            (gradient,) = torch.autograd.grad(
                outputs[term.output], want.leaf, weights[term], retain_graph=True, allow_unused=True
            )
            total = total if gradient is None else total + gradient
    return total


terms = st.builds(Term, st.sampled_from("abc"), st.sampled_from([1.0, "x"]), st.integers(0, 1))
wants = st.lists(st.tuples(st.integers(0, LEAVES - 1), st.frozensets(terms, min_size=1)), min_size=1, max_size=7)
uses = st.fixed_dictionaries({name: st.lists(st.integers(0, LEAVES - 1), max_size=3, unique=True) for name in "abc"})


@settings(max_examples=80)
@given(uses, wants)
def test_every_want_gets_the_sum_over_its_terms(
    uses: dict[str, list[int]], asked: list[tuple[int, frozenset[Term]]]
) -> None:
    leaves, outputs = graph(uses)
    all_terms = sorted({term for _, terms in asked for term in terms}, key=str)
    source = torch.Generator().manual_seed(2)
    weights = {term: torch.randn(3, generator=source, dtype=torch.float64) for term in all_terms}
    asked_for = [Want(leaves[index], terms) for index, terms in asked]
    expected = [one_by_one(outputs, weights, want) for want in asked_for]
    with patch("torch.autograd.backward", wraps=torch.autograd.backward) as backward:
        found = differentiate(outputs, weights, asked_for)
    for gradient, want, right in zip(found, asked_for, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(want.leaf) if gradient is None else gradient, right)
    given_out = [id(gradient) for gradient in found if gradient is not None]
    assert len(given_out) == len(set(given_out))
    assert all(want.leaf.grad is None for want in asked_for)
    assert backward.call_count <= len({want.terms for want in asked_for})
    if one_is_enough(outputs, weights, asked_for):
        assert backward.call_count <= 1


def one_is_enough(outputs: dict[str, Tensor], weights: dict[Term, Tensor], wants: list[Want]) -> bool:
    """Whether no term that some want needs reaches another that does not list it."""
    needed, unwanted = set(), set()
    for want in wants:
        reach = {term for term in weights if id(want.leaf) in leaves_of(outputs[term.output])}
        if reach & want.terms:
            needed |= reach & want.terms
            unwanted |= reach - want.terms
    return not needed & unwanted


@pytest.mark.parametrize(
    ("asked", "backwards"),
    [
        ([(0, {A}), (1, {B})], 1),  # as in W&D: wide from one output, deep from another
        ([(0, {A}), (1, {B}), (2, {B, C})], 1),
        ([(0, {A}), (2, {B})], 1),  # c reaches leaf 2, but nobody needs it
        ([(2, {B}), (2, {C})], 2),
        ([(2, {B}), (3, {C})], 2),
        ([(0, {B})], 0),  # b does not reach leaf 0
    ],
)
def test_another_backward_only_where_outputs_cannot_be_told_apart(
    asked: list[tuple[int, set[Term]]], backwards: int
) -> None:
    leaves, outputs = graph({"a": [0], "b": [1, 2], "c": [2, 3]})
    weights = {term: torch.ones(3).double() for term in (A, B, C)}
    asked_for = [Want(leaves[index], frozenset(terms)) for index, terms in asked]
    expected = [one_by_one(outputs, weights, want) for want in asked_for]
    with patch("torch.autograd.backward", wraps=torch.autograd.backward) as backward:
        found = differentiate(outputs, weights, asked_for)
    assert backward.call_count == backwards
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.zeros(3).double() if gradient is None else gradient, right)


def test_an_output_that_is_an_input_hands_its_weight_through() -> None:
    leaf, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    outputs = {"a": leaf, "b": leaf * other}
    weights = {A: torch.tensor([3.0, 4.0]), B: torch.ones(2)}
    found = differentiate(outputs, weights, [Want(leaf, frozenset({A})), Want(other, frozenset({B}))])
    assert found[0] is not None
    assert found[0].tolist() == [3, 4]
    assert found[1] is not None
    assert found[1].tolist() == [1, 1]


def test_a_part_of_the_graph_that_cannot_be_seen_is_refused_not_guessed() -> None:
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    class Hides(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, seen: Tensor) -> Tensor:
            return seen * second.detach()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            second.grad = gradient
            return gradient

    outputs = {"a": Hides.apply(first), "b": first.sin()}
    weights = {A: torch.ones(2), B: torch.ones(2)}
    with pytest.raises(FlpsError, match="use_reentrant"):
        differentiate(outputs, weights, [Want(first, frozenset({A})), Want(second, frozenset({A}))])


def test_terms_of_the_yaml() -> None:
    entries = [
        {"output": {"name": "a"}, "sens": 2},
        {"output": {"name": "a"}, "sens": 2.0},
        {"output": {"name": "b"}, "sens": "loss"},
        {"output": {"name": "b"}},
    ]
    assert terms_of(entries) == [Term("a", 2.0, 0), Term("a", 2.0, 1), Term("b", "loss"), Term("b", None)]


def test_weights_are_numbers_or_what_was_sent() -> None:
    outputs = {"a": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.float64)}
    listed = [Term("a", 4.0), Term("a", None), Term("b", "loss")]
    weights = weights_of("net", listed, outputs, {"loss": {"b": torch.tensor([1.0, 2.0])}}, 0.5)
    assert weights[listed[0]].shape == (2, 3)
    assert weights[listed[0]].unique().tolist() == [2.0]
    assert weights[listed[1]].unique().tolist() == [0.5]
    assert weights[listed[2]].dtype == torch.float64
    assert weights[listed[2]].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("sens", "error", "said"),
    [
        (None, ConfigError, "'b'.*'loss'.*no sens"),
        ({"los": {"b": torch.zeros(2)}}, ConfigError, "'loss'.*'los'"),
        ({"loss": {"a": torch.zeros(2)}}, ConfigError, r"sens\['loss'\] has no 'b'.*'a'"),
        ({"loss": {"b": torch.zeros(3)}}, ProtocolError, r"\(3,\).*\(2,\)"),
    ],
)
def test_a_weight_that_did_not_come_or_does_not_fit(sens: object, error: type[FlpsError], said: str) -> None:
    with pytest.raises(error, match=said):
        weights_of("net", [Term("b", "loss")], {"b": torch.zeros(2)}, sens, 1.0)  # type: ignore[arg-type]
