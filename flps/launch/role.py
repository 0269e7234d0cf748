"""A process (or a thread) becomes its role and plays it to the end."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from flps.config.job import Job
from flps.coordinator.service import MembershipService
from flps.data.shards import shards_of
from flps.errors import ConfigError
from flps.membership import Member
from flps.metrics import EventLog
from flps.scripts import load_script
from flps.server.service import TableService
from flps.server.store import Store
from flps.transport.beat import Heartbeat
from flps.transport.listener import Listener, Service, serve
from flps.transport.sockets import Carrier
from flps.worker.client import FLClient
from flps.worker.session import Session

log = logging.getLogger(__name__)
GAUGE_EVERY_S = 1.0


def run_role(job: Job, role: str, rank: int) -> None:
    """Play a role until the job is over. Raises FlpsError when it does not end in good order."""
    if job.security == "plain":
        log.warning("--insecure: what this role sends and receives is neither encrypted nor authenticated")
    if role == "worker":
        run_worker(job, rank)
    elif role == "server":
        run_server(job, rank)
    else:
        run_coordinator(job)


def run_coordinator(job: Job) -> None:
    """Host membership, barriers and metrics."""
    with ExitStack() as stack:
        events, _, listener = _answering(stack, job, Member("coordinator", 0), job.coordinator)
        events.write("ready")
        serve(listener, [_membership(job, events)], Gauge(listener, events))


def run_server(job: Job, rank: int) -> None:
    """Host a share of the tables; server 0 hosts membership too when there is no coordinator."""
    with ExitStack() as stack:
        events, carrier, listener = _answering(stack, job, Member("server", rank), job.servers[rank])
        heartbeat = Heartbeat(carrier, job.coordinator, Member("coordinator" if job.coordinators else "server", 0))
        stack.callback(heartbeat.stop)
        warm_from = job.config.runner.warmup_model_path
        folder = Path(job.config_dir) / warm_from if warm_from else None
        store = Store(rank, len(job.servers), job.config.network.keys_max, folder)
        services: list[Service] = [TableService(store, job.config, job.workers, job.models, lambda: heartbeat.lost)]
        if rank == 0 and not job.coordinators:
            services.append(_membership(job, events))
        heartbeat.start()
        events.write("ready")
        gauge = Gauge(listener, events, heartbeat.check)
        serve(listener, services, gauge)
        gauge.write("done")


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
        )


def _answering(stack: ExitStack, job: Job, member: Member, endpoint: str) -> tuple[EventLog, Carrier, Listener]:
    """What a role that answers needs; all of it is let go when the stack unwinds."""
    events = EventLog(str(Path(job.run_dir) / "metrics.jsonl"), member.role, member.rank)
    stack.callback(events.close)
    carrier = Carrier(job, member)
    stack.callback(carrier.shut_down)
    listener = Listener(carrier, endpoint)
    stack.callback(listener.close)
    return events, carrier, listener


def run_worker(job: Job, rank: int) -> None:
    """Train one client's part."""
    client_type = _client_type(job.trainer) if job.trainer else FLClient
    session = Session(job, rank)
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


def _membership(job: Job, events: EventLog) -> MembershipService:
    return MembershipService(job.workers, len(job.servers), job.config.network, events, time.monotonic())


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
