"""Where the leader of a split job listens, and which parties start here."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.config.split import Follower, Parties, SplitConfig
from flps.config.split_job import SplitJob
from flps.config.tls import TlsFiles
from flps.errors import ConfigError
from flps.launch.arguments import Arguments
from flps.launch.hosts import Endpoint
from flps.launch.parties import make_split_plan
from flps.launch.plan import Plan, Surroundings, describe

AROUND = Surroundings(
    config_path=Path("/jobs/x.yaml"),
    run_dir=Path("/log/run-1"),
    private_dir=Path("/run/flps-1"),
    key_dir=Path("/home/me/.flps/keys"),
    token="token",
    is_mine=lambda host: host in ("127.0.0.1", "10.0.0.1"),
)
ADDRESSES = {"http_server_address": "127.0.0.1:10087", "remote_server_address": "127.0.0.1:10086"}
TWO = Parties(followers=(Follower(name="a", nets=("a.yaml",)), Follower(name="b")))


def config_of(parties: Parties = TWO, **values: Any) -> SplitConfig:
    return SplitConfig(parties=parties, hyper_parameters={**ADDRESSES, **values})


def plan_of(arguments: Arguments, config: SplitConfig | None = None) -> Plan[SplitJob]:
    return make_split_plan(arguments, config or config_of(), AROUND)


def names(plan: Plan[SplitJob]) -> list[str]:
    return [role.name for role in plan.local]


def test_one_machine_meets_at_a_unix_socket() -> None:
    plan = plan_of(Arguments())
    assert plan.job.leader == "ipc:///run/flps-1/leader-0"
    assert (plan.job.security, plan.job.key_dir, plan.private_dir) == ("unix", "", AROUND.private_dir)
    assert names(plan) == ["leader.0", "follower.0", "follower.1"]
    assert (plan.job.run_id, plan.job.config_dir, plan.binds, plan.whole_job) == ("token", "/jobs", (), True)
    assert [role.endpoint for role in plan.roles] == ["ipc:///run/flps-1/leader-0", "", ""]


def test_a_port_on_loopback_has_keys_of_the_run() -> None:
    plan = plan_of(Arguments(leader="127.0.0.1:5000"))
    assert (plan.job.leader, plan.binds) == ("tcp://127.0.0.1:5000", (Endpoint("127.0.0.1", 5000),))
    assert (plan.job.security, plan.job.key_dir, plan.makes_keys) == ("curve", "/run/flps-1/keys", True)
    assert plan.private_dir == AROUND.private_dir


def test_a_port_of_the_machine_has_keys_of_the_folder() -> None:
    plan = plan_of(Arguments(leader="10.0.0.1:5000"))
    assert (plan.job.key_dir, plan.makes_keys, plan.private_dir) == ("/home/me/.flps/keys", False, None)
    assert plan_of(Arguments(leader="127.0.0.1:5000", key_dir="k")).job.key_dir == "/home/me/.flps/keys"
    assert plan_of(Arguments(leader="10.0.0.1:5000", insecure=True)).job.security == "plain"


@pytest.mark.parametrize(
    ("role", "rank", "where", "local", "binds"),
    [
        ("leader", None, "tcp://127.0.0.1:10087", "leader.0", 1),
        ("leader", 0, "tcp://127.0.0.1:10087", "leader.0", 1),
        ("follower", 0, "tcp://127.0.0.1:10086", "follower.0", 0),
        ("follower", 1, "tcp://127.0.0.1:10086", "follower.1", 0),
    ],
)
def test_a_party_alone_reads_the_originals_addresses(
    role: str, rank: int | None, where: str, local: str, binds: int
) -> None:
    plan = plan_of(Arguments(role=role, rank=rank))
    assert (plan.job.leader, names(plan), len(plan.binds)) == (where, [local], binds)
    assert plan.job.run_id == "split"
    assert plan_of(Arguments(role=role, rank=rank, leader="10.9.9.9:1", run_id="r")).job.leader == "tcp://10.9.9.9:1"


def test_parties_that_start_one_by_one_on_loopback_share_keys_that_stay() -> None:
    plan = plan_of(Arguments(role="leader"))
    assert (plan.job.key_dir, plan.makes_keys, plan.private_dir) == (f"/run/flps-{os.getuid()}/keys", True, None)


def test_the_originals_addresses_speak_as_flags_without_a_role() -> None:
    flagged = Arguments(settings=("http_server_address=127.0.0.1:10087",))
    assert plan_of(flagged).job.leader == "tcp://127.0.0.1:10087"
    assert names(plan_of(flagged)) == ["leader.0", "follower.0", "follower.1"]


def test_both_hosts_come_to_the_same_run() -> None:
    said = Arguments(leader="10.0.0.1:5000")
    leader = plan_of(dataclasses.replace(said, role="leader")).job
    follower = plan_of(dataclasses.replace(said, role="follower", rank=1)).job
    assert (leader.run_id, leader.leader) == (follower.run_id, follower.leader)
    assert plan_of(dataclasses.replace(said, role="leader", run_id="mine")).job.run_id == "mine"


def test_tls_is_asked_for_by_the_originals_key() -> None:
    secure = config_of(enable_ssl=True)
    plan = plan_of(Arguments(role="leader"), secure)
    assert (plan.job.leader, plan.job.security, plan.job.key_dir) == ("tls://127.0.0.1:10087", "tls", "")
    assert plan.binds == (Endpoint("127.0.0.1", 10087),)
    assert any("TLS is without effect" in note for note in plan_of(Arguments(), secure).notes)


def test_a_part_tls_asks_for_it_too_and_does_not_go_with_a_flag_against_it() -> None:
    secure = msgspec.structs.replace(config_of(), tls=TlsFiles(ca="ca.pem", certificate="own.pem"))
    assert plan_of(Arguments(role="leader"), secure).job.security == "tls"
    with pytest.raises(ConfigError, match=r"--enable_ssl=False and TLS .* contradict"):
        plan_of(Arguments(role="leader", settings=("enable_ssl=False",)), secure)


def test_threads_meet_in_the_process() -> None:
    plan = plan_of(Arguments(in_process=True))
    assert (plan.job.leader, plan.job.security, plan.private_dir) == ("loopback://leader-0", "loopback", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (Arguments(role="follower"), "--role follower: which one. give --rank: 0 a, 1 b"),
        (Arguments(role="follower", rank=2), "--rank 2: the job has 2 of them, counted from 0"),
        (Arguments(role="leader", rank=1), "--rank 1: the job has 1 of them"),
        (Arguments(rank=1), "--rank 1: of which role"),
        (Arguments(role="leader", in_process=True), "--role leader with --in_process"),
        (Arguments(leader="10.9.9.9:1"), "which is not this machine: say which party starts here"),
        (Arguments(leader="10.0.0.1"), "--leader: '10.0.0.1' names no port"),
        (Arguments(faults="kill=follower:2@5s"), "there is no follower:2, the job has 2 of them"),
        (Arguments(faults="kill=worker:0@5s"), "there is no worker:0, the job has 0 of them"),
        (Arguments(faults="kill=leader@training"), "a leader does not see training"),
    ],
)
def test_what_is_refused(arguments: Arguments, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_of(arguments)


def test_refusals_that_the_config_decides() -> None:
    nowhere = config_of(http_server_address="")
    with pytest.raises(ConfigError, match="must be told where the leader listens; give --leader"):
        plan_of(Arguments(role="leader"), nowhere)
    with pytest.raises(ConfigError, match=r"--insecure and TLS .* contradict"):
        plan_of(Arguments(role="leader", insecure=True), config_of(enable_ssl=True))


def test_insecure_is_said_to_change_nothing_on_one_machine() -> None:
    assert any("--insecure is without effect" in note for note in plan_of(Arguments(insecure=True)).notes)


def test_a_plan_is_shown() -> None:
    text = describe(plan_of(Arguments(role="follower", rank=0, faults="kill=follower:0@step5")))
    for line in ("split, model wide_deep, parties leader, a, b", "faults    kill=follower:0@step5",
                 "3, of which 1 start here", "net       a.yaml of a", "binds nothing"):  # fmt: skip
        assert line in text


def test_parties_wait_for_one_that_may_be_started_again() -> None:
    network = plan_of(Arguments()).job.config.network
    plan = plan_of(Arguments(max_restarts=1))
    assert network.lease_s < network.start_timeout_s == plan.job.config.network.lease_s
    assert any("without runner.save_checkpoint_interval" in note for note in plan.notes)
