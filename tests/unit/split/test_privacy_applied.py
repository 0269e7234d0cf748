"""Protection: each scheme reaches what it is for, and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

from flps.errors import ConfigError
from flps.split.privacy import Protection

ALL = {"label_dp": {"eps": 0.0}, "embedding_dp": {"eps": 0.0}, "cut": {"clip": 1.0, "noise": 1.0, "delta": 1e-6}}
NAMES: dict[str, Any] = {"labels": ["label"], "outputs": ["wide", "deep"], "inputs": ["theirs"], "seed": 1}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_labels_are_noised_once_by_the_ids_of_the_batch() -> None:
    protect, batch = Protection(ALL, **NAMES), {"row_ids": torch.arange(100)}
    inputs = OrderedDict(x=torch.ones(100, 3), label=torch.ones(100, 1))
    first, second = protect.inputs(inputs, batch), protect.inputs(inputs, batch)
    assert list(first) == ["x", "label"]
    assert first["x"] is inputs["x"]
    assert 20 < int(first["label"].sum()) < 80
    assert torch.equal(first["label"], second["label"])
    assert bool((inputs["label"] == 1).all())


def test_activations_are_one_row_in_the_account() -> None:
    protect = Protection({"embedding_dp": {"eps": 4.0}}, **NAMES)
    outputs = OrderedDict(wide=torch.randn(50, 1), mask=torch.randn(50, 9), deep=torch.randn(50, 2, 3).double())
    found = protect.activations(outputs)
    assert list(found) == ["wide", "mask", "deep"]
    assert found["mask"] is outputs["mask"]
    assert (found["deep"].shape, found["deep"].dtype) == ((50, 2, 3), torch.float64)
    assert set(found["deep"].reshape(-1).tolist()) == {0, 1}
    assert protect.budget.numbers()["embedding_dp_epsilon"] == 7 * 2
    with pytest.raises(ConfigError, match="wide, deep do not have the same rows"):
        protect.activations(OrderedDict(wide=torch.ones(2, 1), deep=torch.ones(3, 1)))


def test_only_gradients_that_go_out_are_noised() -> None:
    protect, mine, theirs = Protection(ALL, **NAMES), torch.ones(10, 2), torch.full((10, 2), 1e-3)
    found = protect.gradients(OrderedDict(loss=OrderedDict(mine=mine, theirs=theirs)))
    assert found["loss"]["mine"] is mine
    assert float((found["loss"]["theirs"] - theirs).std()) > 0.5
    again = Protection(ALL, **NAMES).gradients(OrderedDict(loss=OrderedDict(theirs=theirs * 8)), scale=8.0)
    assert torch.allclose(again["loss"]["theirs"], found["loss"]["theirs"] * 8)
    assert protect.budget.numbers()["cut_noise_releases"] == 1


def test_what_is_not_named_passes() -> None:
    protect, tensors = Protection({}, seed=0), OrderedDict(x=torch.ones(2, 2))
    assert protect.inputs(tensors, {})["x"] is tensors["x"]
    assert protect.activations(tensors)["x"] is tensors["x"]
    assert protect.gradients({"loss": tensors})["loss"]["x"] is tensors["x"]
    assert protect.budget.numbers() == {}
    assert protect.state_dict() == {}


def test_it_goes_on_from_a_checkpoint() -> None:
    named = {**NAMES, "seed": None}
    first, second = Protection(ALL, **named), Protection(ALL, **named)
    inputs, batch = OrderedDict(label=torch.ones(50)), {"row_ids": torch.arange(50)}
    outputs, scales = OrderedDict(wide=torch.ones(50, 1)), {"loss": OrderedDict(theirs=torch.zeros(5, 1))}
    noisy = first.inputs(inputs, batch)
    first.activations(outputs)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.inputs(inputs, batch)["label"], noisy["label"])
    assert torch.equal(second.activations(outputs)["wide"], first.activations(outputs)["wide"])
    assert torch.equal(second.gradients(scales)["loss"]["theirs"], first.gradients(scales)["loss"]["theirs"])
    assert second.budget.numbers() == first.budget.numbers()
    with pytest.raises(ConfigError, match=r"privacy\.cut: the checkpoint was written without it"):
        second.load_state_dict({name: held for name, held in first.state_dict().items() if "cut" not in name})


def test_another_yaml_goes_on_with_other_noise_on_all_but_labels() -> None:
    named = {**NAMES, "seed": None}
    first, second = Protection(ALL, **named), Protection(ALL, **named)
    inputs, batch = OrderedDict(label=torch.ones(200)), {"row_ids": torch.arange(200)}
    outputs, scales = OrderedDict(wide=torch.ones(200, 1)), {"loss": OrderedDict(theirs=torch.zeros(5, 1))}
    noisy = first.inputs(inputs, batch)
    second.load_state_dict(first.state_dict(), same_noise=False)
    assert torch.equal(second.inputs(inputs, batch)["label"], noisy["label"])
    assert not torch.equal(second.activations(outputs)["wide"], first.activations(outputs)["wide"])
    assert not torch.equal(second.gradients(scales)["loss"]["theirs"], first.gradients(scales)["loss"]["theirs"])
    assert second.budget.numbers() == first.budget.numbers()


@pytest.mark.parametrize("scheme", ["label_dp", "embedding_dp", "cut"])
def test_a_scheme_without_anything_to_protect_is_an_error(scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"privacy.{scheme} has nothing to protect"):
        Protection({scheme: ALL[scheme]})
