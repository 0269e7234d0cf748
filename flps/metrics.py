"""How well a model does, and what a run has to say about itself: counts that add up, and one file of events.

Law 1: what clients measure are integer counts; merging them in any order gives the same bits as counting at one place.
Law 2: a score that is no number is refused, never ranked: a diverged model has no quality.
Law 3: `metrics.jsonl` has many writers, each line one whole write, and one kind of reader, `EventReader`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from flps.errors import FlpsError, ResourceError

Counts = npt.NDArray[np.int64]


class AucHistogram:
    """Area under the ROC curve from two histograms (of positives and of negatives) over scores in [0, 1].

    AUC is the chance that a positive scores above a negative, a tie counting one half. Here every pair in one bin
    counts one half, whatever its order, so the result differs from the exact AUC by at most `error()`, half the share
    of the pairs that fall into one bin.
    """

    def __init__(self, bins: int = 4096) -> None:
        """`bins`: number of bins of equal width; scores in [b/bins, (b+1)/bins) share bin b, a score of 1 the last."""
        if bins < 1:
            raise ValueError(f"an AUC histogram wants at least 1 bin, got {bins}")
        self._counts: Counts = np.zeros((2, bins), dtype=np.int64)

    @classmethod
    def from_counts(cls, counts: npt.ArrayLike) -> AucHistogram:
        """The histogram whose `counts` came over the wire: (2, bins) non-negative integers."""
        array = np.asarray(counts)
        if array.ndim != 2 or array.shape[0] != 2 or array.shape[1] < 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"AUC counts want shape (2, bins) of integers, got {array.shape} of {array.dtype}")
        if array.min() < 0:
            raise ValueError("AUC counts want numbers of 0 and above")
        histogram = cls(array.shape[1])
        histogram._counts += array.astype(np.int64)
        return histogram

    @property
    def bins(self) -> int:
        """The number of bins."""
        return int(self._counts.shape[1])

    @property
    def counts(self) -> Counts:
        """(2, bins): how many negatives (row 0) and positives (row 1) scored in each bin. A read-only view."""
        view = self._counts.view()
        view.flags.writeable = False
        return view

    def add(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Count samples: `scores` (B,) in [0, 1], `labels` (B,) where above one half means positive.

        Raises FlpsError for a score outside [0, 1] or NaN, ValueError when the lengths differ.
        """
        score, label = np.asarray(scores).reshape(-1), np.asarray(labels).reshape(-1)
        if score.size != label.size:
            raise ValueError(f"{score.size} scores want as many labels, got {label.size}")
        if not score.size:
            return
        if not (score.min() >= 0 and score.max() <= 1):  # NaN makes both comparisons false
            bad = int(np.count_nonzero(~((score >= 0) & (score <= 1))))
            raise FlpsError(f"{bad} of {score.size} scores for the AUC are NaN or outside [0, 1]")
        cells = np.minimum((score * self.bins).astype(np.int64), self.bins - 1)
        cells += (label > 0.5) * self.bins
        self._counts += np.bincount(cells, minlength=2 * self.bins).reshape(2, self.bins)

    def merge(self, other: AucHistogram) -> None:
        """Count everything that `other` has counted, too."""
        if other.bins != self.bins:
            raise ValueError(f"histograms of {self.bins} and {other.bins} bins do not add up")
        self._counts += other._counts

    def clear(self) -> None:
        """Forget every sample, as at the start of an epoch."""
        self._counts[:] = 0

    def value(self) -> float:
        """The AUC in [0, 1]; NaN while there are no positives or no negatives."""
        negatives, positives = self._counts.astype(np.float64)
        pairs = negatives.sum() * positives.sum()
        below = np.cumsum(negatives) - negatives / 2
        return float(positives @ below / pairs) if pairs else float("nan")

    def error(self) -> float:
        """By how much `value()` may differ from the exact AUC at most; NaN when `value()` is."""
        negatives, positives = self._counts.astype(np.float64)
        pairs = negatives.sum() * positives.sum()
        return float(positives @ negatives / 2 / pairs) if pairs else float("nan")


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """HR@k and NDCG@k as counts: how many users, and at which rank below k their held-out item stood.

    Leave one out: each user has one positive, ranked among negatives; its rank is the number of negatives that score
    at least as high, so a tie counts against the model and a constant model hits nobody. HR@k is the share of users
    with rank < k, NDCG@k the mean of ln 2 / ln(rank + 2) over users, 0 from rank k on (He et al. 2017, Neural
    Collaborative Filtering, section 4.1).
    """

    users: int = 0
    ranks: tuple[int, ...] = (0,) * 10  # (k,) users whose positive stood at rank 0, 1, ..., k - 1

    @classmethod
    def from_ranks(cls, ranks: npt.ArrayLike, k: int = 10) -> Ranking:
        """`ranks`: (U,) integers, the number of items that stood above each user's positive."""
        array = np.asarray(ranks, dtype=np.int64).reshape(-1)
        counts = np.bincount(array[array < k], minlength=k)
        return cls(users=array.size, ranks=tuple(int(count) for count in counts))

    @classmethod
    def from_scores(
        cls, positive: npt.ArrayLike, negatives: npt.ArrayLike, valid: npt.ArrayLike | None = None, k: int = 10
    ) -> Ranking:
        """Rank each user's positive among the user's negatives.

        `positive`: (U,) scores. `negatives`: (U, C) scores. `valid`: (U, C) false where a column is no negative of
        this user (it is the positive itself, or an item of the user's training); None means all are. Scores of
        invalid columns are not looked at.
        Raises FlpsError for NaN, ValueError when the shapes do not fit.
        """
        return cls.from_ranks(ranks_of(positive, negatives, valid), k)

    @property
    def k(self) -> int:
        """The cut-off."""
        return len(self.ranks)

    @property
    def hits(self) -> int:
        """Users whose positive is among the first k."""
        return sum(self.ranks)

    @property
    def hr(self) -> float:
        """HR@k in [0, 1]; NaN without users."""
        return self.hits / self.users if self.users else float("nan")

    @property
    def ndcg(self) -> float:
        """NDCG@k in [0, 1]; NaN without users."""
        gains = np.log(2) / np.log(np.arange(self.k) + 2)
        return float(gains @ np.asarray(self.ranks, dtype=np.float64)) / self.users if self.users else float("nan")

    def merge(self, other: Ranking) -> Ranking:
        """The ranking over the users of both; they must be different users."""
        if other.k != self.k:
            raise ValueError(f"rankings at {self.k} and at {other.k} do not add up")
        return Ranking(
            users=self.users + other.users, ranks=tuple(a + b for a, b in zip(self.ranks, other.ranks, strict=True))
        )


