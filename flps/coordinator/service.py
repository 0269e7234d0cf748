"""Which message means what to the coordinator.

Barriers are called `<what> <epoch>`; those called `trained` and `evaluated` carry reports that become events. Rounds
and selection of clients come on top of `Arrive` and `Release`: the barrier before an epoch is the place to decide.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flps.config.types import Network
from flps.coordinator.summary import Layout, add_up, evaluated, layout_of, trained
from flps.errors import Refused
from flps.membership import Barrier, Loss, Member, Membership
from flps.message import Arrive, Beat, Body, Done, Hello, Leave, Pulse, Release, Report
from flps.metrics import EventLog
from flps.transport.listener import Answers, Request, Ticket

log = logging.getLogger(__name__)
_REPORTED = ("trained", "evaluated")  # barriers whose reports become events


class MembershipService:
    """Membership, barriers, metrics and the end of the job."""

    def __init__(self, workers: int, servers: int, network: Network, events: EventLog, now: float) -> None:
        members = [Member("worker", rank) for rank in range(workers)] + [
            Member("server", rank) for rank in range(servers)
        ]
        self._network = network
        self._events = events
        self._membership = Membership(members, network.lease_s, network.start_timeout_s, now)
        self._barrier: Barrier[tuple[Ticket, Report]] = Barrier()
        self._layout: Layout = {}  # of the reports at the barrier
        self._stop = ""
        self._epoch_began = now
        self._finish_at: float | None = None
        self.finished = False

    def handles(self, body: Body) -> bool:
        return isinstance(body, Hello | Beat | Arrive | Leave)

    def handle(self, request: Request, now: float) -> Answers:
        ticket, body = request
        member = ticket.member
        match body:
            case Hello():
                if not self._membership.hello(member, now):
                    raise Refused(f"{member} is {self._membership.state(member) or 'not expected'} in this run")
                log.info("%s is here", member)
                return [(ticket, Done())]
            case Beat():
                self._membership.beat(member, now)
                return [(ticket, Pulse(tuple(map(str, self._membership.lost())), self._stop))]
            case Arrive():
                return self._arrive(ticket, body, now)
            case _:
                self._membership.leave(member)
                log.info("%s has left", member)
                return [(ticket, Done()), *self._release(now)]

    def tick(self, now: float) -> Answers:
        self._decide_end(now)
        if self._finish_at is not None:
            return []  # servers end by themselves now: their silence is no loss
        losses = self._membership.expire(now)
        for loss in losses:
            self._mourn(loss)
        return self._release(now) if losses else []

    def _arrive(self, ticket: Ticket, arrive: Arrive, now: float) -> Answers:
        member = ticket.member
        if member.role != "worker" or self._membership.state(member) != "alive":
            raise Refused(f"{member} may not wait at a barrier: it is {self._membership.state(member) or 'unknown'}")
        what, _, epoch = arrive.barrier.partition(" ")
        if what in _REPORTED and not (epoch.isdecimal() and len(epoch) < 10):
            raise Refused(f"barrier {arrive.barrier!r} names no epoch, expected for example '{what} 3'")
        layout = layout_of(arrive.report)
        different = [name for name, said in layout.items() if self._layout.get(name, said) != said]
        if different:
            name = different[0]
            raise Refused(f"{member} reports {name} as {layout[name]}, others at this barrier as {self._layout[name]}")
        complaint = self._barrier.arrive(member, arrive.barrier, (ticket, arrive.report))
        if complaint:
            raise Refused(complaint)
        self._layout.update(layout)
        return self._release(now)

    def _release(self, now: float) -> Answers:
        opened = self._barrier.open(self._membership.present("worker"))
        if opened is None:
            return []
        self._layout = {}
        name, tokens = opened
        reports = {member: report for member, (_, report) in tokens.items()}
        total = add_up(reports)
        self._tell(name, total, reports, now)
        release = Release(total, tuple(member.rank for member in tokens))
        return [(ticket, release) for ticket, _ in tokens.values()]

    def _tell(self, name: str, total: Report, reports: dict[Member, Report], now: float) -> None:
        what, _, epoch = name.partition(" ")
        if what == "begin":
            self._epoch_began = now
        elif what == "trained":
            fields = trained(total, reports, now - self._epoch_began)
            self._events.write("epoch", epoch=int(epoch), **fields)
            log.info("epoch %s: %s", epoch, _in_words(fields.items()))
            log.info("epoch %s, AUC of each client: %s", epoch, _in_words(fields["client_auc"].items()))
        elif what == "evaluated":
            fields = evaluated(total)
            self._events.write("eval", epoch=int(epoch), **fields)
            log.info("evaluation after epoch %s: %s", epoch, _in_words(fields.items()))

    def _mourn(self, loss: Loss) -> None:
        member, reason, came_up = loss
        log.warning("%s is lost: %s", member, reason)
        self._events.write("lost", lost_role=member.role, lost_rank=member.rank, reason=reason, came_up=came_up)
        here = self._membership.members("worker", "absent", "alive", "left")
        if member.role == "server":
            self._stop = f"{member} is lost ({reason}); its share of the tables is gone"
        elif len(here) < self._network.min_workers:
            needed = self._network.min_workers
            self._stop = f"{member} is lost ({reason}); {len(here)} workers are left, at least {needed} are needed"

    def _decide_end(self, now: float) -> None:
        """Over when no worker is left; after losses, linger until every server has heard of them."""
        if self._membership.present("worker"):
            return
        if self._finish_at is None:
            self._finish_at = now + (3 * self._network.heartbeat_s if self._membership.lost() else 0.0)
        self.finished = now >= self._finish_at


def _in_words(fields: Iterable[tuple[str, object]]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields
        if value is not None and not isinstance(value, dict)
    )
