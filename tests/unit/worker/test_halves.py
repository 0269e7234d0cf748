"""Two halves of a model, with a queue in the place of the link."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor, nn

from flps.errors import ConfigError, ProtocolError
from flps.models.catalog import resolve
from flps.worker.halves import GivingHalf, LabelHalf, half_of

HYPER = {"sparse_feature_number": 50, "sparse_feature_dim": 3, "sparse_inputs_slots": 5, "dense_input_dim": 2}


class Desk:
    """Both partners of a pair: what one gives the other takes."""

    def __init__(self) -> None:
        self.given: deque[tuple[str, Tensor]] = deque()

    def give(self, name: str, tensor: Tensor) -> None:
        self.given.append((name, tensor.clone()))

    def take(self, name: str) -> Tensor:
        got, tensor = self.given.popleft()
        assert got == name
        return tensor


def batch(rows: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "slots": torch.randint(50, (rows, 4), generator=generator),
        "dense": torch.rand((rows, 2), generator=generator),
        "label": (torch.rand(rows, generator=generator) < 0.5).float(),
    }


def test_the_gradients_of_the_halves_are_those_of_the_whole() -> None:
    whole, cut = (resolve("ctr_dnn")(HYPER, 4) for _ in range(2))
    rows = batch()
    loss = whole.loss(whole(rows), rows)
    loss.backward()
    desk = Desk()
    a, b = half_of(cut, "a", desk), half_of(cut, "b", desk)
    joint = a({"slots": rows["slots"]})
    logits = b({"dense": rows["dense"], "label": rows["label"]})
    own = b.loss(logits, {"label": rows["label"]})
    own.backward()
    a.loss(joint, {}).backward()
    assert own.item() == loss.item()
    for (name, wanted), got in zip(whole.named_parameters(), cut.parameters(), strict=True):
        assert wanted.grad is not None, name
        torch.testing.assert_close(got.grad, wanted.grad, rtol=0, atol=1e-7)
    (keys, wanted_rows), (own_keys, own_rows) = (model.a.embedding.take_gradient() for model in (whole, cut))
    assert (keys == own_keys).all()
    torch.testing.assert_close(torch.from_numpy(own_rows), torch.from_numpy(wanted_rows), rtol=0, atol=1e-7)
    assert not desk.given


def test_measuring_sends_nothing_back() -> None:
    desk, model = Desk(), resolve("ctr_dnn")(HYPER, 4)
    rows = batch()
    with torch.inference_mode():
        half_of(model, "a", desk)(rows)
        logits = half_of(model, "b", desk)(rows)
        assert torch.equal(logits, model(rows))
    assert not desk.given


def test_what_comes_is_checked() -> None:
    desk, model = Desk(), resolve("ctr_dnn")(HYPER, 4)
    rows = batch()
    a, b = half_of(model, "a", desk), half_of(model, "b", desk)
    for wrong in (torch.zeros(5, 7), torch.zeros(6, 7, dtype=torch.int64), torch.zeros(())):
        desk.give("joint", wrong)
        with pytest.raises(ProtocolError, match="6 rows are here"):
            b(rows)
    joint = a(rows)
    desk.given.clear()
    desk.give("gradient", torch.zeros(6, 8))
    with pytest.raises(ProtocolError, match=r"the gradient torch.float32 \(6, 8\), expected torch.float32 \(6, 7\)"):
        a.loss(joint, rows)


def test_a_model_is_cut_in_two() -> None:
    model = nn.Module()
    model.b = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="has no part 'a'"):
        half_of(model, "b", Desk())
    whole = resolve("ctr_dnn")(HYPER, 4)
    assert isinstance(half_of(whole, "a", Desk()), GivingHalf)
    assert isinstance(half_of(whole, "b", Desk()), LabelHalf)
    assert (half_of(whole, "a", Desk()).target, half_of(whole, "b", Desk()).target) == ("", "label")
