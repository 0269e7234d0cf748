"""A process (or a thread) becomes its role and plays it to the end."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Protocol

from flps.checkpoint.run import OwnParts, part_name, state_of
from flps.config.job import Job
from flps.coordinator.checkpoints import Checkpoints
from flps.coordinator.service import TOLD, MembershipService
from flps.data.shards import shards_of
from flps.errors import ConfigError, ResourceError
from flps.membership import Member
from flps.metrics import EventLog, EventReader
from flps.scripts import load_script
from flps.server.service import ServerState, TableService
from flps.server.store import Store
from flps.transport.base import Bases, Durable, has_base
from flps.transport.beat import Heartbeat
from flps.transport.journal import Journal
from flps.transport.listener import Listener, Service, serve
from flps.transport.recovery import recover
from flps.transport.sockets import Carrier
from flps.worker.client import FLClient
from flps.worker.paired import PairedClient, PairedSession
from flps.worker.session import Session

log = logging.getLogger(__name__)
GAUGE_EVERY_S = 1.0


class KeptService(Service, Durable, Protocol):
    """A service whose state a journal keeps."""


CLOSE_S = 60.0  # what is left of a checkpoint may take so long to come to the disk


def run_role(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Play a role until the job is over. Raises FlpsError when it does not end in good order.

    incarnation: 1 for the first life of that role; in a later one it takes up where the earlier one ended.
    """
    if job.security == "plain":
        log.warning("--insecure: what this role sends and receives is neither encrypted nor authenticated")
    if job.pairs and role in ("worker", "heter_worker"):
        run_paired(job, role, rank)
    elif role == "worker":
        run_worker(job, rank, incarnation)
    elif role == "server":
        run_server(job, rank, incarnation)
    else:
        run_coordinator(job, incarnation)


def run_coordinator(job: Job, incarnation: int = 1) -> None:
    """Host membership, barriers and metrics."""
    with ExitStack() as stack:
        member = Member("coordinator", 0)
        events, carrier, listener = _answering(stack, job, member, job.coordinator, incarnation)
        membership = _membership(job, events, member, incarnation)
        with membership.replaying():
            bases = _take_up(job, carrier, listener, [membership])
        membership.renew(time.monotonic())
        events.write("ready")
        serve(listener, [membership], Gauge(listener, events), _work(bases))


def run_server(job: Job, rank: int, incarnation: int = 1) -> None:
    """Host a share of the tables; server 0 hosts membership too when there is no coordinator."""
    with ExitStack() as stack:
        member = Member("server", rank)
        events, carrier, listener = _answering(stack, job, member, job.servers[rank], incarnation)
        heartbeat = Heartbeat(carrier, job.coordinator, Member("coordinator" if job.coordinators else "server", 0))
        stack.callback(heartbeat.stop)
        warm_from = [Path(job.config_dir) / folder for folder in job.config.runner.warm_from]
        limits, run_dir = carrier.limits, Path(job.run_dir)
        store = Store(rank, len(job.servers), job.config.network.keys_max, warm_from, run_dir, limits)
        own = OwnParts(job.checkpoints, part_name("shared", rank, len(job.servers)), heartbeat.tell)
        tables = TableService(
            store, job.config, job.workers, job.models, lambda: heartbeat.lost, own, 2 if job.pairs else 1
        )
        services: list[KeptService] = [tables]
        membership = _membership(job, events, member, incarnation) if rank == 0 and not job.coordinators else None
        if membership is not None:
            services.append(membership)
        heartbeat.start()  # taking up a long journal must not be taken for death
        if job.resume_from and not has_base(listener.journal):  # a base is newer, and the checkpoint may be gone
            part = store.take_up(Path(job.resume_from), job.checkpoint)
            tables.take_up(state_of(Path(job.resume_from), part, ServerState))
        with membership.replaying() if membership is not None else nullcontext():
            bases = _take_up(job, carrier, listener, services, store)
        if bases is not None:
            tables.keep = bases.begin
        if membership is not None:
            membership.renew(time.monotonic())
        events.write("ready")
        gauge = Gauge(listener, events, heartbeat.check)
        serve(listener, services, gauge, _work(bases, store.advance))
        store.close(CLOSE_S)
        gauge.write("done")
        if membership is None:
            heartbeat.leave()


