"""A split job's yaml: every key, every complaint, and what is said in two places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.config import SplitConfig, kind_of, load_split
from flps.config.job import Job
from flps.config.split import Follower, Leader, Parties, Psi, SplitRunner, column_numbers
from flps.config.split_job import SplitJob, read_job
from flps.config.types import Config, Runner
from flps.errors import ConfigError
from flps.models.catalog import SPLIT
from flps.models.wide_deep.options import PRESETS

ROOT = Path(__file__).resolve().parents[3]

# key: (yaml of a good value, what it means, yaml of a bad value, what the complaint says)
RUNNER: dict[str, tuple[str, Any, str, str]] = {
    "print_interval": ("1", 1, "0", "expected an integer of at least 1, got 0"),
    "eval_interval": ("0", 0, "-1", "expected an integer of at least 0, got -1"),
    "thread_num": ("2", 2, "1.5", "expected an integer of at least 1, got 1.5"),
    "use_gpu": ("no", False, "gpu", "expected true or false, got 'gpu'"),
    "save_checkpoint_interval": ("100", 100, "-1", "expected an integer of at least 0, got -1"),
    "keep_checkpoint_max": ("2", 2, "0", "expected an integer of at least 1, got 0"),
    "micro_batches": ("4", 4, "0", "expected an integer of at least 1, got 0"),
    "checkpoint_path": ("/mnt/c", "/mnt/c", "''", "expected text that is not empty, got ''"),
    "model_save_path": ("out", "out", "''", "expected text that is not empty, got ''"),
}


def read(folder: Path, text: str, overrides: tuple[str, ...] = (), settings: tuple[str, ...] = ()) -> SplitConfig:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_split(path, overrides, settings, SPLIT)


def complaint(folder: Path, text: str, overrides: tuple[str, ...] = (), settings: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, overrides, settings)
    return str(caught.value).replace(f"{folder}/", "")


def test_every_key_of_the_runner_is_in_the_table() -> None:
    assert {*RUNNER, "task", "trained_models"} == set(SplitRunner.__struct_fields__)


TASKS = {
    "task: predict": "job.yaml:2: runner.trained_models: is missing: to predict wants the output_model folder of a run",
    "trained_models: x": "job.yaml:3: runner.trained_models: has no effect when nets are trained; `task` says evaluate "
    "or predict",
    "task: measure": "job.yaml:3: runner.task: expected one of evaluate, predict, train, got 'measure'",
}


@pytest.mark.parametrize("said", TASKS)
def test_a_task_and_its_nets_belong_together(said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, f"job: split\nrunner:\n  {said}\n") == TASKS[said]


def test_a_task_with_its_nets(tmp_path: Path) -> None:
    runner = read(tmp_path, "job: split\nrunner:\n  task: evaluate\n  trained_models: x\n").runner
    assert (runner.task, runner.trained_models) == ("evaluate", "x")


@pytest.mark.parametrize("key", RUNNER)
def test_a_key_of_the_runner(key: str, tmp_path: Path) -> None:
    good, meaning, bad, says = RUNNER[key]
    assert getattr(read(tmp_path, f"job: split\nrunner:\n  {key}: {good}\n").runner, key) == meaning
    assert complaint(tmp_path, f"job: split\nrunner:\n  {key}: {bad}\n") == f"job.yaml:3: runner.{key}: {says}"


def test_a_job_may_say_its_kind_only(tmp_path: Path) -> None:
    config = read(tmp_path, "job: split\n")
    assert config.parties.leader.nets == ("configs/wide_deep/leader_bottom.yaml", "configs/wide_deep/leader_top.yaml")
    assert [(one.name, one.nets) for one in config.parties.followers] == [
        ("follower", ("configs/wide_deep/follower_bottom.yaml",))
    ]
    assert (config.data, config.seed, config.epochs) == ("embedded:criteo_like", 0, 15)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_is_not_said(preset: str, tmp_path: Path) -> None:
    text = f"job: split\npreset: {preset}\nhyper_parameters: {{emb_dim: 5, epochs: 2}}\n"
    values = read(tmp_path, text).hyper_parameters
    wanted = msgspec.to_builtins(msgspec.structs.replace(PRESETS[preset], emb_dim=5, epochs=2))
    assert values == msgspec.json.decode(msgspec.json.encode(wanted))


def test_the_three_stage_form_has_nets_of_its_own(tmp_path: Path) -> None:
    parties = read(tmp_path, "job: split\nhyper_parameters: {simu_tee: True}\n").parties
    assert [Path(net).stem for net in parties.leader.nets] == ["leader_bottom_tee", "leader_tee", "leader_top_tee"]
    assert [Path(net).stem for net in parties.followers[0].nets] == ["follower_bottom_tee"]


def test_flags_win_over_overrides_and_these_over_the_file(tmp_path: Path) -> None:
    text = "job: split\nhyper_parameters: {batch_size: 1, epochs: 1}\n"
    over = ("hyper_parameters.batch_size=2", "hyper_parameters.epochs=2")
    values = read(tmp_path, text, over, ("batch_size=3",)).hyper_parameters
    assert (values["batch_size"], values["epochs"]) == (3, 2)


def test_every_complaint_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = """\
job: split
preset: smal
parties:
  leader: {columns: 0-5}
  followers:
    - {name: a b, columns: 5-7}
    - {columns: x}
