"""A role that was started again reads its journal and is what it was.

Law 1: the same code carries out what it is told from the journal as what it is told over the wire; only the sending is
left out, since clients ask again for what they wait for.
Law 2: when this returns, every request of the journal has been carried out once, and its answer is kept for whoever
asks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from flps.errors import FlpsError, ProtocolError, ResourceError
from flps.frames import Limits, decode
from flps.membership import Loss, Member
from flps.transport.journal import Record
from flps.transport.listener import LOSS, REQUEST, Listener, Request, Service, Ticket, answer_all, carry_out

log = logging.getLogger(__name__)
_LossRecord = tuple[int, tuple[str, int], str, bool]


def recover(
    listener: Listener,
    services: Sequence[Service],
    limits: Limits,
    first: int = 0,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> int:
    """Carry out everything in the listener's journal from segment `first` on; returns how many records there were.

    Raises ResourceError when the journal cannot be read.
    """
    journal = listener.journal
    assert journal is not None
    count, rejected, began = 0, listener.rejected, clock()
    for record in journal.records(first):
        age_s = max(0.0, wall() - record.time)
        try:
            _again(listener, services, record, limits, clock() - age_s)
        except (FlpsError, msgspec.MsgspecError) as error:
            raise ResourceError(f"record {count} of the journal {journal.folder} cannot be used: {error}") from error
        count += 1
    listener.rejected = rejected
    log.info("took up the journal: %d records, %d bytes, in %.1f s", count, journal.bytes, clock() - began)
    return count


def _again(listener: Listener, services: Sequence[Service], record: Record, limits: Limits, now: float) -> None:
    if record.kind == LOSS:
        number, member, reason, came_up = msgspec.msgpack.decode(record.frames[0], type=_LossRecord)
        answer_all(listener, services[number].lose(Loss(Member(*member), reason, came_up), now))
        return
    if record.kind != REQUEST:
        raise ProtocolError(f"a record of kind {record.kind} is not known")
    envelope = decode(record.frames, limits)
    role, _, rank = envelope.sender.partition(":")
    ticket = Ticket(Member(role, int(rank)), envelope.incarnation, envelope.sequence)
    if ticket.sequence:
        listener.ledger.replay(str(ticket.member), ticket.incarnation, ticket.sequence, envelope.settled)
    carry_out(listener, services, Request(ticket, envelope.body), now)
