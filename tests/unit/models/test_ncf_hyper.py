"""What the yaml may say about NCF."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flps.models.ncf.hyper import NcfHyperParameters


def parsed(**keys: Any) -> NcfHyperParameters:
    return msgspec.convert(keys, NcfHyperParameters)


def test_the_seeds_values_are_read() -> None:
    hyper_parameters = parsed(
        optimizer={"class": "adam", "learning_rate": 0.001},
        num_users=6040, num_items=3706, mf_dim=8, mode="NCF_MLP", fc_layers=[64, 32, 16, 8],
    )  # fmt: skip
    assert hyper_parameters.optimizer.rule == "adam"
    assert hyper_parameters.fc_layers == (64, 32, 16, 8)
    assert msgspec.to_builtins(hyper_parameters)["optimizer"]["class"] == "adam"


def test_gmf_needs_no_even_perceptron() -> None:
    assert parsed(mode="NCF_GMF", fc_layers=[5]).fc_layers == (5,)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"fc_layers": [63, 8]}, "even number"),
        ({"fc_layers": []}, "length >= 1"),
        ({"fc_layers": [64, 0]}, "`int` >= 1"),
        ({"mf_dim": 0}, "`int` >= 1"),
        ({"num_items": 0}, "`int` >= 1"),
        ({"mode": "NCF"}, "Invalid enum value 'NCF'"),
        ({"optimizer": {"class": "adamw"}}, "Invalid enum value 'adamw'"),
        ({"optimizer": {"learning_rate": 0.0}}, "`float` > 0"),
        ({"optimizer": {"beta2": 1.0}}, "`float` < 1"),
        ({"optimiser": {}}, "unknown field `optimiser`"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        parsed(**keys)
