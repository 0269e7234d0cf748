"""Split training gives what the same nets give in one process with one backward: losses and every weight.

Each party has two optimizers, an l2 term, numbers and labels in `sens`, and a loss scale, as configs/wide_deep says it;
`test_what_is_compared_is_all_there` holds the yaml files to that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from flps.models.wide_deep.options import FULL, SMALL

FIELDS = (20, 19, 7)
FORMS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])


def expect_equal(played: Any, job: Any, steps: int, tolerance: float, micro_batches: int = 1) -> None:
    """Losses and all weights after these steps, split and whole."""
    before = {name: held.clone() for name, held in job.whole.state_dict().items()}
    split, whole = played.split(job, steps, micro_batches), played.whole(job, steps)
    assert len(split) == steps
    assert split == pytest.approx(whole, abs=tolerance, rel=tolerance)
    got, want = job.split.state_dict(), job.whole.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
    moved = [name for name in want if not torch.equal(want[name], before[name])]
    assert len(moved) == len(want) - len(job.fields)  # all but each party's Wide_b


@pytest.mark.parametrize("followers", [1, 2])
@FORMS
def test_a_hundred_steps(played: Any, tmp_path: Path, followers: int, dtype: torch.dtype, tolerance: float) -> None:
    expect_equal(played, played.make(tmp_path, followers, dtype), 100, tolerance)


def test_a_hundred_steps_while_the_loss_scale_moves(played: Any, tmp_path: Path) -> None:
    """By powers of two, which change no digit."""
    job = played.make(tmp_path, scale="{init: 1024.0, factor: 2.0, window: 10}")
    expect_equal(played, job, 100, 1e-12)
    assert {model.loss_scale.now for model in job.nets} == {1024.0 * 2**10}


@pytest.mark.slow
@pytest.mark.parametrize("followers", [1, 2])
@FORMS
def test_a_hundred_steps_of_the_small_preset(
    played: Any, tmp_path: Path, followers: int, dtype: torch.dtype, tolerance: float
) -> None:
    job = played.make(tmp_path, followers, dtype, config=SMALL, fields=FIELDS)
    expect_equal(played, job, 100, tolerance)


@pytest.mark.slow
def test_a_hundred_steps_in_micro_batches(played: Any, tmp_path: Path) -> None:
    """In float64 alone: sums over parts are rounded otherwise than sums over the whole, and Adam divides by them."""
    job = played.make(tmp_path, dtype=torch.float64, config=SMALL, fields=FIELDS)
    expect_equal(played, job, 100, 1e-12, micro_batches=4)


@pytest.mark.slow
@pytest.mark.parametrize("followers", [1, 2])
@FORMS
def test_three_steps_of_the_full_preset(
    played: Any, tmp_path: Path, followers: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Its nets; the batch is a sixteenth of its own, of which a step would take ten seconds."""
    config = msgspec.structs.replace(FULL, batch_size=1000)
    job = played.make(tmp_path, followers, dtype, config=config, fields=FIELDS)
    expect_equal(played, job, 3, tolerance)


def test_what_is_compared_is_all_there(played: Any, tmp_path: Path) -> None:
    """Two optimizers a bottom, sens by label and by number, grad_scalers, a loss scale; and that the l2 term counts."""
    job = played.make(tmp_path, followers=2)
    bottoms = [models["bottom"] for models in job.models.values()]
    for bottom in bottoms:
        assert [update.name for update in bottom.updates] == ["FTRL", "Adam"]
        assert {update.divisor for update in bottom.updates} == {1024.0}
        terms = [term for update in bottom.updates for every in update.terms.values() for term in every]
        assert {term.sens for term in terms} == {"loss", 1024.0}
    (scaler,) = job.models["leader"]["top"].yaml_data.grad_scalers
    assert scaler["sens"] == 1024.0
    assert len(scaler["inputs"]) == 2 * len(bottoms)
    played.split(job, 3)
    played.whole(job, 3, l2=0.0)
    table = "bottoms.1.net.deep_embeddinglookup.embedding_table"
    assert (job.split.state_dict()[table] - job.whole.state_dict()[table]).abs().max() > 1e-6