hyper_parameters: {batch_sise: 3, data_path: x}
data: y
"""
    assert complaint(tmp_path, text, settings=("batch_size=0",)).splitlines() == [
        "7 things are wrong in the configuration:",
        "  job.yaml:2: preset: expected one of full, small, got 'smal'",
        "  job.yaml:7: parties.followers[1].name: is missing",
        "  job.yaml:8: hyper_parameters.batch_sise: there is no such key; did you mean hyper_parameters.batch_size?",
        "  --batch_size=0: hyper_parameters.batch_size: expected an integer of at least 1, got 0",
        "  job.yaml:9: data: 'y', but hyper_parameters.data_path is 'x' (job.yaml:8)",
        "  job.yaml:6: parties.followers[0].name: 'a b' is no word of letters, digits and _ that begins with a letter",
        "  job.yaml:6: parties.followers[0].columns: column 5 is leader's and a b's",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("parties: {followers: []}", "parties.followers: expected a list that is not empty"),
        ("parties: {followers: [{name: leader}]}", "name: 'leader' is another party's name already"),
        ("parties: {followers: [{name: a}, {name: a}]}", "followers[1].name: 'a' is another party's name already"),
        ("parties: {leader: {columns: 7-3}}", "parties.leader.columns: expected columns as 0-6,13-25, got '7-3'"),
        ("parties: {leader: {columns: 0-3}}", "followers[0].columns: is missing: other parties say theirs"),
        ("parties: {leader: {nets: [a.yaml, a.yaml]}}", "parties.leader.nets: names a.yaml 2 times"),
        ("parties: {leader: {input: a.csv}}", "has no effect without a part `psi`"),
        ("parties: {leader: {delimiter: ;}}", "has no effect without a part `psi`"),
        ("parties: {leder: {}}", "parties.leder: there is no such key; did you mean parties.leader?"),
        ("runner: {train_data_dir: x}", "runner.train_data_dir: there is no such key"),
        ("psi: {}", "psi.id_column: is missing"),
        ("psi: {id_column: id}", "parties.leader.columns: is missing: with `psi` say which columns"),
        ("psi: {id_column: id}\nparties: {leader: {columns: '0', data: d}}", "data: has no effect with a part `psi`"),
        ("psi: {id_column: id, train_share: 1}", "psi.train_share: expected a number above 0 and below 1, got 1"),
        (
            "psi: {id_column: id}\nrunner: {checkpoint_path: /elsewhere}",
            "runner.checkpoint_path: with `psi` it is a folder directly in the run's folder",
        ),
        ("psi: {id_column: id, cores: 0}", "psi.cores: expected an integer of at least 1, got 0"),
        (
            "psi: {id_column: id}\nparties: {leader: {columns: '0', input: 'postgresql://me:secret@h/d'}}",
            "parties.leader.input: a password does not belong here",
        ),
        ("model: wide_deap", "no model is called 'wide_deap'; did you mean wide_deep?"),
        ("model: mine.py:build", "parties.leader.nets: is missing: name the yaml of each net of leader"),
        ("seed: 1\nhyper_parameters: {seed: 2}", "seed: 1, but hyper_parameters.seed is 2"),
        ("hyper_parameters: {server_password: x}", "put it into the variable FLPS_SERVER_PASSWORD, or into a file"),
        ("hyper_parameters: {leader_field_size: 39}", "39 + follower_field_size 19 is more than field_size 39"),
        ("network: {lease_s: 0.5}", "a lease of 0.5 s ends before the next heartbeat"),
        ("network: {min_workers: 2}", "network.min_workers: has no effect in a split job"),
    ],
)
def test_what_is_refused(text: str, says: str, tmp_path: Path) -> None:
    assert says in complaint(tmp_path, f"job: split\n{text}\n")


def test_the_seed_and_the_rows_are_one_whoever_says_them(tmp_path: Path) -> None:
    for text in (
        "seed: 3\ndata: d",
        "hyper_parameters: {seed: 3, data_path: d}",
        "seed: 3\nhyper_parameters: {data_path: d}",
    ):
        config = read(tmp_path, f"job: split\n{text}\n")
        assert (config.seed, config.data) == (3, "d")
        assert (config.hyper_parameters["seed"], config.hyper_parameters["data_path"]) == (3, "d")


def test_a_model_of_ones_own_keeps_its_hyper_parameters(tmp_path: Path) -> None:
    text = """\
