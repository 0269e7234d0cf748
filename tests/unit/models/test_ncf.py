"""NCF computes what its paper says, from weights that a seed fixes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flps.models.ncf.build import build
from flps.models.ncf.hyper import NcfHyperParameters
from flps.models.ncf.model import NCF_GMF, NCF_MLP, Ncf, NCF_NeuMF
from flps.nn import apply_gradients
from flps.table import Adam, SparseTable

MODES = {"NCF_GMF": NCF_GMF, "NCF_MLP": NCF_MLP, "NCF_NeuMF": NCF_NeuMF}
DIMS = {"NCF_GMF": 8, "NCF_MLP": 32, "NCF_NeuMF": 40}


def small(mode: str, **sizes: Any) -> NcfHyperParameters:
    return NcfHyperParameters(mode=mode, **{"num_users": 7, "num_items": 11, **sizes})


def batch_of(size: int = 16, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "user_input": torch.randint(7, (size,), generator=generator),
        "item_input": torch.randint(11, (size,), generator=generator),
        "label": torch.randint(2, (size,), generator=generator).float(),
    }


def dense(model: Ncf) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if "embedding" not in name}


def rows(model: Ncf, batch: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        return model.user_embedding(batch["user_input"]).numpy(), model.item_embedding(batch["item_input"]).numpy()


def perceptron_by_hand(model: Ncf, pair: np.ndarray) -> np.ndarray:
    weights = [weight.detach().numpy() for name, weight in dense(model).items() if name.startswith("tower")]
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        pair = np.maximum(pair @ weight.T + bias, 0)
    return pair


@pytest.mark.parametrize("mode", MODES)
def test_the_formula_by_hand(mode: str) -> None:
    model, batch = build(small(mode), seed=3), batch_of()
    user, item = rows(model, batch)
    product = user[:, :8] * item[:, :8] if mode != "NCF_MLP" else None
    start = 8 if mode == "NCF_NeuMF" else 0
    tower = perceptron_by_hand(model, np.hstack([user[:, start:], item[:, start:]])) if mode != "NCF_GMF" else None
    features = np.hstack([part for part in (product, tower) if part is not None])
    weight, bias = model.prediction.weight.detach().numpy(), model.prediction.bias.detach().numpy()
    logits = model(batch)
    assert logits.shape == (16,)
    np.testing.assert_allclose(logits.detach().numpy(), (features @ weight.T + bias)[:, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_one_table_of_users_and_one_of_items(mode: str) -> None:
    model = build(small(mode), seed=0)
    assert type(model) is MODES[mode]
    for table, keys in (("user_embedding", 7), ("item_embedding", 11)):
        embedding = getattr(model, table)
        assert (embedding.name, embedding.spec.dim, embedding.spec.bound) == (table, DIMS[mode], keys)


@pytest.mark.parametrize(("mode", "numbers"), [("NCF_MLP", 2753), ("NCF_GMF", 9), ("NCF_NeuMF", 2761)])
def test_dense_weights_are_as_many_as_in_the_original(mode: str, numbers: int) -> None:
    assert sum(weight.numel() for weight in dense(build(small(mode), seed=0)).values()) == numbers


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_fixes_the_weights_and_the_global_generator_is_left_alone(mode: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (dense(build(small(mode), seed)) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["prediction.weight"], other["prediction.weight"])


def test_a_seed_fixes_the_rows_and_the_two_tables_differ() -> None:
    batch = batch_of()
    batch["item_input"] = batch["user_input"]
    users, items = rows(build(small("NCF_NeuMF"), seed=5), batch)
    same, _ = rows(build(small("NCF_NeuMF"), seed=5), batch)
    others, _ = rows(build(small("NCF_NeuMF"), seed=6), batch)
    assert np.array_equal(users, same)
    assert not np.isclose(users, items, atol=0).any(axis=1).all()
    assert not np.isclose(users, others, atol=0).any(axis=1).all()
    assert abs(users.std() - 0.01) < 0.002


def test_first_weights_follow_the_original() -> None:
    model = build(small("NCF_NeuMF", fc_layers=(512, 256, 64, 32)), seed=1)
    for name, weight in dense(model).items():
        if name.endswith("bias"):
            assert not weight.any()
        elif name.startswith("tower"):
            deviation = 1 / math.sqrt(weight.shape[1])
            assert weight.abs().max() <= 2 * deviation
            # A normal distribution cut at two deviations keeps 0.8796 of its deviation.
            assert weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.05)
    assert model.prediction.weight.abs().max() <= math.sqrt(6 / 64)
    assert model.prediction.weight.abs().max() > 0.8 * math.sqrt(6 / 64)


@given(st.lists(st.tuples(st.floats(-8, 8, width=32), st.integers(0, 1)), min_size=1, max_size=20))
def test_loss_is_the_mean_cross_entropy_and_its_gradient_p_minus_y(samples: list[tuple[float, int]]) -> None:
    logits = torch.tensor([logit for logit, _ in samples], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([label for _, label in samples])
    loss = build(small("NCF_GMF"), seed=0).loss(logits, {"label": labels})
    (gradient,) = torch.autograd.grad(loss, logits)
    p, y = torch.sigmoid(logits.detach()).numpy(), labels.numpy()
    assert loss.item() == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-9)
    np.testing.assert_allclose(gradient.numpy(), (p - y) / len(y), rtol=1e-6, atol=1e-12)
    paddle = -np.mean(y * np.log(p + 1e-4) + (1 - y) * np.log(1 - p + 1e-4))
    assert abs(loss.item() - paddle) < 0.27  # at |logit| = 8, all wrong; below 0.02 up to |logit| = 4


@pytest.mark.parametrize("mode", MODES)
def test_it_learns_a_small_truth(mode: str) -> None:
    model = build(small(mode), seed=2)
    users, items = torch.meshgrid(torch.arange(7), torch.arange(11), indexing="ij")
    batch = {"user_input": users.reshape(-1), "item_input": items.reshape(-1)}
    batch["label"] = ((batch["user_input"] + batch["item_input"]) % 2).float()
    for embedding in (model.user_embedding, model.item_embedding):
        embedding.table = SparseTable(msgspec.structs.replace(embedding.spec, rule=Adam(learning_rate=0.02)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = model.loss(model(batch), batch)
        loss.backward()
        optimizer.step()
        apply_gradients(model)
    assert loss.item() < 0.1


@pytest.mark.parametrize("mode", MODES)
def test_pure_bf16_is_the_same_within_its_eight_bits(mode: str) -> None:
    model, batch = build(small(mode), seed=4), batch_of(64)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
        loss = model.loss(rough, batch)
    assert rough.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert model.prediction.weight.grad is not None
    assert torch.isfinite(model.prediction.weight.grad).all()
    np.testing.assert_allclose(rough.detach().float().numpy(), exact.detach().numpy(), rtol=0.05, atol=5e-3)


@settings(max_examples=20)
@given(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_any_sizes_fit_together(mf_dim: int, widths: list[int]) -> None:
    layers = (2 * widths[0], *widths[1:])
    for mode in MODES:
        logits = build(small(mode, mf_dim=mf_dim, fc_layers=layers), seed=0)(batch_of(3))
        assert logits.shape == (3,)
