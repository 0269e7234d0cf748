"""The plan of a federation: from what the user asked and what the config says to a list of roles.

Law 1: nothing here opens a file, a socket or a clock; what must be looked up comes in `Surroundings`.
Law 2: every contradiction between flags, lists and config is refused here, with both numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import msgspec

from flps.config.job import Job, Security
from flps.config.types import Config
from flps.errors import ConfigError
from flps.faults import Faults
from flps.launch.arguments import Arguments
from flps.launch.hosts import Endpoint, is_loopback, parse_endpoint
from flps.launch.plan import Plan, Role, Surroundings, tcp_endpoints

LISTS = ("server", "worker", "heter_worker", "coordinator")


class _Guard(NamedTuple):
    """How links are guarded, the folder of keys, and whether its keys are made for this run."""

    security: Security
    key_dir: str = ""
    makes_keys: bool = False


def make_plan(arguments: Arguments, config: Config, around: Surroundings) -> Plan[Job]:
    """Lay out the job.

    arguments: command line and environment, merged. config: the loaded yaml with its overrides.
    Raises ConfigError when counts and lists disagree, when roles could not find each other, or when no role of the
    lists is of this machine.
    """
    _check_vertical(arguments, config)
    lists = {role: _read_list(arguments, role) for role in LISTS}
    counts, notes = _counts(arguments, config, lists)
    _check_counts(counts, config)
    networked = lists["server"] is not None or lists["coordinator"] is not None
    if arguments.in_process or not networked:
        _check_one_machine(arguments, lists)
        scheme = "loopback://" if arguments.in_process else f"ipc://{around.private_dir}/"
        roles = _local_roles(counts, scheme)
    else:
        roles = _networked_roles(arguments, counts, lists, notes)
    local = _pick_local(arguments, roles, lists, around)
    guard = _security(arguments, roles, local, networked, around)
    _say_unused(arguments, lists, notes)
    faults = _faults(arguments, counts)
    job = _job(arguments, config, around, roles, guard, whole_job=len(local) == len(roles))
    private_dir = around.private_dir if guard.security == "unix" or guard.makes_keys else None
    job = msgspec.structs.replace(job, faults=faults)
    return Plan(job, roles, local, tcp_endpoints(local), private_dir, guard.makes_keys, tuple(notes))


def _faults(arguments: Arguments, counts: dict[str, int]) -> str:
    """The faults of --faults in their own words, when the job has the roles that they strike."""
    faults = Faults.parse(arguments.faults)
    seated = {role: count for role, count in counts.items() if role != "heter_worker"}
    faults.check({**seated, "worker": counts["worker"] + counts["heter_worker"]}, arguments.in_process)
    return str(faults)


def _job(
    arguments: Arguments,
    config: Config,
    around: Surroundings,
    roles: tuple[Role, ...],
    guard: _Guard,
    *,
    whole_job: bool,
) -> Job:
    """What every role is told."""
    servers = tuple(role.endpoint for role in roles if role.role == "server")
    coordinators = [role.endpoint for role in roles if role.role == "coordinator"]
    pairs = tuple(role.endpoint for role in roles if role.role == "heter_worker")
    if pairs:  # who has lost the other half of its rows cannot go on
        network = msgspec.structs.replace(config.network, min_workers=2 * len(pairs))
        config = msgspec.structs.replace(config, network=network)
    return Job(
        run_id=_run_id(arguments, config, around.token, whole_job=whole_job),
        run_dir=str(around.run_dir),
        config_dir=str(around.config_path.parent),
        config=config,
        workers=sum(role.is_worker for role in roles),
        pairs=pairs,
        servers=servers,
        coordinator=coordinators[0] if coordinators else servers[0],
        coordinators=len(coordinators),
        security=guard.security,
        key_dir=guard.key_dir,
        trainer=arguments.trainer or "",
    )


def _read_list(arguments: Arguments, role: str) -> tuple[Endpoint, ...] | None:
    texts = getattr(arguments, f"{role}s")
    if texts is None:
        return None
    flag = f"--{role}s"
    return tuple(parse_endpoint(text, flag=flag, port_needed=role != "worker") for text in texts)


def _counts(
    arguments: Arguments, config: Config, lists: dict[str, tuple[Endpoint, ...] | None]
) -> tuple[dict[str, int], list[str]]:
    """How many of each role, and what must be said about it."""
    notes = []
    wanted = config.runner.with_coordinator
    counts: dict[str, int] = {}
    for role in LISTS:
        partners = counts["worker"] if role == "heter_worker" and config.runner.vertical else 0
        silent = {"heter_worker": partners, "coordinator": int(wanted or 0)}.get(role, 1)
        said = getattr(arguments, f"{role}_num")
        hosts = lists[role]
        if said is not None and hosts is not None and said != len(hosts):
            raise ConfigError(f"--{role}_num={said}, but --{role}s lists {len(hosts)}; they must agree")
        counts[role] = len(hosts) if hosts is not None else silent if said is None else said
    if wanted is not None and counts["coordinator"] != int(wanted):
        notes.append(
            f"runner.with_coordinator is {int(wanted)}, but the command line asks for {counts['coordinator']} "
            "coordinators; the command line wins"
        )
    return counts, notes


def _check_counts(counts: dict[str, int], config: Config) -> None:
    for role, least in (("server", 1), ("worker", 1), ("coordinator", 0)):
        if counts[role] < least:
            raise ConfigError(f"--{role}_num={counts[role]}: expected at least {least}")
    if config.runner.vertical and counts["heter_worker"] != counts["worker"]:
        raise ConfigError(
            f"{counts['worker']} workers and {counts['heter_worker']} heter_workers were asked for: each worker makes "
            "a pair with one heter_worker, so give as many"
        )
    if counts["coordinator"] > 1:
        raise ConfigError(f"{counts['coordinator']} coordinators were asked for; a job has one or none")
    if config.network.min_workers > counts["worker"]:
        raise ConfigError(
            f"network.min_workers is {config.network.min_workers}, but the job has only {counts['worker']} workers"
        )


def _check_vertical(arguments: Arguments, config: Config) -> None:
    """What belongs to vertical jobs only, and what they do not have."""
    if not config.runner.vertical:
        given = [f"--{name}" for name in ("heter_worker_num", "heter_workers") if getattr(arguments, name)]
        given += ["--role heter_worker"] * (arguments.role == "heter_worker")
        if given:
            raise ConfigError(f"{', '.join(given)}: only a vertical job has such workers, see runner.vertical")
        return
    if arguments.trainer is not None:
        raise ConfigError(f"trainer script {arguments.trainer}: a vertical job has none, each party runs its part")
    if arguments.max_restarts:
        raise ConfigError(
            f"--max_restarts={arguments.max_restarts}: a worker that has lost the other half of its rows cannot wait "
            "for it; set runner.save_checkpoint_interval, and go on with --resume"
        )


def _check_one_machine(arguments: Arguments, lists: dict[str, tuple[Endpoint, ...] | None]) -> None:
    """Without endpoints of servers everything must start here, together."""
    if arguments.role is not None:
        where = "with --in_process" if arguments.in_process else "without host lists"
        raise ConfigError(
            f"--role {arguments.role} {where}: a role that starts alone must be told where the others are; "
            "give --servers (and --coordinators) as host:port"
        )
    elsewhere = {endpoint.host for endpoint in lists["worker"] or () if not is_loopback(endpoint.host)}
    if elsewhere and not arguments.in_process and len({endpoint.host for endpoint in lists["worker"] or ()}) > 1:
        raise ConfigError(
            f"--workers names several hosts ({', '.join(sorted(elsewhere))}), but no --servers says where they find "
            "the servers"
        )


_SOCKETS = {"heter_worker": "pair"}  # short names, since a unix socket's path has room for few characters


def _local_roles(counts: dict[str, int], scheme: str) -> tuple[Role, ...]:
    return tuple(
        Role(role, rank, "localhost", "" if role == "worker" else f"{scheme}{_SOCKETS.get(role, role)}-{rank}")
        for role in ("server", "coordinator", "heter_worker", "worker")
        for rank in range(counts[role])
    )


def _networked_roles(
    arguments: Arguments, counts: dict[str, int], lists: dict[str, tuple[Endpoint, ...] | None], notes: list[str]
) -> tuple[Role, ...]:
    for role in ("server", "coordinator", "heter_worker"):
        if counts[role] and lists[role] is None:
            raise ConfigError(f"host lists are given, but no --{role}s says where the {role} is; give it as host:port")
    binding = [role for role in ("server", "coordinator", "heter_worker") if lists[role]]
    bound = [endpoint for role in binding for endpoint in lists[role] or ()]
    for endpoint in bound:
        if bound.count(endpoint) > 1:
            names = " and ".join(f"--{role}s" for role in binding)
            raise ConfigError(f"{endpoint} stands {bound.count(endpoint)} times in {names}")
    workers = lists["worker"]
    if workers is None:
        hosts = sorted({endpoint.host for endpoint in bound})
        if len(hosts) > 1 and arguments.role is None:
            raise ConfigError(f"the lists name {len(hosts)} hosts ({', '.join(hosts)}); --workers must say where the "
                              "workers run")  # fmt: skip
        workers = (Endpoint(hosts[0] if len(hosts) == 1 else "?", 0),) * counts["worker"]
    elif any(endpoint.port for endpoint in workers):
        notes.append("workers bind nothing: the ports of --workers are accepted and unused")
    hosts_of = {role: lists[role] or () for role in ("server", "coordinator", "heter_worker")} | {"worker": workers}
    return tuple(
        Role(role, rank, endpoint.host, "" if role == "worker" else f"tcp://{endpoint}")
        for role, endpoints in hosts_of.items()
        for rank, endpoint in enumerate(endpoints)
    )


def _pick_local(
    arguments: Arguments,
    roles: tuple[Role, ...],
    lists: dict[str, tuple[Endpoint, ...] | None],
    around: Surroundings,
) -> tuple[Role, ...]:
    """The roles that this launcher starts: one by name, all of one machine, or those whose host is this one."""
    if arguments.role is not None:
        rank = _lone_rank(arguments, roles, lists)
        chosen = tuple(role for role in roles if (role.role, role.rank) == (arguments.role, rank))
        if not chosen:
            count = sum(role.role == arguments.role for role in roles)
            raise ConfigError(f"--role {arguments.role} --rank {rank}: the job has {count} of them, counted from 0")
        return chosen
    hosts = sorted({role.host for role in roles})
    if hosts == ["localhost"]:
        return roles
    mine = _hosts_here(arguments, hosts, around)
    return tuple(role for role in roles if role.host in mine)


def _hosts_here(arguments: Arguments, hosts: list[str], around: Surroundings) -> set[str]:
    if arguments.host in hosts:
        return {arguments.host}
    # A pod may have an address of its own and still run a job of loopback addresses.
    if arguments.host is not None and not (all(map(is_loopback, hosts)) and not is_loopback(arguments.host)):
        raise ConfigError(
            f"can't find your local ip: POD_IP (or --host) is {arguments.host}, the lists name {', '.join(hosts)}"
        )
    mine = {host for host in hosts if around.is_mine(host)}
    if not mine:
        raise ConfigError(
            f"can't find your local ip: none of the listed hosts is this machine ({', '.join(hosts)}); set POD_IP or "
            "--host to the one that is"
        )
    return mine


def _lone_rank(arguments: Arguments, roles: tuple[Role, ...], lists: dict[str, tuple[Endpoint, ...] | None]) -> int:
    """--rank, or the place of POD_IP:PADDLE_PORT in the role's list, or 0 where the job has only one."""
    if arguments.rank is not None:
        return arguments.rank
    listed = lists[str(arguments.role)] or ()
    mine = Endpoint(arguments.host or "", arguments.port or 0)
    if mine in listed:
        return listed.index(mine)
    if sum(role.role == arguments.role for role in roles) == 1:
        return 0
    raise ConfigError(
        f"--role {arguments.role}: which one? give --rank (or PADDLE_TRAINER_ID, or POD_IP and PADDLE_PORT)"
    )


