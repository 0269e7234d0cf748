"""AUC over batches equals AUC over all samples at once; ties count half."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import DataError
from flps.models.wide_deep.metric import AUCMetric

samples = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40)


@given(samples, st.integers(1, 10))
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]], batch: int) -> None:
    metric = AUCMetric()
    scores = torch.tensor([[score / 6] for score, _ in pairs])
    labels = torch.tensor([[float(label)] for _, label in pairs])
    for start in range(0, len(pairs), batch):
        part = slice(start, start + batch)
        metric.update(scores[part], scores[part], labels[part])
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    if not positives or not negatives:
        with pytest.raises(DataError, match="expected both labels"):
            metric.eval()
        return
    right = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert metric.eval() == pytest.approx(right / (len(positives) * len(negatives)), abs=1e-12)


def test_clear_forgets() -> None:
    metric = AUCMetric()
    metric.update(torch.zeros(2, 1), torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0]]))
    assert metric.eval() == 0
    metric.clear()
    with pytest.raises(DataError, match="no sample was evaluated"):
        metric.eval()
    metric.update(torch.zeros(2), torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))
    assert metric.eval() == 1


def test_log_loss() -> None:
    metric = AUCMetric()
    p = torch.tensor([0.25, 0.5, 1.0])
    metric.update(torch.logit(p), p, torch.tensor([0.0, 1.0, 1.0]))
    expected = -(torch.tensor([0.75, 0.5], dtype=torch.float64).log().sum()) / 3
    assert metric.log_loss() == pytest.approx(float(expected), abs=1e-9)


def test_numbers_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="3 predictions for 2 labels"):
        AUCMetric().update(torch.zeros(3), torch.zeros(3), torch.zeros(2))
