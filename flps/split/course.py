"""What a party does in one step, worked out from what all parties' nets take and give.

A tensor has one name in the whole job, and one net gives it. A net runs when all that it takes is there: from the
party's rows, from its other nets, or from another party. The way back is the way there, reversed: whoever took a tensor
gives its gradient to whoever made it.

    leader    run bottom, receive from follower, run top | back top, send gradients to follower, back bottom
    follower  run bottom, send to leader                 | receive gradients from leader, back bottom

Law 1: pure code: every party works out the whole job, so all of them come to matching courses or to the same complaint.
Law 2: of what a net gives, only what another party takes travels, and only when it says `destination: remote`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from flps.errors import ConfigError


class Net(NamedTuple):
    """What is known of a net in the whole job."""

    party: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    remote: frozenset[str]  # of the outputs those that may leave the party
    gradients: frozenset[str] = frozenset()  # of the inputs those whose gradient it works out
    own: frozenset[str] = frozenset()  # of the inputs those that come from the party's own rows and nets alone


class Run(NamedTuple):
    """Run a net forward."""

    net: str


class Send(NamedTuple):
    """Give tensors to another party."""

    party: str
    names: tuple[str, ...]


class Receive(NamedTuple):
    """Wait for tensors of another party."""

    party: str
    names: tuple[str, ...]


class Back(NamedTuple):
    """Run a net backward: its parameters move, and the gradients of its inputs are known."""

    net: str


Action: TypeAlias = Run | Send | Receive | Back


class Course(NamedTuple):
    """One party's step."""

    forward: tuple[Action, ...]
    backward: tuple[Action, ...]


def courses(nets: Iterable[Net], local: Mapping[str, Iterable[str]]) -> dict[str, Course]:
    """Every party's course.

    nets: of all parties. local: party -> what its rows hold. Raises ConfigError when tensors are given twice, taken
    from nobody, kept by a party although another takes them, or when nets wait for each other.
    """
    ordered = _ordered(list(nets), {party: frozenset(names) for party, names in local.items()})
    forward: dict[str, list[Action]] = {net.party: [] for net in ordered}
    backward: dict[str, list[Action]] = {net.party: [] for net in ordered}
    for net in ordered:
        forward[net.party].append(Run(net.name))
        for taker, names in _takers(net, ordered):
            forward[net.party].append(Send(taker, names))
            forward[taker].append(Receive(net.party, names))
    for net in reversed(ordered):
        for taker, names in _takers(net, ordered, wants_gradient=True):
            backward[taker].append(Send(net.party, names))
            backward[net.party].append(Receive(taker, names))
        backward[net.party].append(Back(net.name))
    return {party: Course(tuple(forward[party]), tuple(backward[party])) for party in forward}


def _ordered(nets: Sequence[Net], local: Mapping[str, frozenset[str]]) -> list[Net]:
    """Each net after those whose tensors it takes; of several that could run, the ones of fewer waits come first."""
    makers = _makers(nets)
    _expect_known(nets, makers, local)
    left, ordered = list(nets), []
    there: set[str] = set()
    while left:
        ready = [net for net in left if _wanted(net, local) <= there]
        if not ready:
            names = ", ".join(f"{net.name} of {net.party}" for net in left)
            raise ConfigError(f"these nets wait for each other's outputs: {names}")
        ordered += ready
        there |= {name for net in ready for name in net.outputs}
        left = [net for net in left if net not in ready]
    return ordered


def _wanted(net: Net, local: Mapping[str, frozenset[str]]) -> set[str]:
    return set(net.inputs) - local.get(net.party, frozenset())


def _makers(nets: Sequence[Net]) -> dict[str, Net]:
    makers: dict[str, Net] = {}
    for net in nets:
        for name in net.outputs:
            if name in makers:
                other = makers[name]
                raise ConfigError(
                    f"{name!r} is an output of {net.name} of {net.party} and of {other.name} of {other.party}: "
                    "a tensor has one name in the whole job"
                )
            makers[name] = net
    return makers


def _expect_known(nets: Sequence[Net], makers: Mapping[str, Net], local: Mapping[str, frozenset[str]]) -> None:
    wrong = []
    for net in nets:
        for name in sorted(_wanted(net, local)):
            maker = makers.get(name)
            if maker is None:
                wrong.append(f"{net.name} of {net.party} takes {name!r}, which no net gives and its rows do not hold")
            elif maker.party != net.party and name in net.own:
                wrong.append(
                    f"{net.name} of {net.party} takes {name!r}, which {maker.name} of {maker.party} gives and "
                    f"{net.party} itself has not: its yaml must say `source: remote`"
                )
            elif maker.party != net.party and name not in maker.remote:
                wrong.append(
                    f"{net.name} of {net.party} takes {name!r}, which {maker.name} of {maker.party} keeps: its yaml "
                    "must say `destination: remote`"
                )
    if wrong:
        raise ConfigError(
            "\n  ".join(["the parties' nets do not fit together:", *wrong]) if len(wrong) > 1 else wrong[0]
        )


def _takers(net: Net, nets: Sequence[Net], wants_gradient: bool = False) -> list[tuple[str, tuple[str, ...]]]:
    """Other parties that take outputs of this net, and which; each party once."""
    parties = sorted({other.party for other in nets if other.party != net.party})
    taken = []
    for party in parties:
        there = [other for other in nets if other.party == party]
        asked = {
            name
            for other in there
            for name in (other.gradients if wants_gradient else other.inputs)
            if name not in other.own
        }
        names = tuple(name for name in net.outputs if name in asked and name in net.remote)
        if names:
            taken.append((party, names))
    return taken
