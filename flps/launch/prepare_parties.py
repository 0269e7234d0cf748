"""What the parties that start here need of this host: the yaml files of their nets, their rows, their certificates.

Law 1: all that is missing or wrong is said at once, before a role starts.
Law 2: what a party of another host has is that host's affair and is not looked for here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flps.config.split import EMBEDDED_ROWS, Follower, Leader, SplitConfig
from flps.config.split_job import SplitJob
from flps.config.tls import TlsFiles
from flps.errors import ConfigError, ResourceError
from flps.launch.plan import Plan, Role
from flps.launch.prepare import cache_dir
from flps.split.parties import SIDES, SSLConfig
from flps.split.schema import FLYamlData
from flps.transport.sockets import read_identity

FIRST_WEIGHTS = {"leader": "pre_trained_leader", "follower": "pre_trained_follower"}
_TLS_PATHS = ("ca", "certificate", "key", "crl", "password_file")


def with_files(plan: Plan[SplitJob]) -> Plan[SplitJob]:
    """The plan with absolute paths for all that the local parties read, once it is sure that it is there and right.

    A relative path is looked for beside the job's yaml, then in the working folder. Each net's yaml is read and
    checked. Raises ConfigError with everything that is wrong.
    """
    search = _Search(Path(plan.job.config_dir))
    config = plan.job.config
    for role in plan.local:
        config = _with_party(config, role, _found(search, config, role))
    if config.runner.trained_models:
        folder = search.folder("runner.trained_models", config.runner.trained_models)
        _expect_nets(search, folder, config, plan.local)
        config = msgspec.structs.replace(config, runner=msgspec.structs.replace(config.runner, trained_models=folder))
    if config.psi is None and not _has_own_rows(plan, config) and config.data != EMBEDDED_ROWS:
        config = _with_rows(config, search.folder("data", config.data))
    values = _first_weights(search, config.hyper_parameters, plan.local)
    config = msgspec.structs.replace(config, hyper_parameters=values)
    tls = _certificates(search, config, plan.local) if plan.job.security == "tls" else {}
    search.raise_if_any()
    return dataclasses.replace(plan, job=msgspec.structs.replace(plan.job, config=config, tls=tls))


def with_embedded_rows(
    plan: Plan[SplitJob], environment: Mapping[str, str], say: Callable[[str], None] = lambda text: None
) -> Plan[SplitJob]:
    """The plan with a real folder in the place of `embedded:criteo_like`, whose rows are made when not cached."""
    config = plan.job.config
    if config.data != EMBEDDED_ROWS or _has_own_rows(plan, config) or config.psi is not None:
        return plan
    from flps.data.criteo_like import ensure

    cache = cache_dir(environment)
    say(f"the generated rows are looked up in {cache}; made when they are not there")
    try:
        folder = ensure(cache)
    except OSError as error:
        raise ResourceError(f"cannot make the default data in {cache}: {error.strerror}; set FLPS_CACHE_DIR") from error
    config = _with_rows(config, str(folder))
    return dataclasses.replace(plan, job=msgspec.structs.replace(plan.job, config=config))


class _Search:
    """Finds files and folders, and keeps what is wrong with them."""

    def __init__(self, config_dir: Path) -> None:
        self._places = list(dict.fromkeys([config_dir, Path.cwd()]))
        self.complaints: list[str] = []

    def file(self, what: str, name: str) -> str:
        """The absolute path of a file."""
        return self._find(what, name, Path.is_file, "file")

    def folder(self, what: str, name: str) -> str:
        """The absolute path of a folder."""
        return self._find(what, name, Path.is_dir, "folder")

    def _find(self, what: str, name: str, is_there: Callable[[Path], bool], kind: str) -> str:
        if not name:
            self.complaints.append(f"{what}: is missing: name a {kind}")
            return ""
        candidates = [(place / Path(name).expanduser()).resolve() for place in self._places]
        found = next((path for path in candidates if is_there(path)), None)
        if found is None:
            tried = " nor ".join(dict.fromkeys(map(str, candidates)))
            self.complaints.append(f"{what}: there is no {kind} {tried}")
        return str(found or candidates[0])

    def raise_if_any(self) -> None:
        """Raises ConfigError that says them all."""
        said = list(dict.fromkeys(self.complaints))
        if len(said) == 1:
            raise ConfigError(said[0])
        if said:
            raise ConfigError("\n  ".join([f"{len(said)} things are wrong with the parties' files:", *said]))


def _found(search: _Search, config: SplitConfig, role: Role) -> Leader | Follower:
    """A party with absolute paths, its nets checked."""
    party = config.party(role.role, role.rank)
    where = _where(role)
    nets = tuple(_net(search, f"{where}.nets", net, role) for net in party.nets)
    rows = search.folder(f"{where}.data", party.data) if party.data else ""
    found = "" if config.psi is None else _input(search, where, party)
    return msgspec.structs.replace(party, nets=nets, data=rows, input=found)


def _input(search: _Search, where: str, party: Leader | Follower) -> str:
    """What a party's table is called, a file by its absolute path."""
    from flps.psi.curve import check_installed  # pandas takes half a second, and few jobs align rows
    from flps.psi.sources import open_source

    check_installed()
    if not party.input:
        search.complaints.append(f"{where}.input: is missing: the table whose rows `psi` aligns")
        return ""
    is_database = party.input.startswith("env:") or "://" in party.input
    name = party.input if is_database else search.file(f"{where}.input", party.input)
    if is_database or Path(name).is_file():
        try:
            open_source(name, "", party.table or None, party.delimiter)
        except ConfigError as error:
            search.complaints.append(f"{where}.input: {error}")
    return name


