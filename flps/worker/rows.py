"""How well held-out rows are told apart: AUC and log loss, of pairs that run and of saved models (runner.vertical).

Law: what is measured are counts and sums, so the pairs' figures add up, and a saved model measured whole, in one
process, has those that its run had, but for the last bits of the scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flps.data.criteo_parties import read_card
from flps.data.paired import open_paired
from flps.errors import DataError
from flps.message import Report
from flps.metrics import AucHistogram
from flps.models.saved import SavedModel


class RowScores:
    """Scores of some rows, counted."""

    def __init__(self) -> None:
        self.histogram, self.samples, self.log_loss = AucHistogram(), 0, 0.0

    def add(self, logits: Tensor, labels: NDArray[np.floating[Any]]) -> None:
        """Count rows: `logits` (B,), `labels` (B,) in {0, 1}."""
        logits = logits.detach().double()
        self.histogram.add(torch.sigmoid(logits).numpy(), labels)
        summed = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).double(), reduction="sum")
        self.log_loss += summed.item()
        self.samples += len(labels)

    def report(self) -> Report:
        """As arrays that add up over pairs."""
        counts = {"samples": np.array([self.samples], np.int64), "log_loss": np.array([self.log_loss], np.float64)}
        return Report({**counts, "auc": np.array(self.histogram.counts)})

    def fields(self) -> dict[str, float | int]:
        """The fields of an `eval` event."""
        mean = self.log_loss / max(self.samples, 1)
        return {"auc": self.histogram.value(), "log_loss": mean, "samples": self.samples}


def measure_saved(model: Path, config_dir: Path, rows: Path, batch_size: int) -> RowScores:
    """Both parties' columns of the held-out rows in the folder `rows`, scored by the saved model in the folder `model`.

    Raises DataError when a file is missing or wrong, or when the folder is one party's own.
    """
    if "party" in read_card(rows):
        raise DataError(f"{rows} is one party's own folder; a whole model is measured with both parties' columns")
    whole = SavedModel(model, config_dir).model
    a = open_paired(rows, "a", 0, 1, batch_size, None, test=True)
    b = open_paired(rows, "b", 0, 1, batch_size, None, test=True)
    scores = RowScores()
    with torch.inference_mode():
        for slots, own in zip(a.epoch(), b.epoch(), strict=True):
            batch = {name: torch.from_numpy(array) for name, array in {**slots, **own}.items()}
            scores.add(whole(batch), own["label"])
    return scores