def ranks_of(positive: npt.ArrayLike, negatives: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> Counts:
    """(U,) ranks of the positives, counted from 0; arguments and errors as of `Ranking.from_scores`."""
    mine, others = np.asarray(positive), np.asarray(negatives)
    if mine.ndim != 1 or others.ndim != 2 or len(mine) != len(others):
        raise ValueError(f"ranking wants (U,) and (U, C) scores, got {mine.shape} and {others.shape}")
    is_negative = np.ones(others.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    if is_negative.shape != others.shape:
        raise ValueError(f"{others.shape} scores want a mask of that shape, got {is_negative.shape}")
    bad = int(np.count_nonzero(np.isnan(mine))) + int(np.count_nonzero(np.isnan(others) & is_negative))
    if bad:
        raise FlpsError(f"{bad} scores to rank are NaN: the model has diverged; a lower learning rate may help")
    stands_above = (others >= mine[:, None]) & is_negative
    ranks: Counts = stands_above.sum(axis=1, dtype=np.int64)
    return ranks


class EventLog:
    """One role's pen for `metrics.jsonl`, the file that all roles of a run on one machine share.

    Each event is one JSON object on one line and goes out in a single write on a descriptor opened for appending, so
    lines of several processes and threads do not mix. NaN and infinity become null, as JSON knows neither.
    """

    def __init__(self, path: str, role: str, rank: int, clock: Callable[[], float] = time.time) -> None:
        """`path`: the file, made when missing; `clock`: gives unix time in seconds. Raises ResourceError."""
        self._path, self._role, self._rank, self._clock = path, role, rank, clock
        self._encode = msgspec.json.Encoder(enc_hook=_plain_number).encode
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise ResourceError(f"cannot write events to {path}: {error.strerror}") from error

    def write(self, event: str, /, **fields: Any) -> None:
        """Append one event with its fields; `time`, `role`, `rank` and `event` are filled in and may not be fields.

        Raises ResourceError when the line could not be written whole.
        """
        taken = {"time", "role", "rank", "event"} & fields.keys()
        if taken:
            raise ValueError(f"event {event!r} may not set {', '.join(sorted(taken))}")
        head = {"time": self._clock(), "role": self._role, "rank": self._rank, "event": event}
        line = self._encode({**head, **fields}) + b"\n"
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise ResourceError(f"cannot write events to {self._path}: {error.strerror}") from error
        if written != len(line):
            raise ResourceError(f"{self._path}: only {written} of {len(line)} bytes of an event fitted on the disk")

    def close(self) -> None:
        """Let go of the file; a second call is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _plain_number(value: object) -> object:
    """Numpy scalars and arrays as plain numbers and lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"an event field may not be a {type(value).__name__}")


class EventReader:
    """Follows `metrics.jsonl` while it grows."""

    def __init__(self, path: str) -> None:
        """`path`: the file; it may come into being later."""
        self.skipped_lines = 0  # lines that were no JSON object, such as one torn by a power cut and then written over
        self._path, self._offset = path, 0

    def poll(self) -> list[dict[str, Any]]:
        """The events whose lines were completed since the last poll, in order; a line without its end waits."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := self._parse(line)) is not None]

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.skipped_lines += 1
            return None