job: split
model: mine.py:build
parties: {leader: {nets: [a.yaml]}, followers: [{name: b, nets: [b.yaml]}]}
hyper_parameters: {anything: [1, 2]}
"""
    config = read(tmp_path, text)
    assert config.hyper_parameters == {"anything": [1, 2]}
    assert (config.chance, config.epochs, config.data) == (0, None, "")


def test_parties_are_found_by_role_and_rank() -> None:
    parties = Parties(leader=Leader(columns="0"), followers=(Follower(name="a"), Follower(name="b", columns="1")))
    config = SplitConfig(parties=parties, psi=Psi(id_column="oaid"))
    assert config.party("leader", 0).columns == "0"
    assert config.party("follower", 1).columns == "1"
    assert [config.name("leader", 0), config.name("follower", 1)] == ["leader", "b"]


@pytest.mark.parametrize("text", ["", "1-", "a", "1,,2", "3-1", "-1"])
def test_columns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected columns as"):
        column_numbers(text)


def test_columns() -> None:
    assert column_numbers("0-2, 7") == (0, 1, 2, 7)


def test_the_kind_is_what_the_file_or_an_override_says(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("job: split\n")
    assert kind_of(path) == "split"
    assert kind_of(path, ["job=federation"]) == "federation"
    path.write_text("runner: {}\n")
    assert kind_of(path) == "federation"
    assert kind_of(tmp_path / "none.yaml") == "federation"


def test_a_job_of_either_kind_is_read_back() -> None:
    split = SplitJob(run_id="r", run_dir="/r", config_dir="/c", config=SplitConfig(), leader="ipc://x", security="unix")
    federation = Job(run_id="r", run_dir="/r", config_dir="/c", config=Config(runner=Runner()), workers=1,
                     servers=("s",), coordinator="s", coordinators=0, security="unix")  # fmt: skip
    assert read_job(msgspec.json.encode(split)) == split
    assert read_job(msgspec.json.encode(federation)) == federation


def test_folders_of_a_run() -> None:
    job = SplitJob(run_id="r", run_dir="/r", config_dir="/c", config=SplitConfig(), leader="ipc://x", security="unix")
    assert str(job.checkpoints("follower", 0)) == "/r/checkpoint/follower"
    assert str(job.models("leader", 0)) == "/r/output_model/leader"
    assert job.earlier_checkpoints("leader", 0) is None
    later = msgspec.structs.replace(job, resume_from="/old/checkpoint")
    assert str(later.earlier_checkpoints("leader", 0)) == "/old/checkpoint/leader"
    assert (job.names, job.followers) == (("leader", "follower"), 1)


def test_the_job_in_configs() -> None:
    config = load_split(ROOT / "configs" / "wide_deep" / "job.yaml", models=SPLIT)
    leader, follower = config.parties.leader, config.parties.followers[0]
    assert (len(column_numbers(leader.columns)), len(column_numbers(follower.columns))) == (20, 19)
    assert sorted(column_numbers(leader.columns) + column_numbers(follower.columns)) == list(range(39))
    usual = msgspec.json.decode(msgspec.json.encode(PRESETS["full"]))
    files = {key: Path(path).name for key, path in usual.items() if key.endswith("_yaml_path")}
    assert config.hyper_parameters == usual | files
    assert (leader.nets, follower.nets) == (("leader_bottom.yaml", "leader_top.yaml"), ("follower_bottom.yaml",))


@pytest.mark.parametrize("setting", ["simu_tee=True", "leader_top_yaml_path=mine.yaml"])
def test_nets_that_are_named_twice(setting: str, tmp_path: Path) -> None:
    text = "job: split\nparties:\n  leader:\n    nets: [a.yaml]\n"
    assert "job.yaml:4: parties.leader.nets: names other nets than hyper_parameters does (configs/" in complaint(
        tmp_path, text, settings=(setting,)
    )
    assert read(tmp_path, text, settings=("leader_yaml_path=mine.yaml",)).parties.leader.nets == ("a.yaml",)


TLS = "{ca: ca.pem, certificate: own.pem}"


def test_certificates_of_the_job_and_of_a_party(tmp_path: Path) -> None:
    text = f"job: split\ntls: {TLS}\nparties: {{followers: [{{name: a}}, {{name: b, tls: {TLS[:-1]}, key: k}}}}]}}\n"
    config = read(tmp_path, text)
    assert config.certificates("leader", 0) == config.certificates("follower", 0) == config.tls
    files = config.certificates("follower", 1)
    assert files is not None
    assert (files.ca, files.certificate, files.key) == ("ca.pem", "own.pem", "k")
    assert config.is_tls
    assert not read(tmp_path, "job: split\n").is_tls
    assert read(tmp_path, "job: split\nhyper_parameters: {enable_ssl: True}\n").is_tls


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        ("{certificate: own.pem}", "tls.ca: is missing"),
        ("{ca: a, certificate: b, pasword_file: c}", "password_file"),
        ("{ca: a, certificate: b, password: c}", "there is no such key"),
        ("{ca: a, certificate: b, minimum_version: 1.1}", "tls.minimum_version: expected"),
    ],
)
def test_what_a_part_of_certificates_refuses(tls: str, says: str, tmp_path: Path) -> None:
    assert says in complaint(tmp_path, f"job: split\ntls: {tls}\n")


def test_certificates_are_said_once(tmp_path: Path) -> None:
    text = f"job: split\nparties: {{leader: {{tls: {TLS}}}}}\nhyper_parameters: {{ca_cert_path: x}}\n"
    assert complaint(tmp_path, text) == (
        "job.yaml:3: hyper_parameters.ca_cert_path: names a certificate, and so does parties.leader.tls; keep one of "
        "them"
    )
