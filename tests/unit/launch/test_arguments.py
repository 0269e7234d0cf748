"""Command line and environment as one value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ConfigError
from flps.launch.arguments import HARMLESS, NOT_HERE, Arguments, parse, with_environment

SEED_COMMAND = [
    "--worker_num=10",
    "--workers=127.0.0.1:9000,127.0.0.1:9001",
    "--server_num=1",
    "--servers=127.0.0.1:10000",
    "--coordinator_num=1",
    "--coordinators=127.0.0.1:10001",
    "trainer.py",
    "-m",
    "config_fl.yaml",
]


def test_the_seeds_command_is_read() -> None:
    assert parse(SEED_COMMAND) == Arguments(
        config_yaml="config_fl.yaml",
        trainer="trainer.py",
        worker_num=10,
        server_num=1,
        coordinator_num=1,
        workers=("127.0.0.1:9000", "127.0.0.1:9001"),
        servers=("127.0.0.1:10000",),
        coordinators=("127.0.0.1:10001",),
    )


@pytest.mark.parametrize("place", range(4))
def test_the_trainer_script_may_stand_anywhere(place: int) -> None:
    argv = ["-m", "x.yaml", "--worker_num=2", "--insecure"]
    argv.insert(place + (place == 1), "mine.py")
    arguments = parse(argv)
    assert arguments.trainer == "mine.py"
    assert arguments.worker_num == 2


@given(st.sampled_from(["worker_num", "server_num", "coordinator_num", "rank", "seed"]), st.integers(0, 10**6))
def test_dashes_and_underscores_are_the_same(flag: str, value: int) -> None:
    with_equals = parse(["-m", "x", f"--{flag.replace('_', '-')}={value}"])
    with_space = parse(["-m", "x", f"--{flag}", str(value)])
    assert with_equals == with_space
    assert getattr(with_equals, flag) == value


def test_a_value_keeps_its_dashes() -> None:
    assert parse(["-m", "x", "--log-dir=my-logs", "-o", "a-b=c-d"]).log_dir == "my-logs"
    assert parse(["-m", "x", "-o", "a=1", "-o", "b=--c"]).overrides == ("a=1", "b=--c")


def test_the_originals_other_names() -> None:
    arguments = parse(["-m", "x", "--trainer_num=3", "--trainers=a,b,c", "--job_id=7", "--run_mode=ps", "-bf16"])
    assert (arguments.worker_num, arguments.workers, arguments.run_id) == (3, ("a", "b", "c"), "7")
    assert arguments.pure_bf16


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-m", "x", "--worker_nun=3"], "did you mean --worker_num"),
        (["-m", "x", "--servres", "a:1"], "did you mean --servers"),
        (["-m", "x", "--zzzzzz"], "see flrun --help"),
        (["-m", "x", "--workload=1"], "unknown flag --workload; see"),  # no hint is better than a far one
        (["-m", "x", "--nnodes=2"], "hosts are not counted but named"),
        (["--worker_num=3"], "-m/--config_yaml"),
        (["-m", "x", "--worker_num=many"], "invalid int value: 'many'"),
        (["-m", "x", "a.py", "b.py"], "one trainer script, got 2"),
        (["-m", "x", "--role", "boss"], "boss"),
        (["-m", "x", "--run_mode=collective"], "the only mode is ps"),
        (["-m", "x", "--work=3"], "unknown flag --work"),  # no guessing of shortened flags
        *((["-m", "x", f"--{flag}=1"], f"--{flag}: {why}") for flag, why in NOT_HERE.items()),
    ],
)
def test_what_cannot_be_read_is_refused(argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    assert says in str(caught.value)


def test_the_environment_fills_what_was_left_open() -> None:
    environment = {
        "PADDLE_PSERVERS_IP_PORT_LIST": "10.0.0.1:8000,10.0.0.2:8000",
        "PADDLE_TRAINER_ENDPOINTS": "10.0.0.3:1;10.0.0.4:1",
        "PADDLE_COORDINATOR_ENDPOINTS": "10.0.0.1:9000",
        "PADDLE_TRAINERS_NUM": "2",
        "TRAINING_ROLE": "TRAINER",
        "PADDLE_TRAINER_ID": "1",
        "POD_IP": "10.0.0.4",
        "PADDLE_PORT": "1",
        "HOME": "/root",
    }
    arguments, notes = with_environment(Arguments(config_yaml="x"), environment)
    assert arguments == Arguments(
        config_yaml="x",
        servers=("10.0.0.1:8000", "10.0.0.2:8000"),
        workers=("10.0.0.3:1", "10.0.0.4:1"),
        coordinators=("10.0.0.1:9000",),
        worker_num=2,
        role="worker",
        rank=1,
        host="10.0.0.4",
        port=1,
    )
    assert len(notes) == 8
    assert "role comes from the environment: TRAINING_ROLE=TRAINER" in notes


def test_the_command_line_wins_and_that_is_said() -> None:
    said = Arguments(config_yaml="x", workers=("a:1", "b:1"), role="server")
    environment = {"PADDLE_TRAINERS_NUM": "10", "TRAINING_ROLE": "COORDINATOR"}
    arguments, notes = with_environment(said, environment)
    assert arguments == said
    assert all("not used: the command line says otherwise" in note for note in notes)
    assert len(notes) == 2


@pytest.mark.parametrize(("variable", "value"), [("TRAINING_ROLE", "SWITCH"), ("PADDLE_TRAINER_ID", "one")])
def test_a_variable_that_cannot_be_read_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}='{value}'"):
        with_environment(Arguments(), {variable: value})


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "flrun -m configs/ncf.yaml --worker_num=10" in shown
    assert "exit codes: 0 done" in shown


def test_harmless_flags_of_the_original_are_taken_with_a_note() -> None:
    values = dict.fromkeys(HARMLESS, "1")
    arguments = parse(["-m", "x", *(f"--{name}={value}" for name, value in values.items())])
    _, notes = with_environment(arguments, {})
    assert [note.partition(" ")[0] for note in notes] == [f"--{name}" for name in HARMLESS]
    assert all("accepted and unused" in note for note in notes)