def _security(
    arguments: Arguments, roles: tuple[Role, ...], local: tuple[Role, ...], networked: bool, around: Surroundings
) -> _Guard:
    if arguments.in_process:
        return _Guard("loopback")
    if not networked:
        return _Guard("unix")
    if arguments.insecure:
        return _Guard("plain")
    loopback_only = all(is_loopback(role.host) for role in roles)
    if loopback_only and len(local) == len(roles) and arguments.key_dir is None:
        return _Guard("curve", str(around.private_dir / "keys"), makes_keys=True)
    return _Guard("curve", str(around.key_dir))


def _run_id(arguments: Arguments, config: Config, token: str, *, whole_job: bool) -> str:
    """Random where one launcher starts all; else what every host can work out for itself."""
    if whole_job and arguments.run_id is None:
        return token
    if config.runner.vertical:  # each party has rows of its own, wherever they lie
        config = msgspec.structs.replace(config, runner=msgspec.structs.replace(config.runner, train_data_dir=""))
    said = dataclasses.replace(arguments, host=None, port=None, role=None, rank=None, key_dir=None, log_dir="")
    shared = (said.servers, said.workers, said.coordinators, said.heter_workers, said.run_id)
    text = repr(shared).encode() + msgspec.json.encode(config, order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]


def _say_unused(arguments: Arguments, lists: dict[str, tuple[Endpoint, ...] | None], notes: list[str]) -> None:
    given = [f"--{role}s" for role in LISTS if lists[role] is not None]
    if arguments.in_process and given:
        notes.append(f"--in_process: all roles are threads here, the hosts of {', '.join(given)} are unused")
    elif given and set(given) <= {"--workers", "--heter_workers"}:
        notes.append(
            f"without --servers all roles run here over unix sockets; {' and '.join(given)} only give"
            f"{'s' * (len(given) == 1)} the number of workers"
        )
    if arguments.insecure and not arguments.in_process and set(given) <= {"--workers", "--heter_workers"}:
        notes.append("--insecure is without effect: unix sockets are used, not TCP")
