"""AUC and log loss of a whole evaluation, kept sample by sample and computed once at its end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from torch import Tensor

from flps.errors import DataError


class AUCMetric:
    """Area under the ROC curve, exact; `update`, `eval` and `clear` as the original's metric has them."""

    def __init__(self) -> None:
        self.pred_probs: list[NDArray[np.float64]] = []
        self.true_labels: list[NDArray[np.float64]] = []

    def clear(self) -> None:
        """Forget all samples."""
        self.pred_probs.clear()
        self.true_labels.clear()

    def update(self, *inputs: Tensor) -> None:
        """Take a batch in: (logits, probabilities, label), each (B, 1) or (B,).

        Raises:
            DataError: numbers of probabilities and labels differ.
        """
        _, probabilities, label = inputs
        if probabilities.numel() != label.numel():
            raise DataError(f"{probabilities.numel()} predictions for {label.numel()} labels")
        self.pred_probs.append(probabilities.detach().double().flatten().cpu().numpy())
        self.true_labels.append(label.detach().double().flatten().cpu().numpy())

    def eval(self) -> float:
        """The AUC of everything since the last `clear`.

        Raises:
            DataError: there are no samples, or all have one label.
        """
        probabilities, labels = self.samples()
        if labels.min() == labels.max():
            raise DataError(f"AUC of {labels.size} samples that all have the label {labels[0]:g}: expected both labels")
        return float(roc_auc_score(labels, probabilities))

    def log_loss(self) -> float:
        """Mean cross entropy in nats; probabilities are kept 1e-12 away from 0 and 1."""
        probabilities, labels = self.samples()
        p = np.clip(probabilities, 1e-12, 1 - 1e-12)
        return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))

    def measures(self) -> dict[str, float | None]:
        """Both figures by name; an AUC of None where all samples have one label."""
        _, labels = self.samples()
        return {"auc": None if labels.min() == labels.max() else self.eval(), "log_loss": self.log_loss()}

    def samples(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities and labels, each (N,). Raises DataError when there are none."""
        if not self.true_labels:
            raise DataError("no sample was evaluated: the evaluation set is empty, or smaller than a batch")
        return np.concatenate(self.pred_probs), np.concatenate(self.true_labels)
