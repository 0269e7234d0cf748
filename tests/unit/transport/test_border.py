"""Who may say what to whom, and what becomes of the rest: over unix sockets and over CURVE."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pytest

from flps import message as m
from flps.errors import ProtocolError, Refused
from flps.membership import Member
from flps.transport.border import PERMITS, Border

ROLES = ("worker", "server", "coordinator", "leader", "follower")
ASKED = {  # what a worker and a server ask for, and whom; everything else is an answer
    ("worker", "server"): {
        m.Declare, m.Start, m.Look, m.Update, m.Window, m.Save, m.Settle, m.Shrink, m.Cut, m.Detach,
        m.Hello, m.Beat, m.Arrive, m.Leave,
    },
    ("worker", "coordinator"): {m.Hello, m.Beat, m.Arrive, m.Leave},
    ("server", "coordinator"): {m.Hello, m.Beat, m.Leave},
    ("server", "server"): {m.Hello, m.Beat, m.Leave},
    ("follower", "leader"): {m.Sign, m.Parcel},
}  # fmt: skip
REPORT = m.Report()
WAY = m.Way("follower", (1, 0), (1, 0), 0, 0)
SAMPLES: dict[type, Any] = {
    m.Declare: m.Declare(()),
    m.Declared: m.Declared(()),
    m.Detach: m.Detach(),
    m.Look: m.Look(()),
    m.Start: m.Start(()),
    m.Update: m.Update(0, 0, 0, False, (), ()),
    m.Rows: m.Rows((np.zeros(2),)),
    m.Window: m.Window(0, 0, False, (), {}),
    m.Changes: m.Changes(0.0, (), {}),
    m.Save: m.Save(1),
    m.Saved: m.Saved({}),
    m.Settle: m.Settle(1, "delta"),
    m.Shrink: m.Shrink(1, True),
    m.Cut: m.Cut("c", 0, 0),
    m.Hello: m.Hello(),
    m.Beat: m.Beat(),
    m.Pulse: m.Pulse(("worker:0",), "stop"),
    m.Arrive: m.Arrive("a 1", REPORT),
    m.Release: m.Release(REPORT, (0,)),
    m.Leave: m.Leave(),
    m.Done: m.Done(),
    m.Refusal: m.Refusal("no"),
    m.Sign: m.Sign(WAY),
    m.Parcel: m.Parcel(WAY, 1),
}


def test_the_table_speaks_of_every_kind_and_of_nothing_else() -> None:
    assert set(PERMITS) == set(typing.get_args(m.Body)) == set(SAMPLES)


@pytest.mark.parametrize("receiver", ROLES)
@pytest.mark.parametrize("sender", ROLES)
def test_the_table_is_what_the_roles_need(sender: str, receiver: str) -> None:
    allowed = {kind for kind, pairs in PERMITS.items() if (sender, receiver) in pairs}
    assert allowed == ASKED.get((sender, receiver), set())


def test_each_kind_at_each_receiver_from_each_sender(make_wire: Any) -> None:
    job = make_wire().job
    for receiver in ROLES:
        border = Border(job.terms, Member(receiver, 0), None)
        for sender in ROLES:
            for kind, body in SAMPLES.items():
                may = kind in ASKED.get((sender, receiver), set())
                for sequence in (0, 1):
                    complaint = ""
                    try:
                        border.check_kind(Member(sender, 0), sequence, body)
                    except ProtocolError as error:
                        complaint = str(error)
                    passes = may and (sequence == 1 or kind in (m.Hello, m.Beat, m.Sign, m.Parcel))
                    assert (complaint == "") == passes
                    assert passes or kind.__name__ in complaint


FORBIDDEN = [kind for kind in SAMPLES if kind not in ASKED["worker", "server"]]


@pytest.mark.parametrize("security", ["unix", "curve"])
def test_a_worker_that_speaks_as_others_do_is_refused_with_the_reason(security: str, make_wire: Any) -> None:
    wire = make_wire(security).listen()
    worker = wire.dial()
    for kind in FORBIDDEN:
        with pytest.raises(Refused, match=f"a worker may not send {kind.__name__} to a server"):
            worker.ask(SAMPLES[kind])
    assert wire.rejected == len(FORBIDDEN)  # numbered, so a repeat is answered and not refused again
    assert wire.notebook.carried_out == []  # the service does not see it
    assert wire.echo(worker) == [1, 2]  # and the connection goes on


def test_a_server_uses_no_tables_of_another(make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    with pytest.raises(Refused, match="a server may not send Look to a server"):
        wire.dial(member=Member("server", 0)).ask(wire.look(1))
    assert wire.notebook.carried_out == []


@pytest.mark.parametrize("security", ["unix", "curve"])
def test_a_member_that_the_job_does_not_have_leaves_no_trace(security: str, make_wire: Any) -> None:
    wire = make_wire(security).listen()
    for member in (Member("worker", 100), Member("worker", 999_999), Member("server", 1), Member("coordinator", 0)):
        with pytest.raises(Refused, match=f"{member} is not of this job"):
            wire.dial(member=member).ask(m.Hello())
    assert wire.rejected >= 4  # more when the machine is slow: they ask again
    assert wire.notebook.carried_out == []
    assert list(wire.listener.ledger.accounts()) == []


def test_what_must_be_numbered_is(make_wire: Any) -> None:
    """Else a peer could have any number of barriers' answers kept for it."""
    wire = make_wire().listen()
    worker = wire.dial()
    worker.call(m.Arrive("a", REPORT))
    answer = worker.hear(5.0)
    assert answer == m.Refusal("Arrive must be a numbered request")
    assert wire.notebook.carried_out == []
