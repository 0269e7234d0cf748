"""Unsplit: one backward of the joined model is what the parties' backwards are together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flps.models.wide_deep.cut import build_unsplit, party_seed
from flps.models.wide_deep.options import NetworkConfig

CONFIG = NetworkConfig(vocab_size=30, emb_dim=4, deep_layer_dim=(6, 5), l2_coef=0.1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch(fields: list[int]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    generator = torch.Generator().manual_seed(3)
    columns = [
        (torch.randint(0, 30, (11, f), generator=generator), torch.rand(11, f, generator=generator).double())
        for f in fields
    ]
    return columns, (torch.rand(11, 1, generator=generator) < 0.4).double()


@pytest.mark.parametrize("fields", [[4], [4, 3], [4, 3, 2]])
def test_gradients_by_hand_over_the_cut_are_those_of_the_joined_model(fields: list[int]) -> None:
    joined, parties = (build_unsplit(CONFIG, fields, seed=1).double() for _ in range(2))
    columns, label = batch(fields)
    outcome = joined(columns, label)
    torch.autograd.backward(outcome.loss + outcome.l2_regu)

    sent = [bottom(*own) for bottom, own in zip(parties.bottoms, columns, strict=True)]
    received = [tensor.detach().requires_grad_() for wide, deep, _ in sent for tensor in (wide, deep)]
    logits, loss = parties.top(*received, label)
    torch.autograd.backward(1024.0 * loss)
    for n, (wide, deep, l2_regu) in enumerate(sent):
        gradients = [received[2 * n].grad, received[2 * n + 1].grad, torch.tensor(1024.0).double()]
        torch.autograd.backward([wide, deep, l2_regu], gradients)

    assert torch.equal(outcome.logits, logits)
    for (name, mine), (_, theirs) in zip(joined.named_parameters(), parties.named_parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(theirs.grad / 1024, mine.grad, rtol=1e-12, atol=1e-18, msg=name)


def test_parameters_by_parts_of_names() -> None:
    model = build_unsplit(CONFIG, [4, 3])
    wide, deep = model.parameters_of("wide"), model.parameters_of("deep", "dense")
    assert [tuple(p.shape) for p in wide] == [(30, 1), (30, 1)]
    rest = {id(p) for p in model.parameters()} - {id(p) for p in (*wide, *deep)}
    assert rest == {id(bottom.get_parameter("net.Wide_b")) for bottom in model.bottoms}


def test_parties_begin_with_different_weights_and_the_same_ones_for_the_same_seed() -> None:
    assert len({party_seed(seed, party) for seed in range(5) for party in range(-1, 5)}) == 30
    first, again, other = (build_unsplit(CONFIG, [4, 4], seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "net.deep_embeddinglookup.embedding_table"
    assert not torch.equal(first[f"bottoms.0.{name}"], first[f"bottoms.1.{name}"])
    assert not torch.equal(first[f"bottoms.0.{name}"], other[f"bottoms.0.{name}"])


def test_finite_differences_of_what_crosses_the_cut() -> None:
    model = build_unsplit(CONFIG, [4, 3], seed=1).double()
    columns, label = batch([4, 3])
    received = [tensor.detach() for bottom, own in zip(model.bottoms, columns, strict=True)
                for tensor in bottom(*own)[:2]]  # fmt: skip

    def loss(*embeddings: Tensor) -> Tensor:
        value: Tensor = model.top(*embeddings, label)[1]
        return value

    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in received])
