"""Who leads, who follows, where they meet, and how their link is kept from others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from flps.config.tls import TlsFiles
from flps.config.types import Network
from flps.errors import ConfigError
from flps.membership import Member
from flps.split.parties import LEADER, Seats, ServerConfig, seats_of, terms_of
from flps.transport.security import make_keys

NETWORK = Network()


def at(name: str, address: str = "10.0.0.1:99") -> ServerConfig:
    return ServerConfig(name, address)


def seats(own: str, *others: str, **named: Any) -> Seats:
    known = {"role": None, "rank": None, "use_tls": False, **named}
    return seats_of(at(own, "10.0.0.1:1"), [at(name, "10.0.0.2:2") for name in others], **known)


@pytest.mark.parametrize(
    ("name", "address", "why"),
    [
        ("", "a:1", "server_name"),
        ("leader", "", "server_address"),
        (3, "a:1", "server_name"),
        ("leader", "host", "'host' is no address"),
        ("leader", "host:port", "no address"),
        ("leader", "http://host:1", "no address"),
        ("leader", "tcp://host", "no address"),
        ("leader", "ipc://", "no address"),
    ],
)
def test_a_config_is_checked_when_it_is_made(name: Any, address: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ServerConfig(name, address)


def test_the_leader_listens_and_the_follower_dials() -> None:
    assert seats("leader", "follower") == Seats(LEADER, {Member("follower", 0): "follower"}, "tcp://10.0.0.1:1")
    assert seats("follower", "leader") == Seats(Member("follower", 0), {LEADER: "leader"}, "tcp://10.0.0.2:2")
    assert seats("follower", "leader", use_tls=True).endpoint == "tls://10.0.0.2:2"
    local = seats_of(at("leader", "localhost:5"), [at("follower")], None, None, False)
    assert local.endpoint == "tcp://127.0.0.1:5"


def test_several_followers_are_counted_alike_at_both_ends() -> None:
    assert list(seats("leader", "f1", "f2").others) == [Member("follower", 1), Member("follower", 2)]
    assert seats("f2", "leader").own == Member("follower", 2)
    assert list(seats("leader", "bank", "shop").others) == [Member("follower", 0), Member("follower", 1)]
    assert seats("shop", "leader", rank=1).own == Member("follower", 1)


def test_who_leads_can_be_said() -> None:
    assert seats("bank", "shop", role="leader").own == LEADER
    assert seats("bank", "shop", role="follower").own == Member("follower", 0)
    assert seats("bank", "shop", "mill").own == LEADER  # only a leader has several
    with pytest.raises(ConfigError, match="which of 'bank' and 'shop' leads"):
        seats("bank", "shop")
    with pytest.raises(ConfigError, match="which of"):
        seats("leader_a", "leader_b")


@pytest.mark.parametrize("names", [("leader",), ("leader", "leader"), ("leader", "f1", "f1")])
def test_names_are_different(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="different names"):
        seats(*names)


def test_a_follower_talks_to_its_leader_only() -> None:
    with pytest.raises(ConfigError, match="f1 is a follower"):
        seats("f1", "leader", "f2", role="follower")


def test_a_unix_socket_wants_a_private_folder(tmp_path: Path) -> None:
    own = seats_of(at("leader", f"ipc://{tmp_path}/leader"), [at("follower")], None, None, False)
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="others can enter"):
        terms_of(own, NETWORK, None, False)
    tmp_path.chmod(0o700)
    assert terms_of(own, NETWORK, None, False).security == "unix"
    missing = seats_of(at("leader", f"ipc://{tmp_path}/no/leader"), [at("follower")], None, None, False)
    with pytest.raises(ConfigError, match="cannot look at"):
        terms_of(missing, NETWORK, None, False)


def test_tcp_wants_keys_or_insecure(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(ConfigError, match=r"leader.secret is missing; `flps keys make .* --role leader"):
        terms_of(seats("leader", "follower"), NETWORK, tmp_path / "keys", False)
    make_keys(tmp_path / "keys", ["leader", "follower"])
    terms = terms_of(seats("leader", "follower"), NETWORK, tmp_path / "keys", False)
    assert (terms.security, terms.key_dir) == ("curve", str(tmp_path / "keys"))
    assert terms.seats == {"leader": 1, "follower": 1}
    with caplog.at_level(logging.WARNING):
        assert terms_of(seats("leader", "follower"), NETWORK, None, True).security == "plain"
    assert "plain TCP" in caplog.text


def test_tls_and_certificates_go_together() -> None:
    files = TlsFiles(ca="ca.pem", certificate="own.p12")
    with pytest.raises(ConfigError, match="go together"):
        terms_of(seats("leader", "follower", use_tls=True), NETWORK, None, False)
    with pytest.raises(ConfigError, match="go together"):
        terms_of(seats("leader", "follower"), NETWORK, None, False, files)
    terms = terms_of(seats("leader", "follower", use_tls=True), NETWORK, None, False, files)
    assert (terms.security, terms.tls, terms.key_dir) == ("tls", files, "")


def test_a_follower_needs_the_leaders_public_key(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["follower"])
    with pytest.raises(ConfigError, match=r"leader.public is missing"):
        terms_of(seats("follower", "leader"), NETWORK, tmp_path / "keys", False)


def test_parties_on_one_machine_share_keys_of_their_user(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    local = [seats_of(at(own, "127.0.0.1:5"), [at(other, "127.0.0.1:5")], None, None, False)
             for own, other in (("leader", "follower"), ("follower", "leader"))]  # fmt: skip
    one, other = (terms_of(each, NETWORK, None, False) for each in local)
    assert one.security == other.security == "curve"
    assert one.key_dir == other.key_dir
    assert Path(one.key_dir).is_relative_to(tmp_path)
    next(tmp_path.iterdir()).chmod(0o777)
    with pytest.raises(ConfigError, match="others can enter"):
        terms_of(local[0], NETWORK, None, False)
