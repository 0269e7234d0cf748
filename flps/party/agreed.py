"""What the parties of a job tell each other before they begin, and what follows from it for all of them.

Law: pure code: every party comes to the same courses, and to the same complaints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from flps.errors import ConfigError, FlpsError
from flps.split.agreement import Summary, same_values
from flps.split.course import Course, Net, courses
from flps.split.terms import NetTerms, disagreements

Kind: TypeAlias = Literal["train", "eval"]
TOLD = "told by {}"  # key of a summary; each party has its own, so that none is compared
ALIGNMENT = "alignment"  # key: digest of the alignment of a party's rows, "" while it has none; see align.py
UNUSABLE = "cannot be aligned: {}"  # key, for the same reason: what is wrong with a party's table


class Unaligned(FlpsError):
    """Another party has no aligned rows, so all must align theirs; all parties know it when one does."""


class Told(msgspec.Struct, frozen=True):
    """What a party tells the others of its part."""

    rows: tuple[str, ...]  # what a batch of its rows holds
    nets: tuple[str, ...]  # what it calls its nets, in the order of `terms`
    terms: NetTerms


def told_by(summaries: Mapping[str, Summary]) -> dict[str, Told]:
    """Party -> what it has told. Raises ConfigError when it is no description of a party."""
    try:
        told = {party: msgspec.convert(summary[TOLD.format(party)], Told) for party, summary in summaries.items()}
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(f"a party tells what is no description of its nets: {error}") from None
    for party, one in told.items():
        if not len(one.nets) == len(one.terms.nets) == len(one.terms.eval_nets):
            raise ConfigError(f"{party} names {len(one.nets)} nets and describes {len(one.terms.nets)}")
    return told


def courses_of(summaries: Mapping[str, Summary], kind: Kind) -> dict[str, Course]:
    """Party -> its course in training or in evaluation, from what all parties have told. Raises ConfigError."""
    told = told_by(summaries)
    nets = []
    for party, one in told.items():
        described = one.terms.nets if kind == "train" else one.terms.eval_nets
        for name, net in zip(one.nets, described, strict=True):
            remote, gradients, own = frozenset(net.remote), frozenset(net.gradients), frozenset(net.own)
            nets.append(Net(party, name, net.inputs, net.outputs, remote, gradients, own))
    return courses(nets, {party: one.rows for party, one in told.items()})


def skips_together(summaries: Mapping[str, Summary]) -> bool:
    """Whether any party has a loss scale, so that steps may be skipped."""
    return any(one.terms.loss_scales for one in told_by(summaries).values())


def unaligned(summaries: Mapping[str, Summary]) -> list[str]:
    """The parties that want to align rows first."""
    return [party for party, summary in summaries.items() if summary.get(ALIGNMENT) == ""]


def fits(summaries: Mapping[str, Summary]) -> list[str]:
    """Complaints about parties that are not of one job."""
    if unaligned(summaries):
        return _fit_to_align(summaries)
    complaints = same_values(summaries)
    try:
        complaints += disagreements([one.terms for one in told_by(summaries).values()])
        if not complaints:
            courses_of(summaries, "eval")
            if any(summary.get("task") == "train" for summary in summaries.values()):
                courses_of(summaries, "train")
    except ConfigError as error:
        complaints.append(str(error))
    return complaints


def _fit_to_align(summaries: Mapping[str, Summary]) -> list[str]:
    """Complaints about parties of which some have no aligned rows yet."""
    complaints = [f"{who}: {said}" for who, one in summaries.items() if (said := one.get(UNUSABLE.format(who)))]
    without = [party for party, summary in summaries.items() if ALIGNMENT not in summary]
    if without:
        complaints.append(f"psi: {', '.join(unaligned(summaries))} aligns rows first, {', '.join(without)} does not")
    common = {party: {key: summary[key] for key in summary if key != ALIGNMENT} for party, summary in summaries.items()}
    return complaints + same_values(common)
