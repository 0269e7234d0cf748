"""Keys, and who may say what: over TCP with CURVE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zmq

from flps.errors import ConfigError, PeerLost, ResourceError
from flps.membership import Member
from flps.transport.security import ROLES, fingerprint, make_keys, public_key, secret_key


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
    for role in ROLES:
        assert wire.echo(wire.dial(member=Member(role, 1))) == [1, 2]
    assert [member.role for member, _ in wire.notebook.carried_out] == list(ROLES)


@pytest.mark.parametrize("ask", [lambda wire: wire.listen(), lambda wire: wire.dial()])
def test_a_socket_without_its_keys_leaves_nothing_open(ask: Any, make_wire: Any) -> None:
    """The fixture of all tests looks for threads and sockets."""
    wire = make_wire("curve")
    for secret in (wire.folder / "keys").glob("*.secret"):
        secret.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        ask(wire)