def _net(search: _Search, where: str, name: str, role: Role) -> str:
    """The absolute path of a net's yaml, read and checked."""
    path = search.file(where, name)
    if Path(path).is_file():
        try:
            net = FLYamlData(path)
        except ConfigError as error:
            search.complaints.append(str(error).replace("\n", "\n  "))
        else:
            if net.role != role.role:
                search.complaints.append(f"{net.where('role')}: role: is {net.role}, but the net is the {role.role}'s")
    return path


def _expect_nets(search: _Search, folder: str, config: SplitConfig, local: tuple[Role, ...]) -> None:
    """Complain of local parties that have no nets in a folder of trained ones."""
    for name in (config.name(role.role, role.rank) for role in local):
        if Path(folder).is_dir() and not any((Path(folder) / name).glob("*.safetensors")):
            search.complaints.append(f"runner.trained_models: {folder} has no nets of {name} (no {name}/*.safetensors)")


def _first_weights(search: _Search, said: Mapping[str, Any], local: tuple[Role, ...]) -> dict[str, Any]:
    """The hyper_parameters with absolute paths of the folders whose weights the local parties start from."""
    keys = {FIRST_WEIGHTS[role.role] for role in local if said.get(FIRST_WEIGHTS[role.role])}
    return {**said, **{key: search.folder(f"hyper_parameters.{key}", said[key]) for key in sorted(keys)}}


def _certificates(search: _Search, config: SplitConfig, local: tuple[Role, ...]) -> dict[str, TlsFiles]:
    """The certificates of the parties that start here, with absolute paths, once they have been read and tried."""
    found = {}
    for role in local:
        name, before = config.name(role.role, role.rank), len(search.complaints)
        files = _of_part(search, config, role) or _of_the_original(search, config, role)
        if files is not None and len(search.complaints) == before:
            try:
                read_identity(files, Path())
            except ConfigError as error:
                search.complaints.append(f"{name}: {error}")
            found[name] = files
    return found


def _of_part(search: _Search, config: SplitConfig, role: Role) -> TlsFiles | None:
    """What a part `tls` says."""
    files = config.certificates(role.role, role.rank)
    if files is None:
        return None
    where = f"{_where(role)}.tls" if config.party(role.role, role.rank).tls else "tls"
    return _absolute(search, files, {key: f"{where}.{key}" for key in _TLS_PATHS})


def _of_the_original(search: _Search, config: SplitConfig, role: Role) -> TlsFiles | None:
    """What the original's keys and the variables of the passwords say."""
    side, values = SIDES[role.role], config.hyper_parameters
    keys = {"certificate": f"{side}_cert_path", "ca": "ca_cert_path"}
    missing = [key for key in keys.values() if not values.get(key)]
    for key in missing:
        search.complaints.append(
            f"hyper_parameters.{key}: is missing, which enable_ssl needs; or say all certificates in a part `tls`"
        )
    if missing:
        return None
    try:
        files = SSLConfig(**{key: values[key] for key in keys.values()}).files(role.role)
    except ConfigError as error:
        search.complaints.append(str(error))
        return None
    said = {key: f"hyper_parameters.{name}" for key, name in keys.items()}
    return _absolute(search, files, said | {"password_file": f"FLPS_{side.upper()}_PASSWORD_FILE"})


def _absolute(search: _Search, files: TlsFiles, names: Mapping[str, str]) -> TlsFiles:
    """The same with absolute paths. names: what the user calls each of them."""
    said = {key: path for key in _TLS_PATHS if (path := getattr(files, key))}
    return msgspec.structs.replace(files, **{key: search.file(names[key], path) for key, path in said.items()})


def _where(role: Role) -> str:
    """Where a party stands in the job's yaml."""
    return "parties.leader" if role.role == "leader" else f"parties.followers[{role.rank}]"


def _has_own_rows(plan: Plan[SplitJob], config: SplitConfig) -> bool:
    """Whether every party that starts here names a folder of its own."""
    return all(config.party(role.role, role.rank).data for role in plan.local)


def _with_party(config: SplitConfig, role: Role, party: Leader | Follower) -> SplitConfig:
    parties = config.parties
    if isinstance(party, Leader):
        parties = msgspec.structs.replace(parties, leader=party)
    else:
        others = list(parties.followers)
        others[role.rank] = party
        parties = msgspec.structs.replace(parties, followers=tuple(others))
    return msgspec.structs.replace(config, parties=parties)


def _with_rows(config: SplitConfig, folder: str) -> SplitConfig:
    """The folder of the rows, in both places that say it."""
    values = dict(config.hyper_parameters)
    if "data_path" in values:
        values["data_path"] = folder
    return msgspec.structs.replace(config, data=folder, hyper_parameters=values)
