"""Split training gives what the same nets give in one process with one backward: losses and every weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("followers", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_hundred_steps(played: Any, tmp_path: Path, followers: int, dtype: torch.dtype, tolerance: float) -> None:
    job = played.make(tmp_path, followers, dtype)
    before = {name: held.clone() for name, held in job.whole.state_dict().items()}
    split, whole = played.split(job, 100), played.whole(job, 100)
    assert split == pytest.approx(whole, abs=tolerance, rel=tolerance)
    got, want = job.split.state_dict(), job.whole.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
    moved = [name for name in want if not torch.equal(want[name], before[name])]
    assert len(moved) == len(want) - (1 + followers)  # all but each party's Wide_b