class Gauge:
    """Called at every tick of a listener: looks whether to give up, and now and then says how much has passed."""

    def __init__(self, listener: Listener, events: EventLog, check: Callable[[], None] = lambda: None) -> None:
        """`check()` raises to end the role early."""
        self._listener = listener
        self._events = events
        self._check = check
        self._next = 0.0

    def __call__(self) -> None:
        self._check()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + GAUGE_EVERY_S
            self.write("serving")

    def write(self, state: str) -> None:
        """One event with what the listener has counted."""
        listener = self._listener
        self._events.write(
            "progress",
            state=state,
            bytes_in=listener.bytes_in,
            bytes_out=listener.bytes_out,
            rejected_pushes=listener.rejected,
            refused_keys=listener.refused_keys,
        )


def _answering(
    stack: ExitStack, job: Job, member: Member, endpoint: str, incarnation: int
) -> tuple[EventLog, Carrier, Listener]:
    """What a role that answers needs; all of it is let go when the stack unwinds."""
    events = EventLog(str(Path(job.run_dir) / "metrics.jsonl"), member.role, member.rank)
    stack.callback(events.close)
    carrier = Carrier(job.terms, member, incarnation)
    stack.callback(carrier.shut_down)
    listener = Listener(carrier, endpoint, _journal(job, member, incarnation))
    stack.callback(listener.close)
    return events, carrier, listener


def _journal(job: Job, member: Member, incarnation: int) -> Journal | None:
    """What this role was told, when the job keeps it. Raises ResourceError for one that is not of this run's role."""
    durability = job.config.runner.durability
    if durability == "off":
        return None
    folder = Path(job.run_dir) / "journal" / f"{member.role}-{member.rank}"
    if incarnation == 1 and folder.exists():
        raise ResourceError(f"{folder} is there already: each run has a folder of its own")
    return Journal(folder, durability)


def _take_up(
    job: Job, carrier: Carrier, listener: Listener, services: Sequence[KeptService], store: Store | None = None
) -> Bases | None:
    """In a later life: be what the journal says. Returns what keeps it short; None without one."""
    if listener.journal is None:
        return None
    bytes_max = job.config.runner.journal_bytes_max
    bases = Bases(listener.journal, listener.ledger, services, job.run_id, bytes_max, store)
    if carrier.incarnation > 1:
        recover(listener, services, carrier.limits, first=bases.restore())
    return bases


def _work(bases: Bases | None, advance: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    """What a role does between two requests."""
    if bases is None:
        return advance

    def work() -> bool:
        bases.work()
        return advance()

    return work


def run_worker(job: Job, rank: int, incarnation: int = 1) -> None:
    """Train one client's part."""
    client_type = _client_type(job.trainer) if job.trainer else FLClient
    session = Session(job, rank, incarnation)
    try:
        session.open()
        client = client_type()
        runner = job.config.runner
        client.set_basic_config(session, job.config, {})
        client.set_train_dataset_info(session.train_set, _files(job, runner.train_data_dir, rank))
        client.set_test_dataset_info(session.test_set, _files(job, runner.test_data_dir, rank))
        client.set_train_example_num(session.train_set.examples(runner.example_count_method))
        client.run()
    finally:
        session.close()


def run_paired(job: Job, role: str, rank: int) -> None:
    """Train one party's part of a pair's rows."""
    session, reason = PairedSession(job, role, rank), ""
    try:
        session.open()
        client = PairedClient()
        client.set_basic_config(session, job.config, {})
        client.run()
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        session.close(reason)


def _membership(job: Job, events: EventLog, host: Member, incarnation: int) -> MembershipService:
    told = [event for event in EventReader(str(Path(job.run_dir) / "metrics.jsonl")).poll() if event["event"] in TOLD]
    before = sum((event["role"], event["rank"]) == host for event in told)
    return MembershipService(
        job.workers,
        len(job.servers),
        job.config.network,
        events,
        time.monotonic(),
        before,
        host,
        checkpoints=Checkpoints(job, events, is_first_life=incarnation == 1),
        resumed=job.checkpoint,
    )


def _files(job: Job, folder: str, rank: int) -> list[Path]:
    if not folder:
        return []
    shards = shards_of(Path(job.config_dir) / folder, rank, job.workers, job.config.runner.split_file_list)
    return [path for shard in shards for path in shard]


def _client_type(script: str) -> type[FLClient]:
    """The one class in a user's trainer script that derives from FLClient."""
    module = load_script(Path(script))
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, FLClient) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{script} must define one class that derives from flps.worker.FLClient, found {len(found)}")
    return found[0]
