"""Parties of a split job over tls://: tensors both ways, and a follower whose certificate is another's is not heard."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from flps.config.types import Network
from flps.errors import FlpsError
from flps.split.communicator import ServerConfig, VerticalFederatedCommunicator

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
    quick = {"network": Network(heartbeat_s=0.1, retry_s=0.2, lease_s=1.0, start_timeout_s=2.0), "timeout_s": 2.0}
    stranger = party("follower", "leader", address, authority.files(authority.issue("stranger"), **names), **quick)
    with leader, pytest.raises(FlpsError), stranger:
        stranger.agree({"rows": 16})
