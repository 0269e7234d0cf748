"""Keys, and who may say what: over TCP with CURVE."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from flps.errors import ConfigError, PeerLost, ResourceError
from flps.frames import decode
from flps.membership import Member
from flps.message import Done, Hello, Refusal
from flps.transport.access import allow, revoke
from flps.transport.gate import RELOAD_S
from flps.transport.security import ROLES, fingerprint, make_keys, public_key, secret_key, write_exclusively

SERVER = Member("server", 0)


def test_made_keys_are_pairs_for_the_owner_only(tmp_path: Path) -> None:
    prints = make_keys(tmp_path / "keys")
    assert sorted(prints) == sorted(ROLES)
    assert len(set(prints.values())) == len(ROLES)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    for role in ROLES:
        assert zmq.curve_public(secret_key(tmp_path / "keys", role)) == public_key(tmp_path / "keys", role)
        assert (tmp_path / "keys" / f"{role}.secret").stat().st_mode & 0o777 == 0o600
        assert prints[role] == fingerprint(public_key(tmp_path / "keys", role))


def test_keys_that_stand_are_kept_and_a_lost_public_half_is_made_again(tmp_path: Path) -> None:
    before = make_keys(tmp_path)
    assert make_keys(tmp_path) == before
    (tmp_path / "worker.public").unlink()
    assert make_keys(tmp_path) == before


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "worker.secret").chmod(0o640)
    with pytest.raises(ConfigError, match=r"worker\.secret can be read by others"):
        secret_key(tmp_path, "worker")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read key .*worker\.public"):
        public_key(tmp_path, "worker")
    (tmp_path / "worker.public").write_text("short\n")
    with pytest.raises(ConfigError, match="does not hold a key of 40 characters"):
        public_key(tmp_path, "worker")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write keys into"):
        make_keys(tmp_path / "file" / "keys")


# --- at a listener ---------------------------------------------------------------------------------------------------


def gets_nothing(wire: Any, connection: Any) -> bool:
    """Whether a question gets no answer and is not carried out, and the listener is well all the same."""
    before = len(wire.notebook.carried_out)
    with pytest.raises(PeerLost):
        connection.ask(wire.look(1), 0.3)
    return len(wire.notebook.carried_out) == before and bool(wire.is_well())


def test_an_unknown_key_gets_no_answer(make_wire: Any, tmp_path: Path) -> None:
    wire = make_wire("curve").listen()
    make_keys(tmp_path, ["worker"])
    (tmp_path / "server.public").write_bytes(public_key(wire.folder / "keys", "server"))
    assert gets_nothing(wire, wire.dial(key_dir=str(tmp_path)))
    assert wire.rejected == 0


def test_who_expects_another_server_says_nothing(make_wire: Any, tmp_path: Path) -> None:
    """A client checks the server's key, too."""
    wire = make_wire("curve").listen()
    make_keys(tmp_path, ["server"])
    for name in ("worker.public", "worker.secret"):
        (tmp_path / name).write_bytes((wire.folder / "keys" / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    assert gets_nothing(wire, wire.dial(key_dir=str(tmp_path)))


def test_a_plain_peer_gets_nothing_on_a_curve_port(make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    assert gets_nothing(wire, wire.dial(security="plain"))


def test_a_curve_peer_gets_nothing_on_a_plain_port(make_wire: Any) -> None:
    wire = make_wire("plain").listen()
    secret = wire.dial(security="curve", key_dir=str(wire.folder / "keys"))
    with pytest.raises(PeerLost):
        secret.ask(wire.look(1), 0.3)
    assert wire.is_well()


@pytest.mark.parametrize("claim", ["server", "coordinator", "stranger", "Worker"])
def test_a_workers_key_speaks_for_workers_only(claim: str, make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    impostor = wire.dial()
    impostor._carrier.member = Member(claim, 0)  # the socket has the worker's key
    assert gets_nothing(wire, impostor)
    assert wire.rejected >= 1


def test_each_role_has_its_say_with_its_own_key(make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    assert wire.echo(wire.dial()) == [1, 2]
    server = wire.dial(member=SERVER)
    server.call(Hello())
    assert server.hear(5.0) == Done()
    assert [member.role for member, _ in wire.notebook.carried_out] == ["worker", "server"]


# --- keys of owners --------------------------------------------------------------------------------------------------


@pytest.fixture
def owners(make_wire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A wire whose operator has no key for the role of the workers, and the key folders of three owners: 0, 1 and 2
    are the ranks that their keys may speak as, in this order.
    """
    monkeypatch.setattr("flps.transport.sockets._HANDSHAKE_MS", 1000)  # who was refused tries again after it
    wire = make_wire("curve")
    keys = wire.folder / "keys"
    for half in ("public", "secret"):
        (keys / f"worker.{half}").unlink()
    wire.owners = []
    for rank in range(3):
        own = tmp_path / f"owner-{rank}"
        make_keys(own, ["worker"])
        write_exclusively(own / "server.public", (keys / "server.public").read_bytes(), 0o644)
        allow(keys, public_key(own, "worker"), f"owner-{rank}", "worker", frozenset({rank}))
        wire.owners.append(str(own))
    return wire.listen()


def is_well(wire: Any, owner: int = 2) -> bool:
    return bool(wire.echo(wire.dial(owner, key_dir=wire.owners[owner])) == [1, 2])


def is_unheard(wire: Any, connection: Any) -> bool:
    """Whether a question gets no answer and is not carried out."""
    before = len(wire.notebook.carried_out)
    with pytest.raises(PeerLost):
        connection.ask(wire.look(1), 0.25)
    return len(wire.notebook.carried_out) == before


def test_an_owners_key_speaks_for_the_owner(owners: Any) -> None:
    for rank, key_dir in enumerate(owners.owners):
        assert owners.echo(owners.dial(rank, key_dir=key_dir)) == [1, 2]
    assert [member.rank for member, _ in owners.notebook.carried_out] == [0, 1, 2]
    assert owners.listener.refused_keys == 0


def test_worker_1s_key_does_not_speak_as_worker_2(owners: Any) -> None:
    assert is_unheard(owners, owners.dial(2, key_dir=owners.owners[1]))
    assert is_unheard(owners, owners.dial(3, key_dir=owners.owners[1]))
    assert owners.listener.refused_keys >= 2
    assert owners.rejected >= 2
    assert is_well(owners)


def test_a_key_revoked_before_gets_no_answer(owners: Any) -> None:
    revoke(owners.folder / "keys", "owner-1")
    time.sleep(2 * RELOAD_S)
    assert is_unheard(owners, owners.dial(1, key_dir=owners.owners[1]))
    assert owners.rejected == 0  # it did not get as far as a message
    assert owners.listener.refused_keys >= 1
    assert is_well(owners)


def test_a_key_revoked_during_a_run_is_not_listened_to_any_more(owners: Any) -> None:
    connection = owners.dial(1, key_dir=owners.owners[1])
    assert owners.echo(connection) == [1, 2]
    revoke(owners.folder / "keys", "owner-1")
    time.sleep(2 * RELOAD_S)
    assert is_unheard(owners, connection)  # the connection that stood
    assert is_unheard(owners, owners.dial(1, key_dir=owners.owners[1]))  # and a new one
    assert is_well(owners)


def test_a_key_allowed_during_a_run_is_let_in(owners: Any, tmp_path: Path) -> None:
    make_keys(tmp_path / "late", ["worker"])
    (tmp_path / "late" / "server.public").write_bytes((owners.folder / "keys" / "server.public").read_bytes())
    connection = owners.dial(5, key_dir=str(tmp_path / "late"))
    assert is_unheard(owners, connection)  # it tries again, on the same socket
    allow(owners.folder / "keys", public_key(tmp_path / "late", "worker"), "late", "worker", frozenset({5}))
    assert owners.numbers(connection.ask(owners.look(1))) == [1]


def test_refused_keys_are_told_with_their_fingerprint(owners: Any, tmp_path: Path, caplog: Any) -> None:
    make_keys(tmp_path / "unknown", ["worker"])
    (tmp_path / "unknown" / "server.public").write_bytes((owners.folder / "keys" / "server.public").read_bytes())
    assert is_unheard(owners, owners.dial(1, key_dir=str(tmp_path / "unknown")))
    print_ = fingerprint(public_key(tmp_path / "unknown", "worker"))
    assert f"key {print_} from 127.0.0.1 is not known here, or revoked: no answer" in caplog.text


def frames_of(connection: Any, sequence: int, body: Any) -> list[bytes]:
    """A message as it would be recorded on its way."""
    return [bytes(memoryview(frame).cast("B")) for frame in connection._encode(sequence, body)]


def test_recorded_messages_of_another_owner_are_refused(owners: Any) -> None:
    """Worker 0's own messages, word for word, over worker 1's connection."""
    first, second = (owners.dial(rank, key_dir=owners.owners[rank]) for rank in (0, 1))
    recorded = frames_of(first, 1, owners.look(7))
    second._socket.send_multipart(recorded)
    assert owners.has_rejected(1)
    assert owners.notebook.carried_out == []
    first._socket.send_multipart(recorded)
    assert first._socket.poll(5000)
    assert len(owners.notebook.carried_out) == 1


def test_recorded_messages_sent_again_are_answered_again_and_not_applied_again(owners: Any) -> None:
    worker = owners.dial(0, key_dir=owners.owners[0])
    recorded = frames_of(worker, 1, owners.look(7))
    for _ in range(5):
        worker._socket.send_multipart(recorded)
        assert worker._socket.poll(5000)
        assert decode(worker._socket.recv_multipart(), worker._carrier.limits).sequence == 1
    assert len(owners.notebook.carried_out) == 1
    newer = owners.dial(0, key_dir=owners.owners[0], incarnation=2)
    assert owners.echo(newer) == [1, 2]
    worker._socket.send_multipart(recorded)  # of an older life
    assert worker._socket.poll(5000)
    answer = decode(worker._socket.recv_multipart(), worker._carrier.limits).body
    assert answer == Refusal("worker:0 speaks as incarnation 1, but 2 is known")
    assert len(owners.notebook.carried_out) == 2


def test_recorded_messages_of_another_run_are_refused(owners: Any) -> None:
    before = owners.dial(0, key_dir=owners.owners[0], run_id="yesterday")
    recorded = frames_of(before, 1, owners.look(7))
    worker = owners.dial(0, key_dir=owners.owners[0])
    worker._socket.send_multipart(recorded)
    assert owners.has_rejected(1)
    assert owners.notebook.carried_out == []
    assert owners.echo(worker) == [1, 2]


@pytest.mark.parametrize("ask", [lambda wire: wire.listen(), lambda wire: wire.dial()])
def test_a_socket_without_its_keys_leaves_nothing_open(ask: Any, make_wire: Any) -> None:
    """The fixture of all tests looks for threads and sockets."""
    wire = make_wire("curve")
    for secret in (wire.folder / "keys").glob("*.secret"):
        secret.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        ask(wire)
