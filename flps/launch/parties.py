"""The plan of a split job: where the leader listens, and which of the parties start here.

    nothing said                     all parties on this machine; they meet at a unix socket in a private folder
    --leader=HOST:PORT               all parties on this machine; they meet at that port
    --role leader | follower         this party alone; where the leader listens say --leader, or the original's
                                     http_server_address (at the leader) and remote_server_address (at a follower)

Law 1: nothing here opens a file, a socket or a clock; what must be looked up comes in `Surroundings`.
Law 2: only the leader is reached by others: followers dial, and an address of theirs is accepted and not used.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from flps.config.job import Security
from flps.config.split import SplitConfig
from flps.config.split_job import SplitJob
from flps.errors import ConfigError
from flps.faults import Faults
from flps.launch.arguments import Arguments
from flps.launch.hosts import Endpoint, is_loopback, parse_endpoint
from flps.launch.plan import Plan, Role, Surroundings, tcp_endpoints

RUN_ID = "split"  # of parties that are started one by one: each must know it, and their files may differ


class _Meeting(NamedTuple):
    """Where the parties meet, and how the way there is guarded."""

    endpoint: str
    host: str
    security: Security
    key_dir: str = ""
    makes_keys: bool = False


def make_split_plan(arguments: Arguments, config: SplitConfig, around: Surroundings) -> Plan[SplitJob]:
    """Lay out the job.

    Raises ConfigError when a party that starts alone is not told where the leader is, when the leader's address is of
    another machine, or when the job has no such party.
    """
    followers = len(config.parties.followers)
    notes: list[str] = []
    meeting = _meeting(arguments, config, around, notes)
    elsewhere = meeting.host if arguments.role is None else "?"
    roles = (
        Role("leader", 0, meeting.host, meeting.endpoint),
        *(Role("follower", rank, elsewhere) for rank in range(followers)),
    )
    local = _local(arguments, roles, config)
    faults = Faults.parse(arguments.faults)
    faults.check({"leader": 1, "follower": followers}, arguments.in_process)
    if arguments.max_restarts and not config.runner.save_checkpoint_interval:
        notes.append("--max_restarts: without runner.save_checkpoint_interval no party can be taken up in mid-training")
    is_whole = len(local) == len(roles)
    job = SplitJob(
        run_id=around.token if is_whole and arguments.run_id is None else arguments.run_id or RUN_ID,
        run_dir=str(around.run_dir),
        config_dir=str(around.config_path.parent),
        config=_patient(config) if arguments.max_restarts else config,
        leader=meeting.endpoint,
        security=meeting.security,
        key_dir=meeting.key_dir,
        faults=str(faults),
    )
    is_private = meeting.security == "unix" or (meeting.makes_keys and arguments.role is None)
    private_dir = around.private_dir if is_private else None
    return Plan(job, roles, local, tcp_endpoints(local), private_dir, meeting.makes_keys, tuple(notes))


def _patient(config: SplitConfig) -> SplitConfig:
    """Parties that may be started again are silent for as long as that takes, and the others wait for them."""
    network = config.network
    network = msgspec.structs.replace(network, lease_s=max(network.lease_s, network.start_timeout_s))
    return msgspec.structs.replace(config, network=network)


def _meeting(arguments: Arguments, config: SplitConfig, around: Surroundings, notes: list[str]) -> _Meeting:
    """Where the leader listens."""
    if arguments.in_process:
        _refuse_alone(arguments, "with --in_process")
        return _Meeting("loopback://leader-0", "localhost", "loopback")
    place = _address(arguments, config)
    if place is None:
        if arguments.insecure:
            notes.append("--insecure is without effect: a unix socket is used, not TCP")
        if config.is_tls:
            notes.append("TLS is without effect: a unix socket is used, not TCP; --leader=host:port asks for it")
        return _Meeting(f"ipc://{around.private_dir}/leader-0", "localhost", "unix")
    if arguments.role is None and not around.is_mine(place.host):
        raise ConfigError(
            f"the leader listens at {place}, which is not this machine: say which party starts here, by --role leader "
            "or by --role follower --rank N"
        )
    return _guarded(arguments, config, around, place)


def _guarded(arguments: Arguments, config: SplitConfig, around: Surroundings, place: Endpoint) -> _Meeting:
    """TCP, by the means that was asked for."""
    if config.is_tls:
        refused = [flag for flag in arguments.settings if flag.lower() == "enable_ssl=false"]
        if arguments.insecure or refused:
            flag = "--insecure" if arguments.insecure else f"--{refused[0]}"
            raise ConfigError(f"{flag} and TLS (enable_ssl or a part `tls`) contradict each other; leave one out")
        return _Meeting(f"tls://{place}", place.host, "tls")
    endpoint = f"tcp://{place}"
    if arguments.insecure:
        return _Meeting(endpoint, place.host, "plain")
    if is_loopback(place.host) and arguments.key_dir is None:
        alone = around.private_dir.parent / f"flps-{os.getuid()}"  # which the other party's launcher finds, too
        folder = around.private_dir if arguments.role is None else alone
        return _Meeting(endpoint, place.host, "curve", str(folder / "keys"), makes_keys=True)
    return _Meeting(endpoint, place.host, "curve", str(around.key_dir))


def _address(arguments: Arguments, config: SplitConfig) -> Endpoint | None:
    """Host and port of the leader; None when all parties start here and none was asked for.

    The original's keys have defaults, so in a yaml they speak only where a party starts alone; as flags always.
    """
    if arguments.leader is not None:
        return parse_endpoint(arguments.leader, flag="--leader", port_needed=True)
    key = "remote_server_address" if arguments.role == "follower" else "http_server_address"
    as_flag = any(setting.startswith(f"{key}=") for setting in arguments.settings)
    if arguments.role is None and not as_flag:
        return None
    address = config.hyper_parameters.get(key)
    if not isinstance(address, str) or not address:
        _refuse_alone(arguments, "without --leader=host:port")
        return None
    return parse_endpoint(address, flag=key, port_needed=True)


def _refuse_alone(arguments: Arguments, where: str) -> None:
    if arguments.role is not None:
        raise ConfigError(
            f"--role {arguments.role} {where}: a party that starts alone must be told where the leader listens; give "
            "--leader as host:port"
        )


def _local(arguments: Arguments, roles: tuple[Role, ...], config: SplitConfig) -> tuple[Role, ...]:
    """The parties that this launcher starts."""
    if arguments.role is None:
        if arguments.rank is not None:
            raise ConfigError(f"--rank {arguments.rank}: of which role? give --role leader or --role follower")
        return roles
    candidates = [role for role in roles if role.role == arguments.role]
    if arguments.rank is None and len(candidates) > 1:
        names = ", ".join(f"{rank} {one.name}" for rank, one in enumerate(config.parties.followers))
        raise ConfigError(f"--role {arguments.role}: which one? give --rank: {names}")
    rank = arguments.rank or 0
    chosen = tuple(role for role in candidates if role.rank == rank)
    if not chosen:
        raise ConfigError(
            f"--role {arguments.role} --rank {rank}: the job has {len(candidates)} of them, counted from 0"
        )
    return chosen
