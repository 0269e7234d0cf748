"""Which roles a vertical job has, and what it does not have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flps.config import load
from flps.config.types import Config, Runner
from flps.errors import ConfigError
from flps.launch.arguments import Arguments, parse, with_environment
from flps.launch.federation import make_plan
from flps.launch.logs import log_name
from flps.launch.plan import Plan, Surroundings, describe
from flps.models.catalog import schemas

VERTICAL = Config(model="ctr_dnn", runner=Runner(train_data_dir="d", vertical=True, sync_mode="async"))
AROUND = Surroundings(
    config_path=Path("/jobs/x.yaml"),
    run_dir=Path("/log/run-1"),
    private_dir=Path("/run/flps-1"),
    key_dir=Path("/home/me/.flps/keys"),
    token="token",
    is_mine=lambda host: host == "10.0.0.1",
)
LISTS = Arguments(
    servers=("10.0.0.1:8070",),
    workers=("10.0.0.2:8080", "10.0.0.2:8081"),
    heter_workers=("10.0.0.1:8090", "10.0.0.1:8091"),
)


def plan_of(arguments: Arguments, config: Config = VERTICAL) -> Plan:
    return make_plan(arguments, config, AROUND)


def test_a_pair_meets_at_the_one_with_the_labels() -> None:
    plan = plan_of(Arguments(worker_num=2))
    assert [role.name for role in plan.local] == [
        "server.0",
        "heter_worker.0",
        "heter_worker.1",
        "worker.0",
        "worker.1",
    ]
    assert plan.job.pairs == ("ipc:///run/flps-1/pair-0", "ipc:///run/flps-1/pair-1")
    assert (plan.job.workers, plan.job.config.network.min_workers) == (4, 4)
    assert [plan.job.seat(role, 1) for role in ("worker", "heter_worker")] == [1, 3]
    assert plan.job.of_pair(1).seats == {"leader": 1, "follower": 1}
    assert plan.job.of_pair(0).run_id != plan.job.of_pair(1).run_id
    assert [log_name(role.role, role.rank) for role in plan.local[1:3]] == ["heterlog.0", "heterlog.1"]


def test_the_originals_lists() -> None:
    plan = plan_of(LISTS)
    assert plan.job.pairs == ("tcp://10.0.0.1:8090", "tcp://10.0.0.1:8091")
    assert [role.name for role in plan.local] == ["server.0", "heter_worker.0", "heter_worker.1"]
    assert [str(one) for one in plan.binds] == ["10.0.0.1:8070", "10.0.0.1:8090", "10.0.0.1:8091"]
    elsewhere = Runner(train_data_dir="e", vertical=True, sync_mode="async")
    other = plan_of(LISTS, Config(model="ctr_dnn", runner=elsewhere))
    assert other.job.run_id == plan.job.run_id  # each party's rows lie where they lie


def test_flags_and_environment() -> None:
    said = parse(["-m", "x.yaml", "--heter_worker_num=2", "--heter_workers=a:1,b:2", "--heter_devices=cpu"])
    assert (said.heter_worker_num, said.heter_workers) == (2, ("a:1", "b:2"))
    assert any("--heter_devices" in note for note in said.notes)
    environment = {"PADDLE_ALL_HETER_TRAINER_IP_PORT_LIST": "a:1,b:2", "TRAINING_ROLE": "HETER_TRAINER"}
    found, _ = with_environment(Arguments(), environment)
    assert (found.heter_workers, found.role) == (("a:1", "b:2"), "heter_worker")
    alone = dataclasses.replace(LISTS, role="heter_worker", rank=1)
    assert [role.name for role in plan_of(alone).local] == ["heter_worker.1"]
    assert "heter_worker.1" in describe(plan_of(alone))


@pytest.mark.parametrize(
    ("arguments", "config", "why"),
    [
        (Arguments(worker_num=2, heter_worker_num=1), VERTICAL, "2 workers and 1 heter_workers"),
        (
            Arguments(heter_worker_num=2, heter_workers=("a:1",)),
            VERTICAL,
            "--heter_worker_num=2, but --heter_workers lists 1",
        ),
        (Arguments(trainer="x.py"), VERTICAL, "a vertical job has none"),
        (Arguments(max_restarts=1), VERTICAL, "go on with --resume"),
        (Arguments(heter_worker_num=1), Config(runner=Runner(train_data_dir="d")), "only a vertical job"),
        (
            Arguments(role="heter_worker", servers=("a:1",)),
            Config(runner=Runner(train_data_dir="d")),
            "only a vertical job",
        ),
        (dataclasses.replace(LISTS, heter_workers=None), VERTICAL, "no --heter_workers says where"),
        (dataclasses.replace(LISTS, servers=("10.0.0.1:8090",)), VERTICAL, "in --servers and --heter_workers"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Arguments, config: Config, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plan_of(arguments, config)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("model: ctr_dnn\nrunner: {train_data_dir: d}", "set runner.vertical"),
        ("model: ctr_dnn\nrunner: {train_data_dir: d, vertical: true}", "expected sync or async"),
        ("runner: {train_data_dir: 'embedded:criteo_like'}", "the generated ones are embedded:movielens_like"),
        (
            "model: ctr_dnn\nrunner: {vertical: true, sync_mode: sync, train_data_dir: 'embedded:movielens_like'}",
            "the generated ones are embedded:criteo_like",
        ),
        (
            "model: ctr_dnn\nrunner: {vertical: true, sync_mode: sync, train_data_dir: d, local_sparse: [embedding]}",
            "runner.local_sparse: has no vertical form",
        ),
        (
            "model: ctr_dnn\nrunner: {vertical: 1, sync_mode: sync, train_data_dir: d, need_dump: 1, dump_fields: [x]}",
            "runner.need_dump: has no vertical form",
        ),
    ],
)
def test_keys_without_a_vertical_form(tmp_path: Path, lines: str, why: str) -> None:
    (tmp_path / "x.yaml").write_text(lines)
    with pytest.raises(ConfigError, match=why):
        load(tmp_path / "x.yaml", (), schemas())
