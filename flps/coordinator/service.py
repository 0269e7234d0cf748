"""Which message means what to the coordinator.

Barriers are called `<what> <epoch>`; those called `trained` and `evaluated` carry reports that become events. At
`checkpoint <epoch> <step>` everybody stands still, those who wait for the end of the epoch too. Rounds and selection of
clients come on top of `Arrive` and `Release`: the barrier before an epoch is the place to decide.

A worker that was started again does not know where the others are. It arrives at `begin`, without an epoch, and is
released together with those who begin the next one; no other barrier waits for it. When nobody else is left to say
where the job stands, the epoch that was under way begins once more; when the others have done their work and gone, it
is told that the job is over.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from flps.config.types import Network
from flps.coordinator.checkpoints import Checkpoints, position_of
from flps.coordinator.summary import Layout, add_up, evaluated, layout_of, trained
from flps.errors import Refused
from flps.membership import Barrier, Loss, Member, Membership, State
from flps.message import CHECKPOINT, JOIN, OVER, Arrive, Beat, Body, Done, Hello, Leave, Pulse, Release, Report
from flps.metrics import EventLog
from flps.transport.listener import Answers, Request, Ticket

log = logging.getLogger(__name__)
_REPORTED = ("trained", "evaluated")  # barriers whose reports become events
_WITH_EPOCH = ("begin", *_REPORTED)
TOLD = ("epoch", "eval", "lost")  # events that follow from what is in the journal
_Tokens = dict[Member, tuple[Ticket, Report]]


class MembershipImage(msgspec.Struct, frozen=True):
    """What this service remembers while nobody waits."""

    members: dict[str, tuple[State, int]]
    stop: str
    epoch: int
    told: int
    newest: str  # checkpoint


class MembershipService:
    """Membership, barriers, metrics and the end of the job."""

    def __init__(
        self,
        workers: int,
        servers: int,
        network: Network,
        events: EventLog,
        now: float,
        told_before: int = 0,
        host: Member | None = None,
        checkpoints: Checkpoints | None = None,
        resumed: str = "",
    ) -> None:
        """`told_before`: how many of its events an earlier life of this role has written already. `host`: the server
        that this service lives in, if it does. `checkpoints`: those of this run, if there are any. `resumed`: identity
        of the checkpoint that the run goes on from.
        """
        members = [Member("worker", rank) for rank in range(workers)] + [
            Member("server", rank) for rank in range(servers)
        ]
        self._network = network
        self._host = host
        self._checkpoints = checkpoints
        self._resumed = resumed
        self._events = events
        self._membership = Membership(members, network.lease_s, network.start_timeout_s, now)
        self._barrier: Barrier[tuple[Ticket, Report]] = Barrier()
        self._layout: Layout = {}  # of the reports at the barrier
        self._stop = ""
        self._joining: dict[Member, Ticket] = {}  # wait for an epoch to begin
        self._epoch = 0
        self._epoch_began = now
        self._told_before = told_before
        self._told = 0
        self._looked_at = now  # for losses
        self._finish_at: float | None = None
        self.finished = False

    def image(self) -> bytes | None:
        """All that a later life needs; None while somebody waits or a checkpoint is being written."""
        checkpoints = self._checkpoints
        if self._barrier.name or self._joining or (checkpoints is not None and checkpoints.is_writing):
            return None
        newest = checkpoints.newest if checkpoints is not None else ""
        return msgspec.msgpack.encode(
            MembershipImage(self._membership.image(), self._stop, self._epoch, self._told, newest)
        )

    def take_up_image(self, image: bytes, tables: Path | None, sha256: str) -> None:
        """Be what an earlier life was; it has no tables."""
        held = msgspec.msgpack.decode(image, type=MembershipImage)
        self._membership.take_up(held.members)
        self._stop, self._epoch, self._told = held.stop, held.epoch, held.told
        if self._checkpoints is not None:
            self._checkpoints.newest = held.newest

    def handles(self, body: Body) -> bool:
        return isinstance(body, Hello | Beat | Arrive | Leave)

    def records(self, request: Request) -> bool:
        match request.body:
            case Hello():
                return request.ticket.incarnation > self._membership.life(request.ticket.member)
            case Beat():
                return False
            case _:
                return True

    def handle(self, request: Request, now: float) -> Answers:
        ticket, body = request.ticket, request.body
        member = ticket.member
        match body:
            case Hello():
                self._expect_same_start(member, body)
                return [(ticket, Done()), *self._meet(ticket, now)]
            case Beat():
                self._membership.beat(member, now, ticket.incarnation)
                return [(ticket, self._pulse(member, body, now))]
            case Arrive():
                return self._arrive(ticket, body, now)
            case _:
                self._membership.leave(member)
                self._joining.pop(member, None)
                log.info("%s has left", member)
                return [(ticket, Done()), *self._release(now)]

    def losses(self, now: float) -> Sequence[Loss]:
        self._notice_pause(now)
        # When no worker is left servers end by themselves: their silence is no loss.
        return self._membership.expired(now) if self._is_under_way() else []

    def lose(self, loss: Loss, now: float) -> Answers:
        self._membership.lose(loss.member)
        self._joining.pop(loss.member, None)
        if self._checkpoints is not None:
            self._checkpoints.lose(loss.member)
        self._mourn(loss)
        return self._release(now)

    def tick(self, now: float) -> Answers:
        self._decide_end(now)
        if self._checkpoints is None:
            return []
        self._checkpoints.expire(now)
        return self._release(now) if position_of(self._barrier.name) else []  # it may have waited for the one before

    def renew(self, now: float) -> None:
        """This role was away: leases begin anew."""
        self._membership.renew(now)

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """What this service is told in the block it was told before; which checkpoint was being written when, it was
        not.
        """
        if self._checkpoints is not None:
            self._checkpoints.is_replaying = True
        yield
        if self._checkpoints is not None:
            self._checkpoints.is_replaying = False

    def _notice_pause(self, now: float) -> None:
        """Who stood still itself, or was busy for long, has not heard others meanwhile: that was not their silence."""
        away_s, self._looked_at = now - self._looked_at, now
        if away_s > self._network.lease_s / 2:
            log.warning("heard nobody for %.1f s, being stopped or busy: leases begin anew", away_s)
            self.renew(now)

    def _meet(self, ticket: Ticket, now: float) -> Answers:
        """Somebody came up, perhaps in a later life; then the barriers do not wait for it."""
        member, earlier = ticket.member, self._membership.life(ticket.member)
        if not self._membership.hello(member, now, ticket.incarnation):
            raise Refused(f"{member} is {self._membership.state(member) or 'not expected'} in this run")
        if not earlier:
            log.info("%s is here", member)
        if not 0 < earlier < ticket.incarnation:
            return []
        log.warning("%s is here again, in its life %d", member, ticket.incarnation)
        self._joining.pop(member, None)
        self._barrier.drop(member)
        if self._checkpoints is not None:
            self._checkpoints.lose(member)
        return self._release(now)

    def _expect_same_start(self, member: Member, hello: Hello) -> None:
        if hello.checkpoint != self._resumed:
            ours, its = (f"checkpoint {one}" if one else "the beginning" for one in (self._resumed, hello.checkpoint))
            raise Refused(
                f"this run starts from {ours}, {member} from {its}: start every host with the same --resume=FOLDER, "
                "the folder of one checkpoint, or all without"
            )

    def _pulse(self, member: Member, beat: Beat, now: float) -> Pulse:
        newest = ""
        if self._checkpoints is not None:
            if beat.wrote is not None:
                self._checkpoints.wrote(member, beat.wrote, now)
            newest = self._checkpoints.newest
        return Pulse(tuple(map(str, self._membership.lost())), self._stop, newest)

    def _arrive(self, ticket: Ticket, arrive: Arrive, now: float) -> Answers:
        member, state = ticket.member, self._membership.state(ticket.member)
        if arrive.barrier == JOIN and member.role == "worker" and state in ("alive", "joining"):
            self._joining[member] = ticket
            return self._release(now)
        if member.role != "worker" or state != "alive":
            raise Refused(f"{member} may not wait at a barrier: it is {state or 'unknown'}")
        what, _, epoch = arrive.barrier.partition(" ")
        if what in _WITH_EPOCH and not (epoch.isdecimal() and len(epoch) < 10):
            raise Refused(f"barrier {arrive.barrier!r} names no epoch, expected for example '{what} 3'")
        position = position_of(arrive.barrier)
        if position is None and what == CHECKPOINT:
            raise Refused(f"barrier {arrive.barrier!r} names no position, expected for example 'checkpoint 3 200'")
        along = f"trained {epoch.partition(' ')[0]}" if position and position[1] else ""
        layout = layout_of(arrive.report)
        different = [name for name, said in layout.items() if self._layout.get(name, said) != said]
        if different:
            name = different[0]
            raise Refused(f"{member} reports {name} as {layout[name]}, others at this barrier as {self._layout[name]}")
        complaint = self._barrier.arrive(member, arrive.barrier, (ticket, arrive.report), along)
        if complaint:
            raise Refused(complaint)
        self._layout.update(layout)
        return self._release(now)

    def _release(self, now: float) -> Answers:
        position = position_of(self._barrier.name)
        # One within an epoch is passed over while the one before is being written; one at its end waits.
        if position and not position[1] and self._checkpoints is not None and self._checkpoints.is_writing:
            return []
        opened = self._opened()
        if opened is None:
            return []
        self._layout = {}
        name, tokens = opened
        if position_of(name):
            return self._cut(name, tokens, now)
        reports = {member: report for member, (_, report) in tokens.items()}
        total = add_up(reports)
        self._tell(name, total, reports, now)
        release = Release(total, tuple(member.rank for member in tokens), name)
        return [(ticket, release) for ticket, _ in tokens.values()]

    def _cut(self, name: str, tokens: _Tokens, now: float) -> Answers:
        """Everybody stands still: tell them which checkpoint to write."""
        position = position_of(name)
        cut = None
        if self._checkpoints is not None and position:
            present = self._membership.present("worker")  # who arrived and was lost since then writes nothing
            lives = {member: ticket.incarnation for member, (ticket, _) in tokens.items() if member in present}
            cut = self._checkpoints.begin(*position, lives, now)
        release = Release(Report(), tuple(member.rank for member in tokens), name, cut)
        return [(ticket, release) for ticket, _ in tokens.values()]

    def _opened(self) -> tuple[str, _Tokens] | None:
        """The barrier that opens now, and whose tokens it held."""
        others = set(self._membership.present("worker")) - self._joining.keys()
        coming = set(self._membership.members("worker", "joining")) - self._joining.keys()
        name = self._barrier.name
        if not others and not coming and self._joining:
            self._barrier = Barrier()
            return self._joined(self._where_to_join(), {})
        if name.partition(" ")[0] != JOIN:
            return self._barrier.open(others)
        opened = None if coming else self._barrier.open(others)
        return self._joined(*opened) if opened is not None else None

    def _where_to_join(self) -> str:
        """Nobody else is here who could tell."""
        return OVER if self._membership.members("worker", "left") else f"{JOIN} {self._epoch}"

    def _joined(self, name: str, tokens: _Tokens) -> tuple[str, _Tokens]:
        """The tokens with those of the workers that join with this barrier."""
        for member, ticket in self._joining.items():
            tokens[member] = (ticket, Report())
            if name != OVER:
                self._membership.join(member)
        self._joining.clear()
        return name, dict(sorted(tokens.items()))

    def _tell(self, name: str, total: Report, reports: dict[Member, Report], now: float) -> None:
        what, _, epoch = name.partition(" ")
        if what == JOIN:
            self._epoch, self._epoch_began = int(epoch), now
        elif what == "trained":
            fields = trained(total, reports, now - self._epoch_began)
            self._write("epoch", epoch=int(epoch), **fields)
            log.info("epoch %s: %s", epoch, _in_words(fields.items()))
            log.info("epoch %s, AUC of each client: %s", epoch, _in_words(fields["client_auc"].items()))
        elif what == "evaluated":
            fields = evaluated(total)
            self._write("eval", epoch=int(epoch), **fields)
            log.info("evaluation after epoch %s: %s", epoch, _in_words(fields.items()))

    def _mourn(self, loss: Loss) -> None:
        member, reason, came_up = loss
        log.warning("%s is lost: %s", member, reason)
        self._write("lost", lost_role=member.role, lost_rank=member.rank, reason=reason, came_up=came_up)
        here = self._membership.members("worker", "absent", "alive", "joining", "left")
        if member.role == "server":
            self._stop = f"{member} is lost ({reason}); its share of the tables is gone"
        elif len(here) < self._network.min_workers:
            needed = self._network.min_workers
            self._stop = f"{member} is lost ({reason}); {len(here)} workers are left, at least {needed} are needed"

    def _write(self, event: str, **fields: object) -> None:
        """Tell an event of those TOLD, unless an earlier life has."""
        self._told += 1
        if self._told > self._told_before:
            self._events.write(event, **fields)

    def _is_under_way(self) -> bool:
        return bool(self._membership.members("worker", "absent", "alive", "joining"))

    def _decide_end(self, now: float) -> None:
        """Over when nobody is left. Servers may take three heartbeats to say good-bye, or to hear of losses."""
        if self._is_under_way():
            return
        if self._finish_at is None:
            self._finish_at = now + 3 * self._network.heartbeat_s
        servers = [member for member in self._membership.members("server", "alive") if member != self._host]
        self.finished = now >= self._finish_at or not (servers or self._membership.lost())


def _in_words(fields: Iterable[tuple[str, object]]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in fields
        if value is not None and not isinstance(value, dict)
    )
