"""The CTR-DNN of two parties against its own description."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flps.errors import ConfigError
from flps.models.catalog import resolve


def test_sizes_are_the_originals() -> None:
    model = resolve("ctr_dnn")({}, 1)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert [shape for name, shape in shapes.items() if name.endswith("weight")] == [
        (5, 260), (7, 5), (6, 13), (7, 6), (2, 7),
    ]  # fmt: skip
    assert (model.a.embedding.spec.bound, model.a.embedding.spec.dim) == (1_000_001, 10)
    assert {name.partition(".")[0] for name in shapes} == {"a", "b"}


def test_the_loss_is_the_softmax_cross_entropy_of_two_scores() -> None:
    model = resolve("ctr_dnn")({"sparse_feature_number": 9, "sparse_inputs_slots": 3, "dense_input_dim": 2}, 5)
    batch = {
        "slots": torch.tensor([[0, 8], [3, 3], [1, 2]]),
        "dense": torch.rand(3, 2),
        "label": torch.tensor([1.0, 0, 1]),
    }
    scores = model.b.top(model.a(batch) + model.b.layers(batch["dense"]))
    wanted = F.cross_entropy(scores, batch["label"].long())
    torch.testing.assert_close(model.loss(model(batch), batch), wanted)


def test_a_seed_gives_one_model() -> None:
    one, again, other = (resolve("ctr_dnn")({}, seed) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.b.top.weight, other.b.top.weight)


def test_the_cut_has_one_width() -> None:
    with pytest.raises(ConfigError, match="fc_sizes_a ends with 7 and fc_sizes_b with 8"):
        resolve("ctr_dnn")({"fc_sizes_b": [6, 8]}, 1)
