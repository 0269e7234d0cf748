"""Flags by the kind of job, and the flags that are keys of a split job's hyper_parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from flps.errors import ConfigError
from flps.launch.arguments import Arguments, parse
from flps.launch.kind import FLAGS_OF, SETTINGS, taken
from flps.launch.kinds import Federation, Split, kind_asked


def yaml_of(folder: Path, kind: str) -> str:
    path = folder / "job.yaml"
    path.write_text(f"job: {kind}\n" if kind else "runner: {train_data_dir: d}\n")
    return str(path)


def test_keys_of_the_hyper_parameters_are_flags() -> None:
    arguments = parse(["-m", "x", "--batch-size=5", "--deep_layer_dim", "[6, 4]", "-o", "seed=2", "--epochs", "3"])
    assert arguments.settings == ("batch_size=5", "deep_layer_dim=[6, 4]", "epochs=3")
    assert arguments.overrides == ("seed=2",)
    assert arguments.trainer is None


def test_flruns_own_flags_keep_their_meaning() -> None:
    assert {"seed", "resume"}.isdisjoint(SETTINGS)
    arguments = parse(["-m", "x", "--seed=3", "--resume"])
    assert (arguments.seed, arguments.resume, arguments.settings) == (3, "", ())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch_size"], "--batch_size wants a value"),
        (["--batch_size", "--epochs=2"], "--batch_size wants a value"),
        (["--server_password=secret"], "put the password into the variable FLPS_SERVER_PASSWORD"),
    ],
)
def test_settings_that_cannot_be_taken(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        taken(words)
    assert "secret" not in str(caught.value)


def test_a_misspelt_setting_is_an_unknown_flag() -> None:
    with pytest.raises(ConfigError, match="unknown flag --batch_sise; did you mean --batch_size"):
        parse(["-m", "x", "--batch_sise=3"])


@pytest.mark.parametrize(
    ("kind", "argv", "says"),
    [
        ("split", ["--worker_num=3"], "job of the kind split, to which these do not belong: --worker_num .federation"),
        ("split", ["trainer.py", "-bf16"], "a trainer script .federation jobs., --pure_bf16 .federation jobs."),
        ("split", ["--role", "worker"], "--role worker .a split job has the roles leader, follower."),
        (
            "",
            ["--leader=a:1", "--epochs=3"],
            "--leader .split jobs., --epochs .split jobs; here a key is changed by -o.",
        ),
        (
            "federation",
            ["--role", "leader"],
            "a federation job has the roles server, worker, heter_worker, coordinator",
        ),
    ],
)
def test_a_flag_of_another_kind_is_an_error(kind: str, argv: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        kind_asked(parse(["-m", yaml_of(tmp_path, kind), *argv]))


def test_the_yaml_says_the_kind(tmp_path: Path) -> None:
    assert isinstance(kind_asked(parse(["-m", yaml_of(tmp_path, "")])), Federation)
    assert isinstance(kind_asked(parse(["-m", yaml_of(tmp_path, "split"), "--leader=a:1", "--epochs=3"])), Split)
    assert isinstance(kind_asked(parse(["-m", yaml_of(tmp_path, ""), "-o", "job=split"])), Split)
    assert isinstance(kind_asked(parse(["-m", yaml_of(tmp_path, "splt")])), Federation)  # which complains of it
    with pytest.raises(ConfigError, match=r"-m none\.yaml: there is no such file"):
        kind_asked(Arguments(config_yaml="none.yaml"))


def test_the_environment_of_a_federation_is_not_a_split_jobs() -> None:
    arguments = Arguments(config_yaml="x", notes=("n",))
    assert Split().with_environment(arguments, {"HOME": "/"}) == (arguments, ("n",))
    same, notes = Split().with_environment(arguments, {"TRAINING_ROLE": "TRAINER", "PADDLE_PORT": "1"})
    assert (same, notes[0]) == (arguments, "n")
    assert notes[1] == "PADDLE_PORT, TRAINING_ROLE of the environment are of federations and not used"


def test_every_flag_of_a_kind_is_an_argument() -> None:
    assert all(hasattr(Arguments(), name) for flags in FLAGS_OF.values() for name in flags)
