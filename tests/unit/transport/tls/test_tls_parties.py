"""Parties of a split job over tls://: tensors both ways, and a follower whose certificate is another's is not heard."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from flps.config.types import Network
from flps.errors import ConfigError, NeverCameUp
from flps.split.communicator import ServerConfig, VerticalFederatedCommunicator
from flps.split.parties import SSLConfig

NETWORK = Network(heartbeat_s=0.1, retry_s=0.2, lease_s=5.0, start_timeout_s=10.0)


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"localhost:{free.getsockname()[1]}"


def party(name: str, other: str, address: str, files: Any, **changes: Any) -> VerticalFederatedCommunicator:
    return VerticalFederatedCommunicator(
        ServerConfig(name, address), ServerConfig(other, address), True, files,
        **{"network": NETWORK, "timeout_s": 10.0, **changes},
    )  # fmt: skip


def test_tensors_go_both_ways(authority: Any, address: str) -> None:
    names = {"speakers": {"localhost": "leader:0", "follower": "follower:0"}}
    leader = party("leader", "follower", address, authority.files(**names))
    follower = party("follower", "leader", address, authority.files(authority.issue("follower"), **names))
    sent = {"activation": torch.randn(16, 3), "ids": torch.arange(5)}
    back = {"loss": {"activation": torch.randn(16, 3).bfloat16()}}
    with leader, follower, ThreadPoolExecutor(1) as pool:
        agreed = pool.submit(follower.agree, {"rows": 16})
        leader.agree({"rows": 16})
        assert agreed.result(10) == 0
        follower.send_tensors("leader", sent)
        got = leader.receive("follower")
        leader.send_tensors("follower", back)
        returned = follower.receive("leader")
    assert all(torch.equal(got[name], held) for name, held in sent.items())
    assert torch.equal(returned["loss"]["activation"], back["loss"]["activation"])


def test_a_certificate_of_another_name_speaks_for_nobody(authority: Any, address: str) -> None:
    names = {"speakers": {"localhost": "leader:0", "follower": "follower:0"}}
    leader = party("leader", "follower", address, authority.files(**names))
    quick = {"network": Network(heartbeat_s=0.1, retry_s=0.2, lease_s=1.0, start_timeout_s=1.0), "timeout_s": 2.0}
    stranger = party("follower", "leader", address, authority.files(authority.issue("stranger"), **names), **quick)
    with leader:
        with (
            pytest.raises(NeverCameUp, match=r"nothing has answered at tls.*is it refused in the log there"),
            stranger,
        ):
            stranger.agree({"rows": 16})
        assert leader._links.wire is not None
        assert "(stranger) may not speak as follower:0" in leader._links.wire.trouble


def test_the_originals_positional_form(authority: Any, address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Passwords first, then the leader's file, the follower's, the authorities': each party uses its own."""
    names = {"speakers": {"localhost": "leader:0", "follower": "follower:0"}}
    server = authority.issue("localhost", "127.0.0.1", password=b"s3cret", as_pkcs12=True)
    client = authority.issue("follower", password=b"cl1ent", as_pkcs12=True)
    said = SSLConfig("s3cret", "cl1ent", str(server), str(client), str(authority.ca), str(authority.crl), **names)
    assert "s3cret" not in repr(said)
    leader, follower = (party(*pair, address, said) for pair in (("leader", "follower"), ("follower", "leader")))
    assert caplog.text.count("who can read a script can read the password in it") == 2
    with leader, follower:
        follower.send_tensors("leader", {"x": torch.arange(3)})
        assert leader.receive("follower")["x"].tolist() == [0, 1, 2]
    assert "s3cret" not in caplog.text
    assert f"{server} expires on" in caplog.text


def test_a_wrong_password_of_the_original(authority: Any, address: str) -> None:
    server = authority.issue("localhost", password=b"s3cret", as_pkcs12=True)
    leader = party("leader", "follower", address, SSLConfig("no", None, str(server), None, str(authority.ca)))
    with pytest.raises(ConfigError, match="wrong password"):
        leader.launch()


def test_ends_that_do_not_fit_end_the_wait_after_a_lease(authority: Any, own_authority: Any, address: str) -> None:
    """It is no use to wait for the start time-out when every attempt shows that the certificates do not fit."""
    quick = {"network": Network(heartbeat_s=0.1, retry_s=0.2, lease_s=0.3, start_timeout_s=60.0)}
    leader = party("leader", "follower", address, authority.files())
    follower = party("follower", "leader", address, own_authority().files(), **quick)
    says = r"no connection to leader:0 at .*: .* its authority is not in `ca`"
    with leader, pytest.raises(ConfigError, match=says), follower:
        follower.agree({"rows": 16})


def test_who_waits_in_vain_says_who_was_turned_away(authority: Any, own_authority: Any, address: str) -> None:
    quick = {"network": Network(heartbeat_s=0.1, retry_s=0.2, lease_s=5.0, start_timeout_s=1.0)}
    leader = party("leader", "follower", address, authority.files(), **quick)
    follower = party("follower", "leader", address, own_authority().files(), **quick)
    follower.launch()
    try:
        with pytest.raises(NeverCameUp, match=r"follower did not come up .*\(127.0.0.1:\d+ was turned away: "), leader:
            leader.agree({"rows": 16})
    finally:
        follower.close()
