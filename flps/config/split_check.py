"""What binds several keys of a split job together: each check says one thing and names the keys it read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flps.config.check import Contradiction, deadlines
from flps.config.source import KeyPath
from flps.config.split import Follower, Leader, SplitConfig, column_numbers
from flps.config.types import Network

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
CERTIFICATES = ("server_cert_path", "client_cert_path", "ca_cert_path")
PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")
PASSWORDS = ("server_password", "client_password")
_OF_A_FEDERATION = ("min_workers", "max_refused", "keys_max")


def contradictions(config: SplitConfig) -> Iterator[Contradiction]:
    """What in a configuration does not fit together: the keys concerned, the one to change first, and the reason."""
    yield from _names(config)
    yield from _nets(config)
    yield from _columns(config)
    yield from _psi(config)
    yield from _passwords(config)
    yield from _task(config)
    yield from _certificates(config)
    yield from deadlines(config.network)
    for key in _OF_A_FEDERATION:
        if getattr(config.network, key) != getattr(Network(), key):
            yield (("network", key),), "has no effect in a split job"


def _parties(config: SplitConfig) -> Iterator[tuple[KeyPath, str, Leader | Follower]]:
    """Where each party stands in the yaml, its name, and what is said of it."""
    yield ("parties", "leader"), "leader", config.parties.leader
    for rank, follower in enumerate(config.parties.followers):
        yield ("parties", "followers", rank), follower.name, follower


def _names(config: SplitConfig) -> Iterator[Contradiction]:
    seen = {"leader"}
    for path, name, party in _parties(config):
        if isinstance(party, Leader):
            continue
        if not NAME.fullmatch(name):
            yield ((*path, "name"),), f"{name!r} is no word of letters, digits and _ that begins with a letter"
        elif name in seen:
            yield ((*path, "name"),), f"{name!r} is another party's name already"
        seen.add(name)


def _nets(config: SplitConfig) -> Iterator[Contradiction]:
    for path, name, party in _parties(config):
        if not party.nets:
            yield ((*path, "nets"), ("model",)), f"is missing: name the yaml of each net of {name}"
        for net in {net for net in party.nets if party.nets.count(net) > 1}:
            yield ((*path, "nets"),), f"names {net} {party.nets.count(net)} times"


def _columns(config: SplitConfig) -> Iterator[Contradiction]:
    owners: dict[int, str] = {}
    said = [bool(party.columns) for _, _, party in _parties(config)]
    for path, name, party in _parties(config):
        here = (*path, "columns")
        if not party.columns:
            if any(said) and not party.data:
                yield (here,), f"is missing: other parties say theirs, so {name} must, or name `data` of its own"
            continue
        try:
            numbers = column_numbers(party.columns)
        except ValueError as error:
            yield (here,), str(error)
            continue
        for number in numbers:
            if number in owners:
                yield (here,), f"column {number} is {owners[number]}'s and {name}'s"
                break
            owners[number] = name


def _psi(config: SplitConfig) -> Iterator[Contradiction]:
    if config.psi is not None and "/" in config.runner.checkpoint_path:
        reason = "with `psi` it is a folder directly in the run's folder: beside it are the aligned rows"
        yield (("runner", "checkpoint_path"), ("psi",)), reason
    for path, name, party in _parties(config):
        if config.psi is None:
            for key in ("input", "table", "delimiter"):
                if getattr(party, key) != getattr(Leader(), key):
                    reason = "has no effect without a part `psi`, which names the column of the ids"
                    yield ((*path, key), ("psi",)), reason
            continue
        if party.data:
            yield ((*path, "data"), ("psi",)), "has no effect with a part `psi`: the rows come from `input`"
        if not party.columns:
            yield ((*path, "columns"), ("psi",)), f"is missing: with `psi` say which columns the table of {name} has"
        if PASSWORD_IN_URL.search(party.input):
            yield (
                ((*path, "input"),),
                "a password does not belong here, where every reader of the run's folder finds it: put the URL into a "
                "variable, and write env:NAME",
            )


def _task(config: SplitConfig) -> Iterator[Contradiction]:
    runner, here = config.runner, ("runner", "trained_models")
    if runner.task == "train" and runner.trained_models:
        yield (here, ("runner", "task")), "has no effect when nets are trained; `task` says evaluate or predict"
    if runner.task != "train" and not runner.trained_models:
        yield (here,), f"is missing: to {runner.task} wants the output_model folder of a run"


def _certificates(config: SplitConfig) -> Iterator[Contradiction]:
    parts = [(*path, "tls") for path, _, party in _parties(config) if party.tls]
    parts = [("tls",)] * bool(config.tls) + parts
    for key in CERTIFICATES:
        if parts and config.hyper_parameters.get(key):
            yield (
                (("hyper_parameters", key), parts[0]),
                f"names a certificate, and so does {'.'.join(map(str, parts[0]))}; keep one of them",
            )


def _passwords(config: SplitConfig) -> Iterator[Contradiction]:
    for key in PASSWORDS:
        if config.hyper_parameters.get(key):
            variable = f"FLPS_{key.upper()}"
            yield (
                (("hyper_parameters", key),),
                f"a password does not belong here, where every reader of the run's folder finds it: put it into the "
                f"variable {variable}, or into a file that {variable}_FILE names",
            )
