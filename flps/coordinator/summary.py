"""Reports of workers, added up and told as events.

A report is named arrays that add up: integer counts and float64 sums. They are added in rank order, so that the same
run gives the same bits. Names that are known here become fields of an event; others are added up all the same.

    samples (1,); loss (1,) sum over samples; auc (2, bins); sampled and full (1 + k,) users, then users by rank of
    their held-out item; warm (1,) users whose private rows were trained
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flps.errors import Refused
from flps.membership import Member
from flps.message import Report, Tensor
from flps.metrics import AucHistogram, Ranking


def add_up(reports: Mapping[Member, Report]) -> Report:
    """The sum of all reports, in rank order; the union of their files. Raises Refused for shapes that differ."""
    counts: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    for member in sorted(reports):
        files.update(reports[member].files)
        for name, array in reports[member].counts.items():
            if name not in counts:
                counts[name] = np.array(array)
            elif counts[name].shape != array.shape or counts[name].dtype != array.dtype:
                raise Refused(f"{member} reports {name} as {array.dtype} {array.shape}, the others differently")
            else:
                counts[name] += array
    return Report(counts, files)


def trained(total: Report, reports: Mapping[Member, Report], seconds: float) -> dict[str, Any]:
    """Fields of an `epoch` event; `seconds`: wall time of the epoch."""
    counts = total.counts
    samples = int(counts["samples"][0]) if "samples" in counts else 0
    return {
        "samples": samples,
        "loss": float(counts["loss"][0]) / samples if samples else None,
        "auc": area(counts.get("auc")),
        "client_auc": {str(m.rank): area(r.counts.get("auc")) for m, r in sorted(reports.items())},
        "samples_per_s": samples / seconds if seconds > 0 else None,
        "seconds": seconds,
    }


def evaluated(total: Report) -> dict[str, Any]:
    """Fields of an `eval` event."""
    counts = total.counts
    sampled, full = _ranking(counts.get("sampled")), _ranking(counts.get("full"))
    return {
        "hr": sampled.hr if sampled else None,
        "ndcg": sampled.ndcg if sampled else None,
        "hr_full": full.hr if full else None,
        "ndcg_full": full.ndcg if full else None,
        "k": sampled.k if sampled else None,
        "auc": area(counts.get("auc")),
        "users": sampled.users if sampled else 0,
        "warm": int(counts["warm"][0]) if "warm" in counts else 0,
    }


def _ranking(counts: Tensor | None) -> Ranking | None:
    if counts is None:
        return None
    return Ranking(users=int(counts[0]), ranks=tuple(int(count) for count in counts[1:]))


def area(counts: Tensor | None) -> float | None:
    """The AUC of a histogram (2, bins); None where one of the two labels has not been seen."""
    if counts is None or not counts.sum(axis=1).all():
        return None
    return AucHistogram.from_counts(counts).value()
