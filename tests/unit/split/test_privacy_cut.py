"""EmbeddingDP and CutNoise: what goes out, what comes back, and that the accounts are right."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest, norm  # type: ignore[import-untyped]

from flps.compression import CompressConfig, compress
from flps.split.privacy import Budget, CutNoise, EmbeddingDP, gaussian_epsilon


def within(count: float, trials: int, chance: float) -> bool:
    return bool(binom.ppf(5e-7, trials, chance) <= count <= binom.isf(5e-7, trials, chance))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- EmbeddingDP -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0, 1, 5.0])
def test_bits_are_right_as_often_as_the_formula_says(eps: float) -> None:
    embedding = some(200, 300)
    before, bits = embedding.clone(), EmbeddingDP(eps, seed=1)(embedding)
    assert torch.equal(embedding, before)
    assert (bits.shape, bits.dtype) == (embedding.shape, embedding.dtype)
    right = math.exp(eps / 2) / (math.exp(eps / 2) + 1)
    ones, zeros = bits[embedding > 0], bits[embedding <= 0]
    assert within(int((ones == 1).sum()), ones.numel(), right)
    assert within(int((zeros == 1).sum()), zeros.numel(), 1 - right)
    assert bool(((bits == 0) | (bits == 1)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_without_eps_only_the_signs_go_out(dtype: torch.dtype) -> None:
    protect = EmbeddingDP(seed=0)
    bits = protect(torch.tensor([[-1.5, 0, 1e-3]], dtype=dtype))
    assert bits.tolist() == [[0, 0, 1]]
    assert bits.dtype == dtype
    assert protect.spent.epsilon == math.inf
    assert "Nothing is promised" in protect.statement


def test_the_gradient_goes_straight_through() -> None:
    embedding = some(4, 5).requires_grad_()
    gradient = some(4, 5, seed=1)
    EmbeddingDP(2, seed=0)(embedding).backward(gradient)  # type: ignore[no-untyped-call]
    assert embedding.grad is not None
    assert torch.equal(embedding.grad, gradient)


def test_bits_fit_one_bit() -> None:
    packed = compress("embedding", EmbeddingDP(2, seed=0)(some(8, 16)).numpy(), CompressConfig("bit_pack", 1))
    assert (packed.kind, packed.nbytes) == ("bit_pack", 16)


def test_noise_is_of_the_seed_and_the_call() -> None:
    embedding, first, second = some(50, 20), EmbeddingDP(0, seed=3), EmbeddingDP(0, seed=3)
    one, two = first(embedding), first(embedding)
    assert torch.equal(second(embedding), one)
    assert not torch.equal(one, two)
    third = EmbeddingDP(0)
    third.load_state_dict(second.state_dict())
    assert torch.equal(third(embedding), two)
    assert third.spent == first.spent


def test_the_account_of_bits_and_rows() -> None:
    protect = EmbeddingDP(5, seed=0, rows_per_epoch=100)
    assert protect.spent[1:4] == (0, 0, 0)
    for _ in range(30):
        protect(some(10, 4, 8))
    row = 32 * 5 / 2
    assert protect.spent == ("embedding_dp", 3 * row, 0, 3, {"epsilon_per_bit": 2.5, "epsilon_per_release": row})
    protect(some(10, 4, 8))
    assert protect.spent.epsilon == 4 * row  # the fourth epoch has begun
    careful = EmbeddingDP(5, seed=0)
    for _ in range(3):
        careful(some(10, 4))
    assert careful.spent.releases == 3
    assert "epsilon 2.5 for each bit" in careful.statement
    assert "10 for a whole row of 4 numbers, and 30 for the 3 times" in careful.statement


@pytest.mark.parametrize(
    ("embedding", "kind"),
    [
        ([1.0], TypeError),
        (torch.ones(2, dtype=torch.int64), TypeError),
        (torch.tensor([[math.nan]]), ValueError),
        (torch.tensor(1.0), ValueError),
    ],
)
def test_what_is_no_embedding_is_refused(embedding: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="EmbeddingDP takes"):
        EmbeddingDP(1, seed=0)(embedding)


# --- CutNoise --------------------------------------------------------------------------------------------------------


def test_rows_are_cut_together_over_all_tensors() -> None:
    wide, deep = some(20, 1), some(20, 3, 2)
    cut = CutNoise(0.5, 0, seed=0)(OrderedDict(wide=wide, deep=deep))
    assert isinstance(cut, OrderedDict)
    before = torch.cat([wide, deep.reshape(20, -1)], dim=1).norm(dim=1)
    after = torch.cat([cut["wide"], cut["deep"].reshape(20, -1)], dim=1).norm(dim=1)
    assert torch.allclose(after, before.clamp(max=0.5))
    short = torch.full((2, 3), 1e-3)
    assert torch.equal(CutNoise(0.5, 0, seed=0)(short), short)
    assert torch.equal(CutNoise(0.5, 0, seed=0)(torch.zeros(2, 3)), torch.zeros(2, 3))


@given(st.floats(1e-3, 1e3), st.floats(1e-30, 1e30), st.integers(0, 5), st.integers(0, 4))
def test_no_row_is_longer_than_the_clip(clip: float, size: float, rows: int, width: int) -> None:
    cut = CutNoise(clip, 0, seed=0)(torch.full((rows, width), size, dtype=torch.float64))
    assert cut.shape == (rows, width)
    assert bool((cut.norm(dim=1) <= clip * (1 + 1e-12)).all())


def test_the_noise_is_normal() -> None:
    zeros = torch.zeros(300, 101)
    noise = CutNoise(0.1, 3, seed=5)(zeros).double().numpy().reshape(-1) / (0.1 * 3)
    assert kstest(noise, norm.cdf).pvalue > 1e-3
    assert abs(float(np.corrcoef(noise[1:], noise[:-1])[0, 1])) < 0.03
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_noise_is_of_the_seed_and_the_call_here_too() -> None:
    gradient, first = some(8, 3), CutNoise(1, 1, seed=9)
    one, two = first(gradient), first(gradient)
    second = CutNoise(1, 1, seed=9)
    assert torch.equal(second(gradient), one)
    assert not torch.equal(one, two)
    third = CutNoise(1, 1)
    third.load_state_dict(second.state_dict())
    assert torch.equal(third(gradient), two)
    assert third.spent == first.spent


def test_a_loss_scale_is_scaled_with() -> None:
    gradient = some(8, 3).double()
    plain, scaled = CutNoise(0.1, 2, seed=1)(gradient), CutNoise(0.1, 2, seed=1)(gradient * 1024, scale=1024)
    assert torch.allclose(plain * 1024, scaled, rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_overflow_stays_one_and_says_no_more(bad: float) -> None:
    gradient = some(4, 3)
    gradient[1, 2] = bad
    cut = CutNoise(1, 1, seed=0)({"a": gradient, "b": some(4, 2)})
    assert bool(cut["a"].isnan().all())
    assert bool(cut["b"].isnan().all())


def test_the_account_composes_over_epochs() -> None:
    protect = CutNoise(1, 8, seed=0, delta=1e-6, rows_per_epoch=40)
    for _ in range(12):
        protect(some(10, 2))
    assert protect.spent.releases == 3
    assert protect.spent.epsilon == gaussian_epsilon(3, 4, 1e-6) == protect.epsilon(3)
    numbers = Budget([protect, EmbeddingDP(None, seed=0)]).numbers()
    assert numbers["cut_noise_delta"] == 1e-6
    assert numbers["cut_noise_epsilon_per_release"] == protect.epsilon(1)
    assert numbers["embedding_dp_epsilon_per_bit"] == math.inf
    assert "does not cover what a row leaves in the sender's weights" in Budget([protect]).statements()[0]
    assert CutNoise(1, 0, seed=0).epsilon(1) == math.inf
    assert "Nothing is promised" in CutNoise(1, 0, seed=0).statement


@pytest.mark.parametrize("releases", [1, 20, 1000])
@pytest.mark.parametrize("multiplier", [0.5, 4.0, 100.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_epsilon_is_the_least_over_all_orders(releases: int, multiplier: float, delta: float) -> None:
    """And enough: the exact delta of Gaussian mechanisms (Balle and Wang 2018) at that epsilon is below the given."""
    found = gaussian_epsilon(releases, multiplier, delta)
    orders = 1 + np.geomspace(1e-4, 1e6, 20_001)
    grid = releases * orders / (2 * multiplier**2) + math.log(1 / delta) / (orders - 1)
    assert found <= grid.min()
    assert found == pytest.approx(grid.min(), rel=1e-4)
    distance = math.sqrt(releases) / multiplier
    exact = norm.cdf(distance / 2 - found / distance)
    exact -= math.exp(found + norm.logcdf(-distance / 2 - found / distance))
    assert exact <= delta


@given(st.integers(1, 10**6), st.floats(0.1, 1e3), st.floats(1e-12, 0.5))
def test_more_releases_cost_more_and_more_noise_less(releases: int, multiplier: float, delta: float) -> None:
    found = gaussian_epsilon(releases, multiplier, delta)
    assert 0 < found < gaussian_epsilon(2 * releases, multiplier, delta) <= 2 * found * (1 + 1e-12)
    assert gaussian_epsilon(releases, 2 * multiplier, delta) < found
    assert gaussian_epsilon(releases, multiplier, delta / 2) > found
    assert gaussian_epsilon(0, multiplier, delta) == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"clip": 0, "noise": 1}, "clip must be above 0"),
        ({"clip": 1, "noise": -1}, "noise cannot be negative"),
        ({"clip": math.inf, "noise": 1}, "clip must be finite"),
        ({"clip": 1, "noise": 1, "delta": 1.0}, "delta"),
        ({"clip": 1, "noise": 1, "delta": 0}, "delta"),
        ({"clip": 1, "noise": 1, "rows_per_epoch": 0}, "rows_per_epoch"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CutNoise(**settings)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same rows, got \{'a': \(2, 1\), 'b': \(3, 1\)\}"):
        CutNoise(1, 1, seed=0)({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})
    with pytest.raises(ValueError, match="same rows"):
        CutNoise(1, 1, seed=0)(torch.tensor(1.0))
