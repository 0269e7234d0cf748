"""How well a model ranks each user's held-out item (design decision 9).

Law 1: measuring changes nothing: no gradient, no weight, no random number, and the model's training flag is put back.
Law 2: each client measures its own users with its own private rows; what leaves it are counts, and merged counts are
the counts of all users measured at one place, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from flps.data.batch import Ids
from flps.data.evaluation import TestSet
from flps.data.interactions import Interactions
from flps.errors import DataError
from flps.metrics import AucHistogram, Ranking, ranks_of

Scores: TypeAlias = NDArray[np.floating[Any]]
Score: TypeAlias = Callable[[Ids, Ids], Scores]  # user_input (B,), item_input (B,) -> logits (B,), higher is better

PAIRS = 16384  # scored in one call: few enough for a core's cache, many enough that the call itself costs nothing


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Ranking quality of some users as counts that add up; `merge` is associative and exact."""

    sampled: Ranking  # among the given negatives
    full: Ranking | None  # among all items but the user's training items; None: not measured
    auc_counts: bytes  # (2, bins) little-endian int64, the counts of an AucHistogram over the sampled pairs
    users: int
    warm: int  # of these, users whose private rows were trained; all of them when no row is private

    @property
    def auc(self) -> float:
        """AUC over all sampled pairs of all users; its bin error is that of `histogram`."""
        return self.histogram.value()

    @property
    def histogram(self) -> AucHistogram:
        """The AUC's counts."""
        return AucHistogram.from_counts(np.frombuffer(self.auc_counts, dtype="<i8").reshape(2, -1))

    def merge(self, other: Evaluation) -> Evaluation:
        """The evaluation of the users of both; they must be different users, measured in the same way."""
        if (self.full is None) != (other.full is None):
            raise ValueError("an evaluation with full ranking and one without do not add up")
        histogram = self.histogram
        histogram.merge(other.histogram)
        return Evaluation(
            sampled=self.sampled.merge(other.sampled),
            full=self.full.merge(other.full) if self.full and other.full else None,
            auc_counts=_bytes(histogram),
            users=self.users + other.users,
            warm=self.warm + other.warm,
        )

    def counts(self) -> dict[str, NDArray[Any]]:
        """Named integer arrays that add up over clients, for a report."""
        counts = {
            "sampled": _counts(self.sampled),
            "auc": np.array(self.histogram.counts),
            "warm": np.array([self.warm], np.int64),
        }
        return counts if self.full is None else {**counts, "full": _counts(self.full)}

    def fields(self) -> dict[str, float | int | None]:
        """The fields of an `eval` event: hr, ndcg, hr_full, ndcg_full, auc, warm, users."""
        full = self.full
        return {
            "hr": self.sampled.hr,
            "ndcg": self.sampled.ndcg,
            "hr_full": full.hr if full else None,
            "ndcg_full": full.ndcg if full else None,
            "auc": self.auc,
            "warm": self.warm,
            "users": self.users,
        }


def evaluate(
    score: Score,
    test: TestSet,
    train_items: Interactions,
    num_items: int,
    k: int = 10,
    full: bool = True,
    warm: NDArray[np.bool_] | None = None,
    pairs: int = PAIRS,
) -> Evaluation:
    """Rank every held-out item of `test`.

    score: gives logits; it is called with at most about `pairs` pairs, or one user's. test: held-out items, the
    negatives of each, and which of them count. train_items: the training positives, left out of the full ranking.
    k: cut-off of HR and NDCG. full: also rank among all items. warm: (U,) whether a user's private rows were trained;
    None means that no row is private.

    Raises DataError for an item outside 0..num_items-1, FlpsError when a score is NaN.
    """
    _check_items(test, num_items)
    sampled, histogram = _sampled(score, test, k, pairs)
    users = len(test.users)
    return Evaluation(
        sampled=sampled,
        full=_full(score, test, train_items, num_items, k, pairs) if full else None,
        auc_counts=_bytes(histogram),
        users=users,
        warm=users if warm is None else int(np.count_nonzero(warm)),
    )


def model_score(model: torch.nn.Module, device: str = "cpu", bf16: bool = False) -> Score:
    """The logits of `model(batch)` on `device`, as a `Score`; `bf16`: under autocast, as in training."""

    def score(user_input: Ids, item_input: Ids) -> Scores:
        batch = {
            "user_input": torch.from_numpy(user_input).to(device),
            "item_input": torch.from_numpy(item_input).to(device),
        }
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                logits = model(batch)
        finally:
            model.train(was_training)
        return logits.to("cpu", torch.float64).numpy()  # type: ignore[no-any-return]

    return score


def popularity(counts: NDArray[np.integer[Any]]) -> Score:
    """The baseline that knows no user: items by how often they were liked, `counts` (num_items,), as log odds."""
    share = (np.asarray(counts, dtype=np.float64) + 0.5) / (np.max(counts, initial=0) + 1)
    logits = np.log(share / (1 - share))
    return lambda user_input, item_input: logits[item_input]


def _check_items(test: TestSet, num_items: int) -> None:
    bad = np.flatnonzero((test.items < 0) | (test.items >= num_items))
    if bad.size:
        raise DataError(f"the test set has item {test.items.reshape(-1)[bad[0]]}, but items are 0..{num_items - 1}")


def _sampled(score: Score, test: TestSet, k: int, pairs: int) -> tuple[Ranking, AucHistogram]:
    """Each held-out item among its given negatives."""
    histogram = AucHistogram()
    ranking = Ranking.from_ranks([], k)
    for rows in _slices(len(test.users), pairs // test.items.shape[1]):
        items, valid = test.items[rows], test.valid[rows, 1:]
        scores = score(np.repeat(test.users[rows], items.shape[1]), items.reshape(-1)).reshape(items.shape)
        ranking = ranking.merge(Ranking.from_scores(scores[:, 0], scores[:, 1:], valid, k))
        negatives = scores[:, 1:][valid]
        histogram.add(_probability(scores[:, 0]), np.ones(len(scores)))
        histogram.add(_probability(negatives), np.zeros(len(negatives)))
    return ranking, histogram


def _full(score: Score, test: TestSet, train_items: Interactions, num_items: int, k: int, pairs: int) -> Ranking:
    """Each held-out item among all items that the user has no training positive of."""
    every_item = np.arange(num_items, dtype=np.int64)
    ranking = Ranking.from_ranks([], k)
    for rows in _slices(len(test.users), pairs // num_items):
        users, held_out = test.users[rows], test.items[rows, 0]
        lines = np.arange(len(users))
        scores = score(np.repeat(users, num_items), np.tile(every_item, len(users))).reshape(len(users), num_items)
        valid = np.ones(scores.shape, dtype=bool)
        for line, user in enumerate(users):
            valid[line, train_items.of(int(user))] = False
        valid[lines, held_out] = False
        ranking = ranking.merge(Ranking.from_ranks(ranks_of(scores[lines, held_out], scores, valid), k))
    return ranking


def _slices(rows: int, step: int) -> Iterator[slice]:
    """0..rows cut into pieces of `step`, at least 1."""
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, rows, step))


def _probability(logits: Scores) -> Scores:
    """The logistic function, in a form that no logit overflows."""
    return 0.5 + 0.5 * np.tanh(np.asarray(logits, dtype=np.float64) / 2)


def _counts(ranking: Ranking) -> NDArray[np.int64]:
    """(1 + k,): users, then users by the rank of their held-out item."""
    return np.array([ranking.users, *ranking.ranks], np.int64)


def _bytes(histogram: AucHistogram) -> bytes:
    return histogram.counts.astype("<i8").tobytes()
