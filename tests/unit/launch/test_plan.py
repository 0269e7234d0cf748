"""Which roles a job has, where they are, and which of them start here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flps.config.types import Config, Network, Runner
from flps.errors import ConfigError
from flps.launch.arguments import Arguments
from flps.launch.federation import make_plan
from flps.launch.hosts import Endpoint
from flps.launch.plan import Plan, Surroundings, describe

CONFIG = Config(runner=Runner(train_data_dir="d"))
AROUND = Surroundings(
    config_path=Path("/jobs/x.yaml"),
    run_dir=Path("/log/run-1"),
    private_dir=Path("/run/flps-1"),
    key_dir=Path("/home/me/.flps/keys"),
    token="token",
    is_mine=lambda host: host == "10.0.0.1",
)
TWO_HOSTS = Arguments(
    servers=("10.0.0.1:8000",), coordinators=("10.0.0.1:8001",), workers=("10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:2")
)
LOOPBACK = Arguments(servers=("127.0.0.1:8000",), coordinators=("127.0.0.1:8001",), workers=("127.0.0.1:1",) * 2)


def plan_of(arguments: Arguments, config: Config = CONFIG, **around: object) -> Plan:
    return make_plan(arguments, config, dataclasses.replace(AROUND, **around))  # type: ignore[arg-type]


def with_runner(**keys: object) -> Config:
    return Config(runner=Runner(train_data_dir="d", **keys))  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [role.name for role in plan.local]


def test_one_machine_meets_at_unix_sockets() -> None:
    plan = plan_of(Arguments(worker_num=2, server_num=2, coordinator_num=1))
    assert plan.job.servers == ("ipc:///run/flps-1/server-0", "ipc:///run/flps-1/server-1")
    assert plan.job.coordinator == "ipc:///run/flps-1/coordinator-0"
    assert (plan.job.security, plan.job.key_dir, plan.private_dir) == ("unix", "", AROUND.private_dir)
    assert names(plan) == ["server.0", "server.1", "coordinator.0", "worker.0", "worker.1"]
    assert (plan.job.run_id, plan.job.config_dir, plan.binds) == ("token", "/jobs", ())


def test_without_a_coordinator_server_0_has_its_part() -> None:
    plan = plan_of(Arguments(worker_num=1))
    assert plan.job.coordinators == 0
    assert plan.job.coordinator == plan.job.servers[0]


@pytest.mark.parametrize(
    ("said", "yaml", "count", "noted"),
    [(None, None, 0, 0), (None, True, 1, 0), (None, False, 0, 0), (1, None, 1, 0), (1, False, 1, 1), (0, True, 0, 1)],
)
def test_yaml_and_command_line_on_the_coordinator(said: int | None, yaml: bool | None, count: int, noted: int) -> None:
    plan = plan_of(Arguments(coordinator_num=said), with_runner(with_coordinator=yaml))
    assert plan.job.coordinators == count
    assert sum("the command line wins" in note for note in plan.notes) == noted


def test_a_list_of_coordinators_means_one_without_its_number() -> None:
    assert plan_of(LOOPBACK, is_mine=lambda host: True).job.coordinators == 1


def test_loopback_lists_use_curve_with_keys_of_the_run() -> None:
    plan = plan_of(LOOPBACK, is_mine=lambda host: True)
    assert plan.job.servers == ("tcp://127.0.0.1:8000",)
    assert (plan.job.security, plan.job.key_dir, plan.makes_keys) == ("curve", "/run/flps-1/keys", True)
    assert plan.binds == (Endpoint("127.0.0.1", 8000), Endpoint("127.0.0.1", 8001))
    assert any("ports of --workers are accepted and unused" in note for note in plan.notes)


def test_a_key_folder_that_was_named_is_used_on_loopback_too() -> None:
    plan = plan_of(dataclasses.replace(LOOPBACK, key_dir="k"), is_mine=lambda host: True)
    assert (plan.job.key_dir, plan.makes_keys, plan.private_dir) == ("/home/me/.flps/keys", False, None)


def test_insecure_is_plain() -> None:
    plan = plan_of(dataclasses.replace(LOOPBACK, insecure=True), is_mine=lambda host: True)
    assert (plan.job.security, plan.private_dir) == ("plain", None)


def test_each_host_starts_its_own() -> None:
    first = plan_of(TWO_HOSTS)
    second = plan_of(dataclasses.replace(TWO_HOSTS, host="10.0.0.2"))
    assert names(first) == ["server.0", "coordinator.0", "worker.0"]
    assert names(second) == ["worker.1", "worker.2"]
    assert first.job == second.job  # the run id too
    assert first.job.run_id != "token"
    assert (first.job.security, first.job.key_dir) == ("curve", "/home/me/.flps/keys")
    assert second.binds == ()


def test_the_run_id_of_several_hosts_follows_what_they_share() -> None:
    base = plan_of(TWO_HOSTS).job.run_id
    assert plan_of(dataclasses.replace(TWO_HOSTS, run_id="second")).job.run_id != base
    assert plan_of(TWO_HOSTS, with_runner(epochs=9)).job.run_id != base
    assert plan_of(TWO_HOSTS, token="other", run_dir=Path("/elsewhere")).job.run_id == base


def test_a_role_alone() -> None:
    alone = dataclasses.replace(TWO_HOSTS, role="worker", rank=2)
    plan = plan_of(alone, is_mine=lambda host: False)
    assert names(plan) == ["worker.2"]
    assert plan.job == plan_of(TWO_HOSTS).job
    assert names(plan_of(dataclasses.replace(TWO_HOSTS, role="server"))) == ["server.0"]


def test_a_worker_alone_needs_no_list_of_workers() -> None:
    plan = plan_of(Arguments(servers=("a:1", "b:1"), worker_num=4, role="worker", rank=3))
    assert names(plan) == ["worker.3"]
    assert plan.job.workers == 4


def test_a_server_finds_its_rank_by_address_and_port() -> None:
    servers = ("10.0.0.1:1", "10.0.0.1:2")
    plan = plan_of(Arguments(servers=servers, worker_num=1, role="server", host="10.0.0.1", port=2))
    assert names(plan) == ["server.1"]


def test_a_pod_with_an_address_of_its_own_may_run_a_loopback_job() -> None:
    plan = plan_of(dataclasses.replace(LOOPBACK, host="10.1.2.3"), is_mine=lambda host: host == "127.0.0.1")
    assert plan.whole_job


def test_threads_meet_over_loopback() -> None:
    plan = plan_of(dataclasses.replace(LOOPBACK, in_process=True))
    assert (plan.job.security, plan.job.servers) == ("loopback", ("loopback://server-0",))
    assert (plan.whole_job, plan.private_dir) == (True, None)
    assert any("are unused" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (Arguments(coordinator_num=2), "2 coordinators were asked for"),
        (Arguments(coordinators=("a:1", "b:1"), servers=("a:2",)), "2 coordinators were asked for"),
        (Arguments(worker_num=10, workers=("a", "b")), "--worker_num=10, but --workers lists 2"),
        (Arguments(server_num=1, servers=("a:1", "b:1")), "--server_num=1, but --servers lists 2"),
        (Arguments(worker_num=0), "expected at least 1"),
        (Arguments(server_num=0), "expected at least 1"),
        (Arguments(coordinator_num=-1), "expected at least 0"),
        (Arguments(servers=("a",)), "'a' names no port"),
        (Arguments(servers=("a:0",)), "port 0"),
        (Arguments(servers=("a:70000",)), "port '70000'"),
        (Arguments(servers=(":80",)), "names no host"),
        (Arguments(servers=("a:1", "a:1")), "a:1 stands 2 times"),
        (Arguments(servers=("a:1",), coordinators=("a:1",)), "a:1 stands 2 times"),
        (Arguments(role="worker", rank=0), "must be told where the others are"),
        (Arguments(servers=("a:1",), worker_num=2, role="worker"), "give --rank"),
        (Arguments(servers=("a:1",), worker_num=2, role="worker", rank=2), "has 2 of them, counted from 0"),
        (Arguments(servers=("a:1",), worker_num=2, role="coordinator", rank=0), "has 0 of them"),
        (Arguments(servers=("a:1", "b:1"), worker_num=2), "--workers must say where"),
        (Arguments(servers=("a:1",), coordinator_num=1), "no --coordinators says where"),
        (Arguments(coordinators=("a:1",)), "no --servers says where"),
        (Arguments(workers=("a:1", "b:1")), "no --servers says where"),
        (Arguments(servers=("a:1",), workers=("b:1",)), "none of the listed hosts is this machine (a, b)"),
        (Arguments(servers=("10.0.0.1:1",), host="10.0.0.9"), "find your local ip: POD_IP (or --host) is 10.0.0.9"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(arguments: Arguments, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(arguments)
    assert says in str(caught.value)


def test_more_workers_wanted_alive_than_there_are() -> None:
    config = Config(runner=Runner(train_data_dir="d"), network=Network(min_workers=3))
    with pytest.raises(ConfigError, match="min_workers is 3, but the job has only 2"):
        plan_of(Arguments(worker_num=2), config)


def test_the_description_names_every_role() -> None:
    plan = plan_of(TWO_HOSTS)
    text = describe(plan)
    assert "roles     5, of which 3 start here" in text
    assert all(role.name in text for role in plan.roles)
    assert text.count("elsewhere") == 2
    assert "tcp://10.0.0.1:8001" in text
