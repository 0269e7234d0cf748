"""Reports of workers, added up and told as events.

A report is named arrays that add up: integer counts and float64 sums. They are added in rank order, so that the same
run gives the same bits. Names that are known here become fields of an event; others are added up all the same.

    samples (1,); loss (1,) sum over samples; auc (2, bins); sampled and full (1 + k,) users, then users by rank of
    their held-out item; warm (1,) users whose private rows were trained; log_loss (1,) sum over held-out samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from flps.errors import Refused
from flps.membership import Member
from flps.message import Report, Tensor
from flps.metrics import AucHistogram, Ranking

Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]  # name -> type and shape
_SUMS = {"int64", "uint64", "float64"}
_WANTED: dict[str, tuple[str, Callable[[Tensor], bool]]] = {
    "samples": ("(1,) integer", lambda array: array.shape == (1,) and _counts(array)),
    "warm": ("(1,) integer", lambda array: array.shape == (1,) and _counts(array)),
    "loss": ("(1,) float64", lambda array: array.shape == (1,) and array.dtype == np.float64),
    "log_loss": ("(1,) float64", lambda array: array.shape == (1,) and array.dtype == np.float64),
    "auc": ("(2, bins) integers", lambda array: array.ndim == 2 and len(array) == 2 and _counts(array)),
    "sampled": ("(1 + k,) integers", lambda array: array.ndim == 1 and array.size > 1 and _counts(array)),
    "full": ("(1 + k,) integers", lambda array: array.ndim == 1 and array.size > 1 and _counts(array)),
}


def layout_of(report: Report) -> Layout:
    """Types and shapes of a report, which those of one barrier share. Raises Refused for what cannot be added up or
    cannot be what its name says.
    """
    for name, array in report.counts.items():
        if array.dtype.name not in _SUMS:
            raise Refused(f"report {name} is of {array.dtype}; sums are of {', '.join(sorted(_SUMS))}")
        wanted, fits = _WANTED.get(name, ("", lambda _: True))
        if not fits(array):
            raise Refused(f"report {name} is {array.dtype} {array.shape}, expected {wanted}, none below 0")
    return {name: (array.dtype.name, array.shape) for name, array in report.counts.items()}


def _counts(array: Tensor) -> bool:
    return array.dtype.kind in "iu" and array.size > 0 and int(array.min()) >= 0


def add_up(reports: Mapping[Member, Report]) -> Report:
    """The sum of all reports, which have one layout, in rank order; the union of their files."""
    counts: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    for member in sorted(reports):
        files.update(reports[member].files)
        for name, array in reports[member].counts.items():
            if name in counts:
                counts[name] += array
            else:
                counts[name] = np.array(array)
    return Report(counts, files)


def trained(total: Report, reports: Mapping[Member, Report], seconds: float) -> dict[str, Any]:
    """Fields of an `epoch` event; `seconds`: wall time of the epoch."""
    counts = total.counts
    samples = int(counts["samples"][0]) if "samples" in counts else 0
    return {
        "samples": samples,
        "loss": float(counts["loss"][0]) / samples if samples and "loss" in counts else None,
        "auc": area(counts.get("auc")),
        "client_auc": {str(m.rank): area(r.counts.get("auc")) for m, r in sorted(reports.items())},
        "samples_per_s": samples / seconds if seconds > 0 else None,
        "seconds": seconds,
    }


def evaluated(total: Report) -> dict[str, Any]:
    """Fields of an `eval` event."""
    counts = total.counts
    sampled, full = _ranking(counts.get("sampled")), _ranking(counts.get("full"))
    if "log_loss" in counts and "samples" in counts:  # rows were measured, not rankings
        samples = int(counts["samples"][0])
        log_loss = float(counts["log_loss"][0]) / samples if samples else None
        return {"auc": area(counts.get("auc")), "log_loss": log_loss, "samples": samples}
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
