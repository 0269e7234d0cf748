"""Tensors that cross packed, in the loop: activations and gradients each in its way, and what packing owes is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flps.compression import Feedback
from flps.party.kept import KeptBack

PACKED = (
    "compress_type: min_max\n        bit_num: 6\n        grad_compress_type: topk\n        grad_top_k: 0.25\n"
    "        error_feedback: true"
)


def packed(kind: str, text: str) -> str:
    """The follower's activations in 6 bits, a quarter of their gradients."""
    return text.replace("# compress_type: min_max\n        # bit_num: 6", PACKED)


def packed_and_moving(kind: str, text: str) -> str:
    return re.sub(r"loss_scale: 1024.0", "loss_scale: {init: 1024.0, factor: 2.0, window: 3}", packed(kind, text))


@pytest.mark.parametrize(("change", "parts"), [pytest.param(packed, 1, marks=pytest.mark.slow), (packed_and_moving, 2)])
def test_a_run_that_was_interrupted_owes_the_same(party_run: Any, tmp_path: Path, change: Any, parts: int) -> None:
    whole, first, second, plain = (
        party_run(tmp_path, folder, epochs, micro_batches=(parts, parts), change=how)
        for folder, epochs, how in (
            (None, 2, change),
            (tmp_path / "kept", 1, change),
            (tmp_path / "kept", 2, change),
            (None, 2, lambda kind, text: text),
        )
    )
    assert [*whole.play(), *first.play(), *second.play(), *plain.play()] == []
    assert all(torch.equal(second.state[name], held) for name, held in whole.state.items())
    assert not all(torch.equal(plain.state[name], held) for name, held in whole.state.items())
    owed = [run.parties[0][0].feedback["follower"].content() for run in (whole, second)]
    assert set(owed[0]) == {"loss/follower_wide_embedding", "loss/follower_deep_embedding"}
    assert all(np.array_equal(owed[1][name], kept) and kept.any() for name, kept in owed[0].items())
    assert whole.parties[1][0].feedback["leader"].content() == {}  # activations are never added up


def test_fewer_bytes_cross_each_way_as_the_files_say(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path, epochs=1, change=packed)
    assert run.play() == []
    numbers = 2 * party_run.batch_size
    for one in run.told["follower"]:
        came, went = one.bytes_per_step
        assert numbers * 8 // 4 <= came < numbers * 8 // 4 + 2000  # a quarter, each with its place
        assert numbers * 6 // 8 <= went < numbers * 6 // 8 + 2000


def test_an_overflow_crosses_where_gradients_are_packed(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path, epochs=1, change=packed_and_moving)
    count = 0

    def spoilt(module: Any, inputs: Any, outputs: Any) -> Any:
        nonlocal count
        count += 1
        loss = outputs[1] * 1.0
        if count == 3:
            loss.register_hook(lambda gradient: gradient * torch.inf)
        return outputs[0], loss

    run.models["leader"]["top"].network.register_forward_hook(spoilt)
    assert run.play() == []
    assert {model.skipped_steps for models in run.models.values() for model in models.values()} == {1}
    assert all(held.isfinite().all() for held in run.state.values())


def test_a_skipped_step_owes_nothing_and_a_scale_that_moves_takes_it_along() -> None:
    feedback = Feedback()
    kept = KeptBack({"follower": feedback})
    feedback.keep("x", np.array([3.0]), np.array([1.0]))
    before = kept.state()
    feedback.keep("x", np.array([9.0]), np.array([1.0]))
    kept.settle(before, is_skipped=False, factor=1.0)
    assert feedback.content()["x"].tolist() == [8.0]
    kept.settle(before, is_skipped=True, factor=0.5)
    assert feedback.content()["x"].tolist() == [1.0]
    kept.settle(before, is_skipped=False, factor=2.0)
    assert feedback.content()["x"].tolist() == [2.0]
    kept.take_up({})
    assert kept.state() == {}
