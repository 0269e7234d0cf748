"""Parties as processes of their own: over unix sockets and CURVE, killed while others wait, started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flps.config.types import Network
from flps.errors import PartyRestarted, PeerLost
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig
from flps.transport.security import make_keys

NETWORK = Network(heartbeat_s=0.2, retry_s=0.2, lease_s=2.0, start_timeout_s=60.0)

# A party in another process: agrees, exchanges tensors, and tells how far it got.
PARTY = """
import json, sys, time
from pathlib import Path
import torch
from flps.config.types import Network
from flps.errors import FlpsError
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig

said = json.loads(sys.argv[1])
torch.set_num_threads(1)
network = Network(heartbeat_s=0.2, retry_s=0.2, lease_s=2.0, start_timeout_s=60.0)
remotes = [ServerConfig(name, said["address"]) for name in said["others"]]
try:
    with VerticalFederatedCommunicator(
        ServerConfig(said["name"], said["address"]), remotes, network=network, timeout_s=60.0,
        key_dir=Path(said["keys"]) if said["keys"] else None,
    ) as party:
        (other,) = said["others"]
        begin = party.agree({"rows": said["rows"]}, said["steps"])
        print("agreed", begin, flush=True)
        for step in range(begin, said["until"]):
            generator = torch.Generator().manual_seed(step)
            party.send_tensors(other, {"x": torch.randn(4, 5, generator=generator).to(torch.bfloat16)}, step=step)
            back = party.receive(other, step=step)["loss"]["ids"]
            assert back.dtype == torch.int64 and back.tolist() == [step, -step], back
        print("done", flush=True)
        while said["stays"]:
            party.receive(other)
except FlpsError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


class Stage:
    """Starts parties as processes; none outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"ipc://{folder}/leader"
        self.keys = ""
        self.started: list[subprocess.Popen[str]] = []

    def start(self, name: str = "follower", *others: str, **said: Any) -> subprocess.Popen[str]:
        """A process that is that party; `steps`, `until`, `rows`, `stays`."""
        known = {"steps": [0], "until": 20, "rows": 7, "stays": False, "keys": self.keys, **said}
        known |= {"name": name, "others": others or ("leader",), "address": self.address}
        party = subprocess.Popen([sys.executable, "-c", PARTY, json.dumps(known)], stdout=subprocess.PIPE, text=True)
        self.started.append(party)
        return party

    def party(self, name: str, *others: str) -> VerticalFederatedCommunicator:
        """This process's own party."""
        remotes = [ServerConfig(other, self.address) for other in others]
        keys = Path(self.keys) if self.keys else None
        return VerticalFederatedCommunicator(
            ServerConfig(name, self.address), remotes, network=NETWORK, timeout_s=60.0, key_dir=keys
        )

    def close(self) -> None:
        for party in self.started:
            party.kill()
            party.wait()
            assert party.stdout is not None
            party.stdout.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        made = Stage(Path(folder))
        yield made
        made.close()


def line(party: subprocess.Popen[str]) -> str:
    assert party.stdout is not None
    return party.stdout.readline().rstrip("\n")


def play(leader: VerticalFederatedCommunicator, names: list[str], steps: range) -> None:
    """The leader's part of `PARTY`."""
    for step in steps:
        for name in names:
            sent = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).to(torch.bfloat16)
            assert torch.equal(leader.receive(name, step=step)["x"], sent)
        for name in names:
            leader.send_tensors(name, {"loss": {"ids": torch.tensor([step, -step])}}, step=step)


def test_two_processes_over_a_unix_socket(stage: Stage) -> None:
    follower = stage.start()
    with stage.party("leader", "follower") as leader:
        assert leader.agree({"rows": 7}) == 0
        play(leader, ["follower"], range(20))
        assert (line(follower), line(follower)) == ("agreed 0", "done")
        with pytest.raises(PeerLost, match="follower has ended in good order"):
            leader.receive("follower")
    assert follower.wait(10) == 0


def test_two_processes_over_curve_and_both_sides_say_the_same(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        stage.address = f"127.0.0.1:{free.getsockname()[1]}"
    stage.keys = str(stage.folder / "keys")
    make_keys(Path(stage.keys), ["leader", "follower"])
    leader = stage.start("leader", "follower", rows=8)
    told = None
    with stage.party("follower", "leader") as follower:
        try:
            follower.agree({"rows": 7})
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
    assert told is not None
    assert told == "\n".join([line(leader), line(leader)])
    assert "rows: leader has 8, follower has 7" in told


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_party_that_is_killed_is_named_within_its_lease(role: str, stage: Stage) -> None:
    other = {"leader": "follower", "follower": "leader"}[role]
    killed = stage.start(role, other, until=0, stays=True)
    with stage.party(other, role) as party:
        party.agree({"rows": 7})
        os.kill(killed.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(PeerLost, match=f"{role} gave no sign of life for 2 s, and {other} waits for it to send"):
            party.receive(role)
        assert time.monotonic() - began < 10.0


@pytest.mark.slow
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_killed_party_comes_back_and_all_go_on_from_the_common_step(role: str, stage: Stage) -> None:
    other = {"leader": "follower", "follower": "leader"}[role]
    killed = stage.start(role, other, until=0, stays=True)
    with stage.party(other, role) as party:
        assert party.agree({"rows": 7}, [0, 10, 20]) == 0
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        if role == "follower":
            stage.start(role, other, steps=[0, 10])
        else:
            stage.start(role, other, steps=[0, 10], until=10)
        with pytest.raises((PartyRestarted, PeerLost)) as error:
            party.receive(role)
        while isinstance(error.value, PeerLost):  # importing takes longer than a lease here
            with pytest.raises((PartyRestarted, PeerLost)) as error:
                party.receive(role, timeout_s=60.0)
        assert party.agree({"rows": 7}, [0, 10, 20]) == 10
        if role == "follower":
            play(party, ["follower"], range(10, 20))


@pytest.mark.slow
def test_five_followers(stage: Stage) -> None:
    names = [f"follower{n}" for n in range(1, 6)]
    followers = [stage.start(name) for name in names]
    with stage.party("leader", *names) as leader:
        assert leader.agree({"rows": 7}) == 0
        play(leader, names, range(20))
        assert [line(one) for one in followers] == ["agreed 0"] * 5
        assert [line(one) for one in followers] == ["done"] * 5
