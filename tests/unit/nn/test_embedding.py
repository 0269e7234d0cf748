"""Our embedding against torch's, on the same first rows, step by step; duplicates, several forwards, any keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from flps.errors import Refused
from flps.nn import Embedding, Initializer, apply_gradients
from flps.table import Adagrad, Adam, Sgd, SparseTable
from flps.table.rules import AnyRule

ROWS, DIM = 30, 4

OPTIMIZERS: dict[str, tuple[AnyRule, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "adagrad": (Adagrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
}


def pair(rule: AnyRule) -> tuple[Embedding, nn.Embedding]:
    """Ours and torch's with the same rows."""
    ours = Embedding("items", DIM, rows=ROWS, rule=rule, init=Initializer("normal", 0.5), seed=3)
    theirs = nn.Embedding(ROWS, DIM, sparse=True)
    theirs.weight.data = torch.from_numpy(rows(ours))
    return ours, theirs


def rows(embedding: Embedding) -> Any:
    return embedding.table.pull(np.arange(ROWS, dtype=np.uint64))


def loss_of(looked_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return ((looked_up * weight) ** 2).sum() + torch.sigmoid(looked_up).sum()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_as_torch(name: str) -> None:
    rule, make = OPTIMIZERS[name]
    ours, theirs = pair(rule)
    optimizer = make([theirs.weight])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        keys = torch.randint(0, ROWS, (6, 3), generator=generator)  # with duplicates
        weight = torch.randn(6, 3, DIM, generator=generator)
        optimizer.zero_grad()
        with torch.sparse.check_sparse_tensor_invariants():  # torch wants to be told whether to
            loss_of(theirs(keys), weight).backward()
            optimizer.step()
        loss_of(ours(keys), weight).backward()
        apply_gradients(ours)
        assert rows(ours) == pytest.approx(theirs.weight.detach().numpy(), rel=1e-4, abs=1e-6)


def test_twenty_steps_of_adam_as_torch_adam_on_each_row_alone() -> None:
    """torch's SparseAdam counts steps for all rows together; ours for each row, as Adam on that row does."""
    ours, theirs = pair(Adam(0.05))
    alone = [nn.Parameter(row.clone()) for row in theirs.weight.detach()]
    optimizers = [torch.optim.Adam([row], 0.05) for row in alone]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        keys = torch.randint(0, ROWS, (8,), generator=generator)
        weight = torch.randn(8, DIM, generator=generator)
        loss_of(torch.stack([alone[key] for key in keys.tolist()]), weight).backward()
        for key in set(keys.tolist()):
            optimizers[key].step()
            optimizers[key].zero_grad()
        loss_of(ours(keys), weight).backward()
        apply_gradients(ours)
    assert rows(ours) == pytest.approx(torch.stack([row.detach() for row in alone]).numpy(), rel=1e-4, abs=1e-6)


def test_two_forwards_in_one_step_are_one_push_of_the_sum() -> None:
    once, twice = (Embedding("items", DIM, rows=ROWS, rule=Adam(0.1)) for _ in range(2))
    first, second = torch.tensor([1, 2, 2]), torch.tensor([2, 5])
    once(torch.cat([first, second])).pow(2).sum().backward()
    (twice(first).pow(2).sum() + twice(second).pow(2).sum()).backward()
    keys, gradient = twice.take_gradient()  # type: ignore[misc]
    expected_keys, expected = once.take_gradient()  # type: ignore[misc]
    assert keys.tolist() == expected_keys.tolist() == [1, 2, 5]
    assert gradient == pytest.approx(expected)
    assert twice.take_gradient() is None


def test_a_forward_that_the_loss_does_not_use_leaves_no_gradient() -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    embedding(torch.tensor([1]))
    embedding(torch.tensor([3])).sum().backward()
    keys, gradient = embedding.take_gradient()  # type: ignore[misc]
    assert keys.tolist() == [3]
    assert gradient.tolist() == [[1.0] * DIM]


def test_measuring_takes_no_gradients() -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    before = rows(embedding)
    assert not embedding.eval()(torch.tensor([1])).requires_grad
    with torch.no_grad():
        assert not embedding.train()(torch.tensor([1])).requires_grad
    assert embedding.take_gradient() is None
    apply_gradients(embedding)
    assert np.array_equal(rows(embedding), before)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    keys = torch.randint(0, ROWS, shape)
    looked_up = embedding(keys)
    assert looked_up.shape == (*shape, DIM)
    assert torch.equal(looked_up.detach(), torch.from_numpy(rows(embedding))[keys])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_any_integers_are_keys(dtype: torch.dtype) -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    keys = torch.tensor([3, 1, 4, 1])
    assert torch.equal(embedding(keys.to(dtype)), embedding(keys))
    assert len(embedding.table) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_what_is_no_integer_is_no_key(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="embedding items is looked up by integers, got"):
        Embedding("items", DIM, rows=ROWS)(torch.ones(2).to(dtype))


def test_strided_keys() -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    keys = torch.arange(24).reshape(4, 6)
    for view in (keys.T, keys[:, ::2], keys[::2, 1]):
        assert torch.equal(embedding(view), embedding(view.contiguous()))


def test_without_a_bound_any_64_bits_are_a_key() -> None:
    embedding = Embedding("any", DIM, rule=Sgd(1.0))
    keys = torch.tensor([2**63 - 1, -1, 0, -(2**63)])
    before = embedding(keys).detach().clone()
    embedding(keys).sum().backward()
    apply_gradients(embedding)
    assert embedding(keys).detach().numpy() == pytest.approx(before.numpy() - 1, abs=1e-6)
    stored = embedding.table.keys().tolist()  # type: ignore[attr-defined]
    assert sorted(stored) == [0, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("key", [-1, ROWS, 2**62])
def test_keys_out_of_range_are_refused(key: int) -> None:
    with pytest.raises(Refused, match=rf"out of range: the table has keys 0\.\.{ROWS - 1}"):
        Embedding("items", DIM, rows=ROWS)(torch.tensor([1, key]))


def test_staged_rows_are_used_for_their_batch_alone() -> None:
    embedding = Embedding("items", 2, rows=ROWS)
    staged = np.array([[1, 2], [3, 4]], np.float32)
    (lookup,) = embedding.lookups([np.array([9, 5, 9], np.uint64)])
    embedding.expect(lookup, staged[np.argsort(np.argsort(lookup.unique))])
    embedding.expect(lookup)  # who knows the batch only does not take the rows back
    looked_up = embedding(torch.tensor([9, 5, 9]))
    assert looked_up.tolist() == [[3, 4], [1, 2], [3, 4]]
    assert not np.isin(embedding(torch.tensor([5])).detach().numpy(), staged).any()
    looked_up.sum().backward()
    assert embedding.take_gradient()[1].tolist() == [[1, 1], [2, 2]]  # type: ignore[index]
    assert not np.isin(embedding(torch.tensor([9, 5])).detach().numpy(), staged).any()


def test_the_module_holds_no_parameter() -> None:
    embedding = Embedding("items", DIM, rows=ROWS, placement="private", feature="item")
    assert list(embedding.parameters()) == []
    assert embedding.state_dict() == {}
    assert "'items', dim=4, rows=30, placement=private" in repr(embedding)


def test_float64_rows() -> None:
    embedding = Embedding("items", DIM, rows=ROWS)
    embedding.table = SparseTable(msgspec.structs.replace(embedding.spec, dtype="float64"))
    looked_up = embedding(torch.tensor([1, 2]))
    assert looked_up.dtype == torch.float64
    looked_up.sum().backward()
    assert embedding.take_gradient()[1].dtype == np.float64  # type: ignore[index]


# --- shows and clicks ------------------------------------------------------------------------------------------------


def counted(labels: list[int]) -> Embedding:
    embedding = Embedding("items", DIM)
    embedding.is_counted, embedding.labels = True, np.array(labels)
    return embedding


def test_shows_and_clicks_of_a_step() -> None:
    embedding = counted([1, 0, 1])
    embedding(torch.tensor([7, 7, 2])).sum().backward()
    gradient = embedding.take_gradient()
    assert gradient is not None
    assert gradient[0].tolist() == [2, 7]
    assert embedding.counts is not None
    assert embedding.counts.tolist() == [[1, 1, 0], [2, 1, 0]]
    assert embedding.take_gradient() is embedding.counts is None


def test_columns_of_a_feature_are_slots_and_forwards_add_up() -> None:
    embedding = counted([1, 0])
    embedding(torch.tensor([[1, 2, 3], [1, 9, 1]])).sum().backward()
    embedding(torch.tensor([[4, 5, 6], [3, 8, 1]])).sum().backward()
    gradient = embedding.take_gradient()
    assert gradient is not None
    assert embedding.counts is not None
    got = dict(zip(gradient[0].tolist(), embedding.counts.tolist(), strict=True))
    assert got == {1: [4, 1, 2], 2: [1, 1, 1], 3: [2, 1, 0], 4: [1, 1, 0], 5: [1, 1, 1], 6: [1, 1, 2], 8: [1, 0, 1],
                   9: [1, 0, 1]}  # fmt: skip


def test_forwards_without_a_key_in_common_keep_their_order() -> None:
    embedding = counted([1, 0])
    embedding(torch.tensor([8, 9])).sum().backward()
    embedding(torch.tensor([1, 8 - 1])).sum().backward()
    gradient = embedding.take_gradient()
    assert gradient is not None
    assert embedding.counts is not None
    got = dict(zip(gradient[0].tolist(), embedding.counts[:, 1].tolist(), strict=True))
    assert got == {8: 1, 9: 0, 1: 1, 7: 0}


def test_look_ups_that_are_not_those_of_the_samples_have_no_clicks() -> None:
    embedding = counted([1, 1, 1])
    embedding(torch.tensor([5, 5, 5, 5])).sum().backward()
    embedding.take_gradient()
    assert embedding.counts is not None
    assert embedding.counts.tolist() == [[4, 0, 0]]
