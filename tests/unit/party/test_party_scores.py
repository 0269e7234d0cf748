"""The table of scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flps.errors import DataError
from flps.party.scores import Scores


def scores() -> Scores:
    net: Any = SimpleNamespace(yaml_data=SimpleNamespace(eval_net_out_names=["logits", "wide", "loss"]))
    return Scores([net])


def batch(*values: float) -> dict[str, torch.Tensor]:
    column = torch.tensor(values)
    return {"logits": column[:, None], "wide": column.repeat(2, 1).T, "loss": column.mean()}


def test_what_has_one_number_a_row_becomes_a_column(tmp_path: Path) -> None:
    table = scores()
    table.take(batch(9.0))
    table.clear()  # a party was started again
    table.take(batch(1.0, 2.0))
    table.take(batch(3.0))
    table.write(tmp_path / "scores.csv", np.array([7, 5, 6]))
    written = pd.read_csv(tmp_path / "scores.csv")
    assert written.to_dict("list") == {"row_id": [7, 5, 6], "logits": [1.0, 2.0, 3.0]}
    with pytest.raises(DataError, match="logits has 3 scores for 2 rows"):
        table.write(tmp_path / "scores.csv", np.array([7, 5]))
