"""Parties in threads: every message once, in order; who fails is named; who restarts is noticed."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from flps.compression import CompressConfig
from flps.config.job import Terms
from flps.config.types import Network
from flps.errors import (
    ConfigError,
    DataError,
    FlpsError,
    NeverCameUp,
    PartyRestarted,
    PeerLost,
    ProtocolError,
    ResourceError,
)
from flps.split.codec import Compressing
from flps.split.communicator import VerticalFederatedCommunicator, in_process
from flps.split.parties import ServerConfig

NETWORK = Network(heartbeat_s=0.1, retry_s=0.1, lease_s=10.0, start_timeout_s=10.0)
SHORT_S = 0.2


class Parties:
    """Makes communicators of one job, and closes them at the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.made: list[VerticalFederatedCommunicator] = []
        self._pool = ThreadPoolExecutor(8)

    def make(self, name: str, *others: str, **named: Any) -> VerticalFederatedCommunicator:
        """A communicator that has not been launched."""
        remotes = [ServerConfig(other, self.address) for other in others or ("leader",)]
        known: dict[str, Any] = {"network": NETWORK, "timeout_s": 10.0, "incarnation": 1, **named}
        known["network"] = msgspec.structs.replace(known["network"], **known.pop("changes", {}))
        made = VerticalFederatedCommunicator(ServerConfig(name, self.address), remotes, **known)
        self.made.append(made)
        return made

    def start(self, name: str, *others: str, **named: Any) -> VerticalFederatedCommunicator:
        """A communicator that works."""
        made = self.make(name, *others, **named)
        made.launch()
        return made

    def pair(self, **named: Any) -> tuple[VerticalFederatedCommunicator, VerticalFederatedCommunicator]:
        """Leader and follower."""
        return self.start("leader", "follower", **named), self.start("follower", **named)

    def go(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        """Let a party act in a thread of its own."""
        return self._pool.submit(act, *arguments, **named)

    @staticmethod
    def kill(party: VerticalFederatedCommunicator) -> None:
        """It falls silent, and hangs up without a word."""
        links = party._links
        links._is_over.set()
        assert links._thread is not None
        links._thread.join()
        assert links.wire is not None
        links.wire.close()

    def close(self) -> None:
        self._pool.shutdown()
        for one in self.made:
            one.close(linger_s=0.0)


@pytest.fixture
def parties() -> Iterator[Parties]:
    made = Parties(f"loopback://{uuid.uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def processes() -> Iterator[Parties]:
    """Parties over a unix socket, which can be listened at again."""
    with tempfile.TemporaryDirectory() as folder:
        made = Parties(f"ipc://{folder}/leader")
        yield made
        made.close()


def x(*numbers: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(numbers)}


def read(party: VerticalFederatedCommunicator, name: str, **named: Any) -> list[float]:
    numbers: list[float] = party.receive(name, **named)["x"].tolist()
    return numbers


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what happens in another thread."""
    deadline = time.monotonic() + 10.0
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["leader", "follower"])
def test_either_side_may_start_first(first: str, parties: Parties) -> None:
    sides = {"leader": ("follower",), "follower": ("leader",)}
    second = sides[first][0]
    one = parties.start(first, *sides[first])
    one.send_tensors(second, x(1))
    waiting = parties.go(one.receive, second)
    other = parties.start(second, *sides[second])
    assert read(other, first) == [1.0]
    other.send_tensors(first, x(2))
    assert waiting.result()["x"].tolist() == [2.0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_follower_gets_what_is_its_own(count: int, parties: Parties) -> None:
    names = [f"follower{n}" for n in range(count)]
    leader = parties.make("leader", *names)

    def follow(rank: int) -> list[float]:
        follower = parties.start(names[rank])
        got = []
        for step in range(20):
            follower.send_tensors("leader", x(rank, step), step=step)
            got += read(follower, "leader", step=step)
        return got

    told = [parties.go(follow, rank) for rank in range(count)]
    leader.launch()
    for step in range(20):
        for rank, name in enumerate(names):
            assert read(leader, name, step=step) == [rank, step]
        for rank, name in enumerate(names):
            leader.send_tensors(name, x(100 * rank + step), step=step)
    for rank, one in enumerate(told):
        assert one.result() == [100 * rank + step for step in range(20)]


def test_over_a_bad_link_each_message_comes_once(parties: Parties, tmp_path: Path) -> None:
    faults = "drop=10%;duplicate=10%;reorder=10%;delay=0ms..3ms"
    terms = Terms(
        run_id=uuid.uuid4().hex, security="loopback", network=NETWORK, seats={"leader": 1, "follower": 1},
        faults=faults, run_dir=str(tmp_path), seed=3,
    )  # fmt: skip
    network = {"retry_s": 0.02}
    leader, follower = parties.pair(terms=terms, changes=network)

    def play(party: VerticalFederatedCommunicator, other: str) -> list[float]:
        got = []
        for step in range(60):
            party.send_tensors(other, x(step))
            got += read(party, other)
        return got

    told = [parties.go(play, leader, "follower"), parties.go(play, follower, "leader")]
    assert [one.result() for one in told] == [list(range(60))] * 2
    for party in (follower, leader):  # good-byes pass a bad link, too
        party.close()


def test_a_sender_waits_while_the_other_is_behind(parties: Parties) -> None:
    leader, follower = parties.pair(window=2)
    for n in range(2):
        follower.send_tensors("leader", x(n))
    with pytest.raises(PeerLost, match=r"follower waited 0\.2 s for leader to take a message"):
        follower.send_tensors("leader", x(2), timeout_s=SHORT_S)
    assert read(leader, "follower") == [0.0]
    follower.send_tensors("leader", x(2))
    assert [read(leader, "follower") for _ in range(2)] == [[1.0], [2.0]]


def test_who_will_not_wait_hears_that_there_is_nothing(parties: Parties) -> None:
    leader, follower = parties.pair(window=2)
    assert leader.receive_soon("follower", 0.0) is None
    follower.send_tensors("leader", x(1))
    assert leader.receive_soon("follower", 10.0) == x(1)
    assert follower.has_room("leader")
    for number in (2.0, 3.0):
        follower.send_tensors("leader", x(number))
    assert not follower.has_room("leader")
    assert [leader.receive_soon("follower", 10.0) for _ in range(2)] == [x(2), x(3)]
    parties.kill(follower)
    parties.start("follower", incarnation=2)
    with pytest.raises(PartyRestarted, match="follower was started again"):
        leader.receive_soon("follower", 10.0)


def test_several_threads_may_wait_at_once(parties: Parties) -> None:
    leader = parties.start("leader", "f0", "f1")
    waiting = [parties.go(leader.receive, name) for name in ("f0", "f1")]
    followers = [parties.start(name) for name in ("f0", "f1")]
    for n in (1, 0):
        followers[n].send_tensors("leader", x(n))
        assert waiting[n].result()["x"].tolist() == [n]


def test_the_step_is_the_one_that_was_asked_for(parties: Parties) -> None:
    leader, follower = parties.pair()
    for step in (4, None, 6):
        follower.send_tensors("leader", x(1), step=step)
    for said in ("step 4, expected step 5", "a message without a step, expected step 5"):
        with pytest.raises(ProtocolError, match=said):
            leader.receive("follower", step=5)
    assert read(leader, "follower", step=6) == [1.0]


def test_what_is_too_large_is_refused_where_it_is_sent(parties: Parties) -> None:
    leader, follower = parties.pair(changes={"frame_bytes_max": 4096})
    with pytest.raises(ConfigError, match=r"'x' of shape \[2000\] has 8000 bytes, over frame_bytes_max 4096"):
        follower.send_tensors("leader", {"x": torch.zeros(2000)})
    follower.send_tensors("leader", {"x": torch.zeros(1000)})
    assert leader.receive("follower")["x"].shape == (1000,)


def test_bytes_are_counted(parties: Parties) -> None:
    leader, follower = parties.pair()
    follower.send_tensors("leader", {"x": torch.zeros(10_000)})
    leader.receive("follower")
    assert 40_000 < leader.bytes[0] < 42_000
    assert 40_000 < follower.bytes[1] < 42_000


# --- who fails is named ----------------------------------------------------------------------------------------------


def test_who_never_comes_is_named(parties: Parties) -> None:
    leader = parties.start("leader", "f0", "f1", changes={"start_timeout_s": SHORT_S})
    with pytest.raises(NeverCameUp, match=r"f1 did not come up within 0\.2 s"):
        leader.receive("f1")
    with pytest.raises(NeverCameUp, match="f0 did not come up"):
        leader.agree({})


def test_who_falls_silent_is_named_within_its_lease(parties: Parties) -> None:
    changes = {"heartbeat_s": 0.05, "lease_s": 0.5}
    leader, follower = parties.pair(changes=changes)
    leader.send_tensors("follower", x(1))
    assert read(follower, "leader") == [1.0]
    parties.kill(leader)
    began = time.monotonic()
    with pytest.raises(PeerLost, match=r"leader gave no sign of life for 0\.5 s"):
        follower.receive("leader")
    assert time.monotonic() - began < 3.0


def test_a_wait_ends_at_its_deadline(parties: Parties) -> None:
    leader, _ = parties.pair()
    with pytest.raises(PeerLost, match=r"leader waited 0\.2 s for follower to send a message"):
        leader.receive("follower", SHORT_S)
    with pytest.raises(ConfigError, match="there is no party 'bank'; leader knows follower"):
        leader.receive("bank")


def test_who_ends_says_good_bye(parties: Parties) -> None:
    leader, follower = parties.pair()
    follower.send_tensors("leader", x(1))
    follower.close()
    follower.close()
    assert read(leader, "follower") == [1.0]  # what came before is still there
    with pytest.raises(PeerLost, match="follower has ended in good order, and leader waits for it to send"):
        leader.receive("follower")
    with pytest.raises(FlpsError, match="communicator of follower was closed"):
        follower.receive("leader")


def test_who_fails_says_why(parties: Parties) -> None:
    leader = parties.start("leader", "follower")

    def fail() -> None:
        with parties.make("follower") as follower:
            follower.send_tensors("leader", x(1))
            raise ValueError("rows ran out")

    with pytest.raises(ValueError, match="rows ran out"):
        parties.go(fail).result()
    assert read(leader, "follower") == [1.0]
    with pytest.raises(PeerLost, match="follower has ended because of ValueError, and leader waits") as told:
        leader.receive("follower")
    assert "rows" not in str(told.value)  # only what flps itself says is fit for others' ears


def test_a_kind_of_config_error_is_one_for_the_others_too(parties: Parties) -> None:
    leader = parties.start("leader", "follower")

    def fail() -> None:
        with parties.make("follower") as follower:
            follower.send_tensors("leader", x(1))
            raise DataError("part 3 of the rows is damaged")

    with pytest.raises(DataError):
        parties.go(fail).result()
    assert read(leader, "follower") == [1.0]
    with pytest.raises(ConfigError, match="part 3 of the rows is damaged"):
        leader.receive("follower")


def test_closing_waits_only_for_those_who_have_something_to_get(parties: Parties) -> None:
    leader = parties.start("leader", "follower")
    began = time.monotonic()
    leader.close()
    assert time.monotonic() - began < 1.0
    parties.address += "-again"  # zmq lets go of an address a little later
    eager = parties.start("leader", "follower")
    eager.send_tensors("follower", x(1))
    late = parties.go(eager.close)
    follower = parties.start("follower")
    assert read(follower, "leader") == [1.0]  # what was sent is waited for
    late.result()


def test_nothing_works_before_launch(parties: Parties) -> None:
    with pytest.raises(FlpsError, match=r"call launch\(\)"):
        parties.make("leader", "follower").receive("follower")


def test_an_address_that_is_taken_is_told(parties: Parties) -> None:
    parties.start("leader", "follower")
    with pytest.raises(ResourceError, match="cannot listen"):
        parties.start("leader", "follower")


def test_a_follower_of_another_name_or_rank_is_turned_away(parties: Parties) -> None:
    leader = parties.start("leader", "bank", "shop")
    mill, third = parties.start("mill"), parties.start("tower", rank=7)
    with pytest.raises(ConfigError, match="leader expects bank here, but it calls itself 'mill'"):
        mill.receive("leader")
    with pytest.raises(ConfigError, match="refuses this party: follower:7 is not of this job"):
        third.receive("leader")
    shop = parties.start("shop", rank=1)
    shop.send_tensors("leader", x(3))
    assert read(leader, "shop") == [3.0]


# --- agreeing, and restarts ------------------------------------------------------------------------------------------


def test_all_begin_with_the_newest_common_step(parties: Parties) -> None:
    leader = parties.start("leader", "f0", "f1")
    followers = [parties.start(name) for name in ("f0", "f1")]
    told = [parties.go(one.agree, {"rows": 5}, [0, 10, 20, 30][: 3 + n]) for n, one in enumerate(followers)]
    assert leader.agree({"rows": 5}, (20, 10, 40)) == 20
    assert [one.result() for one in told] == [20, 20]
    assert all(type(one.result()) is int for one in told)


def test_when_parts_do_not_fit_all_say_the_same(parties: Parties) -> None:
    leader = parties.start("leader", "f0", "f1")
    told = [parties.go(parties.start(f"f{n}").agree, {"rows": 5 + n}) for n in range(2)]
    words = set()
    for agree in (lambda: leader.agree({"rows": 5}), *(one.result for one in told)):
        with pytest.raises(ConfigError, match="rows: leader has 5, f0 has 5, f1 has 6") as error:
            agree()
        words.add(str(error.value))
    assert len(words) == 1


def test_tensors_before_an_agreement_are_told_apart(parties: Parties) -> None:
    leader, follower = parties.pair()
    follower.send_tensors("leader", x(1))
    with pytest.raises(ProtocolError, match="follower sent tensors, before the parties had agreed"):
        leader.agree({})
    agreeing = parties.go(follower.agree, {}, timeout_s=SHORT_S)
    with pytest.raises(ProtocolError, match="follower wants to agree on a step, and leader waits for tensors"):
        leader.receive("follower")
    assert isinstance(agreeing.exception(), PeerLost)


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_restart_is_noticed_and_nothing_old_is_mixed_in(who: str, processes: Parties) -> None:
    parties, names = processes, {"leader": "follower", "follower": "leader"}
    alive_name = names[who]
    one = parties.start(who, alive_name)
    alive = parties.start(alive_name, who)
    told = parties.go(one.agree, {}, [0, 5])
    assert alive.agree({}, [0, 5]) == told.result() == 5
    alive.send_tensors(who, x(1))
    one.send_tensors(alive_name, x(2))
    one.send_tensors(alive_name, x(3))
    assert read(alive, who) == [2.0]
    parties.kill(one)
    again = parties.start(who, alive_name, incarnation=2)
    told = parties.go(again.agree, {}, [0])
    until(lambda: alive._links.named[who].restarted is not None)  # number 3 has come, and was not taken
    with pytest.raises(PartyRestarted, match=f"{who} was started again: {alive_name} must go back"):
        alive.receive(who)
    assert alive.agree({}, [0, 5]) == told.result() == 0
    alive.send_tensors(who, x(11))
    again.send_tensors(alive_name, x(12))
    assert read(again, alive_name) == [11.0]
    assert read(alive, who) == [12.0]


def test_all_followers_go_back_when_one_was_started_again(parties: Parties) -> None:
    leader, f0, f1 = (parties.start("leader", "f0", "f1"), parties.start("f0"), parties.start("f1"))
    told = [parties.go(one.agree, {}, [0, 5]) for one in (f0, f1)]
    assert leader.agree({}, [0, 5]) == 5
    assert [one.result() for one in told] == [5, 5]
    f1.send_tensors("leader", x(1))
    parties.kill(f0)
    again = parties.start("f0", incarnation=2)
    told_again = parties.go(again.agree, {}, [5])
    with pytest.raises(PartyRestarted, match="f0 was started again"):
        leader.receive("f0")
    agreed = parties.go(leader.agree, {}, [0, 5])
    with pytest.raises(PartyRestarted, match="leader: f0 was started again"):
        f1.receive("leader")
    assert f1.agree({}, [0, 5]) == agreed.result() == told_again.result() == 5
    for rank, one in enumerate((again, f1)):
        one.send_tensors("leader", x(rank))
        assert read(leader, f"f{rank}") == [rank]


def test_a_restart_while_the_parties_agree_is_no_news(parties: Parties) -> None:
    leader, f0 = parties.start("leader", "f0", "f1"), parties.start("f0")
    told = parties.go(leader.agree, {}, [0, 5])
    early = parties.go(f0.agree, {}, [5], timeout_s=5.0)
    until(lambda: leader._links.named["f0"]._round.received > 0)
    parties.kill(f0)
    again, f1 = parties.start("f0", incarnation=2), parties.start("f1")
    agreed = [parties.go(one.agree, {}, [0]) for one in (again, f1)]
    assert [told.result(), *(one.result() for one in agreed)] == [0, 0, 0]
    assert early.exception() is not None


# --- in one process --------------------------------------------------------------------------------------------------


def test_one_thread_plays_all_parties() -> None:
    leader, f0, f1 = in_process("leader", "f0", "f1")
    for step in range(100):
        for n, one in enumerate((f0, f1)):
            one.send_tensors("leader", {"a": torch.full((3,), n + step, dtype=torch.bfloat16)}, step=step)
        for n, name in enumerate(("f0", "f1")):
            assert leader.receive(name, step=step)["a"].tolist() == [n + step] * 3
            leader.send_tensors(name, {"loss": x(step)})
        for one in (f0, f1):
            assert one.receive("leader")["loss"]["x"].tolist() == [step]
    with pytest.raises(
        FlpsError, match="f0 would wait for leader to send a message, which one thread alone never does"
    ):
        f0.receive("leader")
    for one in (leader, f0, f1):
        one.close()


def test_parties_in_one_process_may_be_threads(parties: Parties) -> None:
    leader, follower = in_process(threads=True)
    parties.made += [leader, follower]
    told = parties.go(follower.agree, {"rows": 1}, [3])
    assert leader.agree({"rows": 1}, [3]) == told.result() == 3
    waiting = parties.go(leader.receive, "follower")
    follower.send_tensors("leader", x(1))
    assert waiting.result()["x"].tolist() == [1.0]


def test_what_a_party_sends_to_itself_waits_for_it(parties: Parties) -> None:
    leader = parties.start("leader", "follower")
    tensors = x(1)
    leader.send_tensors("leader", tensors, step=4)
    tensors["x"].zero_()
    assert read(leader, "leader", step=4) == [1.0]
    with pytest.raises(FlpsError, match="has sent itself nothing"):
        leader.receive("leader")


@pytest.mark.parametrize(
    ("own", "others", "why"),
    [("leader", ["follower"], "ServerConfig"), (ServerConfig("a", "b:1"), [("c", "d")], "ServerConfig")],
)
def test_parties_are_given_as_configs(own: Any, others: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        VerticalFederatedCommunicator(own, others)


# --- packed ----------------------------------------------------------------------------------------------------------


def test_activations_and_gradients_are_packed_as_their_configurations_say() -> None:
    configs = {"a": CompressConfig("min_max", 8, grad_compress_type="fp16"), "mask": CompressConfig("bit_pack", 1)}
    leader, follower = in_process(compress_configs=configs)
    tensor, mask = torch.linspace(-1, 1, 4000).reshape(1000, 4), (torch.arange(800) % 3 == 0)
    follower.send_tensors("leader", {"a": tensor, "b": tensor, "mask": mask, "c": tensor.bfloat16()})
    came = leader.receive("follower")
    assert (came["a"] - tensor).abs().max() <= 2 / 255 / 2 + 1e-6
    assert not torch.equal(came["a"], tensor)
    assert torch.equal(came["b"], tensor)
    assert torch.equal(came["mask"], mask)
    assert torch.equal(came["c"], tensor.bfloat16())
    assert follower.bytes[1] == 4000 + 16000 + 100 + 8000
    leader.send_tensors("follower", {"loss": {"a": tensor}})
    assert torch.equal(follower.receive("leader")["loss"]["a"], tensor.half().float())
    with pytest.raises(FlpsError, match="tensor 'loss/a' of shape"):
        leader.send_tensors("follower", {"loss": {"a": tensor / 0}})


def test_how_tensors_are_packed_may_be_said_later() -> None:
    leader, follower = in_process()
    follower.send_tensors("leader", {"a": torch.tensor([0.1]), "none": torch.from_numpy(np.empty(0)[[]])})
    came = leader.receive("follower")
    assert came["a"].item() == torch.tensor(0.1)
    assert came["none"].shape == (0,)
    for party in (leader, follower):
        party.pack_by({"a": CompressConfig("fp16")})
    follower.send_tensors("leader", {"a": torch.tensor([0.1])})
    assert leader.receive("follower")["a"].item() == torch.tensor(0.1).half().float()
    for party in (leader, follower):
        party.close()


def test_bfloat16_is_packed_and_comes_back_as_such() -> None:
    leader, follower = in_process(compress_configs={"a": CompressConfig("int8")})
    tensor = torch.randn(64, 32).bfloat16()
    follower.send_tensors("leader", {"a": tensor})
    came = leader.receive("follower")["a"]
    assert came.dtype == torch.bfloat16
    assert (came.float() - tensor.float()).abs().max() <= tensor.float().abs().max() / 100


def test_what_packing_takes_from_a_gradient_goes_to_the_same_party_later() -> None:
    configs = {"a": CompressConfig("topk", top_k=0.5, error_feedback=True)}
    leader, f0, f1 = in_process("leader", "f0", "f1", compress_configs=configs)
    for one in ("f0", "f1"):
        leader.send_tensors(one, {"loss": {"a": torch.tensor([3.0, 2.0])}})
        leader.send_tensors(one, {"loss": {"a": torch.tensor([0.0, 2.0])}})
    for one in (f0, f1):
        assert one.receive("leader")["loss"]["a"].tolist() == [3.0, 0.0]
        assert one.receive("leader")["loss"]["a"].tolist() == [0.0, 4.0]
    assert leader.feedback["f0"].content()["loss/a"].tolist() == [0.0, 0.0]
    leader.send_tensors("f0", {"loss": {"a": torch.tensor([3.0, 2.0])}, "other": {"a": torch.tensor([5.0, 1.0])}})
    owed = leader.feedback["f0"].content()  # gradients of one tensor under two labels are not one another's
    assert (owed["loss/a"].tolist(), owed["other/a"].tolist()) == ([0.0, 2.0], [0.0, 1.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "zip"},
        {"shape": [3]},
        {"dtype": "f8"},
        {"bits": 99},
        {"nothing": 1},
    ],
)
def test_what_no_packing_gives_is_the_senders_fault(changes: dict[str, Any]) -> None:
    codec = Compressing({"a": CompressConfig("min_max", 4)}, 1 << 20)
    piece = codec.pack("", "a", torch.linspace(0, 1, 10))
    assert piece is not None
    assert codec.unpack(piece).shape == (10,)
    if changes == {"nothing": 1}:
        wrong = msgspec.structs.replace(piece, packed={})
    else:
        wrong = msgspec.structs.replace(piece, packed={**(piece.packed or {}), **changes})
    with pytest.raises(ProtocolError):
        codec.unpack(wrong)


def test_a_config_is_one() -> None:
    with pytest.raises(ConfigError, match="compress_configs: 'a' is 'min_max'"):
        in_process(compress_configs={"a": "min_max"})  # type: ignore[dict-item]
