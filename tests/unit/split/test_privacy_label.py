"""LabelDP: its coins are those of the formula, tossed once for each row, and nobody averages them out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom  # type: ignore[import-untyped]

from flps.errors import ConfigError
from flps.split.privacy import Budget, LabelDP

ROWS = 40_000
IDS = torch.arange(ROWS)


def within(count: float, trials: int, chance: float) -> bool:
    """Whether a fair count is this far from its mean once in a million (exact; seeds are fixed)."""
    return bool(binom.ppf(5e-7, trials, chance) <= count <= binom.isf(5e-7, trials, chance))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("eps", [0, 0.5, 1, 4.0])
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("ids", [IDS, None])
def test_labels_are_flipped_as_often_as_the_formula_says(eps: float, shape: tuple[int, ...], ids: Any) -> None:
    labels = (torch.arange(ROWS) % 4 == 0).float().reshape(shape)
    before, noisy = labels.clone(), LabelDP(eps, seed=7)(labels, ids)
    assert torch.equal(labels, before)
    assert (noisy.shape, noisy.dtype) == (labels.shape, labels.dtype)
    for label in (0, 1):
        is_it = labels == label
        flipped = int((noisy[is_it] != label).sum())
        assert within(flipped, int(is_it.sum()), 1 / (math.exp(eps) + 1))


@pytest.mark.parametrize(("eps", "options"), [(0, 3), (1, 2), (1, 5), (3, 10)])
def test_one_hot_labels_go_to_any_other_class_alike(eps: float, options: int) -> None:
    classes = torch.arange(ROWS) % options
    labels = torch.nn.functional.one_hot(classes, options).double()
    noisy = LabelDP(eps, seed=3)(labels, IDS)
    assert (noisy.shape, noisy.dtype) == (labels.shape, torch.float64)
    assert bool((noisy.sum(dim=1) == 1).all())
    found = noisy.argmax(dim=1)
    kept = math.exp(eps) / (math.exp(eps) + options - 1)
    for label in range(options):
        counts = torch.bincount(found[classes == label], minlength=options)
        trials = int(counts.sum())
        for answer, count in enumerate(counts.tolist()):
            assert within(count, trials, kept if answer == label else (1 - kept) / (options - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.bool])
def test_labels_keep_their_type(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 1, 0]).to(dtype)
    noisy = LabelDP(1, seed=0)(labels, torch.arange(4))
    assert noisy.dtype == dtype
    assert bool(((noisy == 0) | (noisy == 1)).all())
    assert LabelDP(1.0, seed=0)(torch.zeros(0, 3), torch.arange(0)).shape == (0, 3)


def test_averaging_epochs_gains_nothing() -> None:
    """The attack on noise that is fresh in each epoch: here all 15 answers are the same one."""
    generator = torch.Generator().manual_seed(5)
    labels = (torch.rand(ROWS, generator=generator) < 0.256).float()
    protect, answers = LabelDP(1, seed=11), torch.zeros(15, ROWS)
    for epoch in range(15):
        for batch in torch.split(torch.randperm(ROWS, generator=generator), 1600):
            answers[epoch, batch] = protect(labels[batch], IDS[batch])
    assert bool((answers == answers[0]).all())
    majority = (answers.mean(dim=0) > 0.5).float()
    assert within(int((majority == labels).sum()), ROWS, math.e / (math.e + 1))
    assert protect.spent.epsilon == 1
    careless = LabelDP(1, seed=11)
    fresh = torch.stack([careless(labels) for _ in range(15)])
    assert float(((fresh.mean(dim=0) > 0.5).float() == labels).float().mean()) > 0.97  # what is prevented above
    assert careless.spent.epsilon == 15
    assert "15 calls so far" in careless.statement


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30, unique=True), st.randoms())
def test_a_row_s_answer_is_its_own(ids: list[int], order: Any) -> None:
    labels = torch.tensor([number % 2 for number in ids])
    protect = LabelDP(0.3, seed=b"sixteen bytes or more")
    noisy = dict(zip(ids, protect(labels, torch.tensor(ids)).tolist(), strict=True))
    order.shuffle(ids)
    again = LabelDP(0.3, seed=b"sixteen bytes or more")
    for number in ids:
        assert again(torch.tensor([number % 2]), np.array([number])).item() == noisy[number]


def test_two_labels_of_one_row_have_coins_of_their_own() -> None:
    """Else two answers would tell whether the labels behind them differ."""
    protect = LabelDP(1, seed=2)
    zeros = protect(torch.zeros(ROWS), IDS)
    ones = protect(torch.ones(ROWS), IDS)
    lie = protect.lie()
    assert within(int(((zeros == 1) & (ones == 0)).sum()), ROWS, lie**2)
    assert within(int(((zeros == 0) & (ones == 1)).sum()), ROWS, (1 - lie) ** 2)


def test_rows_and_seeds_are_independent() -> None:
    zeros = torch.zeros(ROWS)
    coins = LabelDP(0, seed=1)(zeros, IDS)
    assert within(int((coins[1:] == coins[:-1]).sum()), ROWS - 1, 0.5)
    for other in (LabelDP(0, seed=2)(zeros, IDS), LabelDP(0)(zeros, IDS), LabelDP(0, seed=1)(zeros, IDS + 1)):
        assert within(int((coins == other).sum()), ROWS, 0.5)
    assert torch.equal(coins, LabelDP(0, seed=1)(zeros, IDS))


def test_two_labels_of_a_row_are_noised_apart() -> None:
    protect, ones = LabelDP(0, seed=1), torch.ones(ROWS)
    click, buy = protect(ones, IDS, name="click"), protect(ones, IDS, name="buy")
    assert within(int((click == buy).sum()), ROWS, 0.5)
    assert protect.spent.releases == 2


def test_names_are_ids_too() -> None:
    labels, names = torch.ones(1000), [f"user-{row}" for row in range(1000)]
    noisy = LabelDP(1, seed=4)(labels, names)
    assert torch.equal(noisy, LabelDP(1, seed=4)(labels, names))
    assert within(int((noisy == 0).sum()), 1000, 1 / (math.e + 1))


def test_it_goes_on_from_a_checkpoint() -> None:
    labels, first, second = torch.ones(1000), LabelDP(1), LabelDP(1)
    noisy, fresh = first(labels, IDS[:1000]), first(labels)
    assert not torch.equal(second(labels, IDS[:1000]), noisy)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(labels, IDS[:1000]), noisy)
    assert second.spent == first.spent
    assert not torch.equal(second(labels), fresh)
    with pytest.raises(ValueError, match="32 bytes"):
        second.load_state_dict({"key": torch.zeros(3), "spent": torch.zeros(2)})


def test_the_bias_is_taken_off() -> None:
    labels = (torch.arange(ROWS) % 4 == 0).double()
    protect = LabelDP(1, seed=7)
    noisy = protect(labels, IDS)
    assert float(protect.unbiased(noisy).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(protect.noisy(labels).mean()) == pytest.approx(float(noisy.mean()), abs=0.01)
    one_hot = torch.nn.functional.one_hot(torch.arange(ROWS) % 3, 3).double()
    share = protect.unbiased(protect(one_hot, IDS)).mean(dim=0)
    assert torch.allclose(share, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.02)
    assert torch.allclose(protect.noisy(one_hot).sum(dim=1), torch.ones(ROWS, dtype=torch.float64))
    with pytest.raises(ValueError, match="eps 0"):
        LabelDP(0, seed=1).unbiased(noisy)


@given(st.floats(0, 8), st.integers(2, 20))
def test_the_odds_are_those_that_eps_allows(eps: float, options: int) -> None:
    lie = LabelDP(eps, seed=0).lie(options)
    assert (1 - lie) / (lie / (options - 1)) == pytest.approx(math.exp(eps))
    assert lie == pytest.approx((options - 1) / (math.exp(eps) + options - 1))


@pytest.mark.parametrize(
    ("labels", "kind", "why"),
    [
        ([0, 1], TypeError, "takes a tensor, got list"),
        (torch.tensor([0.0, 0.5]), ValueError, "Invalid label form"),
        (torch.tensor([0.0, math.nan]), ValueError, "Invalid label form"),
        (torch.tensor([[1, 1], [0, 1]]), ValueError, "Invalid one-hot form"),
        (torch.zeros(2, 3), ValueError, "Invalid one-hot form"),
        (torch.zeros(2, 1, 1), ValueError, "shape"),
        (torch.tensor(1), ValueError, "shape"),
        (torch.zeros(2, 0), ValueError, "shape"),
    ],
)
def test_what_is_no_label_is_refused(labels: Any, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why) as caught:
        LabelDP(1, seed=0)(labels, torch.arange(2))
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("eps", "kind"), [("1", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError)]
)
def test_what_is_no_eps_is_refused(eps: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="parameter eps"):
        LabelDP(eps)


def test_other_checks(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="2 labels want 2 row ids, got \\(3,\\)"):
        LabelDP(1, seed=0)(torch.zeros(2), torch.arange(3))
    with pytest.raises(TypeError, match="integers or strings, got float32"):
        LabelDP(1, seed=0)(torch.zeros(2), torch.zeros(2))
    for seed in (-1, b"short", "text", 1.5):
        with pytest.raises(TypeError, match="seed"):
            LabelDP(1, seed=seed)  # type: ignore[arg-type]
    with caplog.at_level("INFO"):
        assert LabelDP(1000, seed=0).eps == 100
    assert "cut to 100" in caplog.text


def test_what_it_says_it_spent() -> None:
    protect = LabelDP(2, seed=0)
    assert Budget([protect]).numbers() == {
        "label_dp_epsilon": 0,
        "label_dp_delta": 0,
        "label_dp_releases": 0,
    }
    protect(torch.zeros(3), torch.arange(3))
    protect(torch.zeros(3), torch.arange(3))
    assert protect.spent[:4] == ("label_dp", 2, 0, 1)
    assert "epsilon 2 for each row's label, once" in protect.statement
    assert "does not cover the features" in protect.statement
