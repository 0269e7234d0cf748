"""launch/run_vfl_train_*.sh: the seed's positional arguments become flags of flrun; passwords become variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN, OTHER, ROWS = "127.0.0.1:10087", "127.0.0.1:10086", "/path/to/data_set"
TLS = ("True", "s3cret", "cl1ent", "server.p12", "client.p12", "ca.pem")
BOTH = pytest.mark.parametrize("role", ["leader", "follower"])


@pytest.fixture
def flrun(tmp_path: Path) -> Path:
    """A folder whose `flrun` says what it was told, a word a line, then the passwords that it found."""
    told = tmp_path / "bin" / "flrun"
    told.parent.mkdir()
    told.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@"\n'
        'echo "server=${FLPS_SERVER_PASSWORD-none} client=${FLPS_CLIENT_PASSWORD-none} role=${VFL_ROLE-none}"\nexit 7\n'
    )
    told.chmod(0o755)
    return tmp_path


def run(flrun: Path, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(flrun / "bin"), os.environ["PATH"]])
    return subprocess.run(
        [str(ROOT / "launch" / script), *words], cwd=flrun, env={**os.environ, "PATH": path, **environment},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


@BOTH
def test_the_seeds_command(role: str, flrun: Path) -> None:
    done = run(flrun, f"run_vfl_train_{role}.sh", OWN, OTHER, ROWS, "False", "-o", "preset=small")
    assert (done.returncode, done.stderr) == (7, "")  # flrun's own code
    assert done.stdout.splitlines() == [
        "-m", str(ROOT / "configs" / "wide_deep" / "job.yaml"), "--role", role, f"--http_server_address={OWN}",
        f"--remote_server_address={OTHER}", f"--data_path={ROWS}", "--enable_ssl=False", "-o", "preset=small",
        "server=none client=none role=none",
    ]  # fmt: skip


@BOTH
def test_passwords_leave_the_command_line(role: str, flrun: Path) -> None:
    done = run(flrun, f"run_vfl_train_{role}.sh", OWN, OTHER, ROWS, *TLS, "--rank=0")
    *words, found = done.stdout.splitlines()
    assert found == "server=s3cret client=cl1ent role=none"
    assert not any("s3cret" in word or "cl1ent" in word for word in words)
    assert words[-5:] == [
        "--enable_ssl=True", "--server_cert_path=server.p12", "--client_cert_path=client.p12", "--ca_cert_path=ca.pem",
        "--rank=0",
    ]  # fmt: skip
    assert done.stderr.count("warning: a password on the command line is everybody's to read") == 2
    assert "s3cret" not in done.stderr


def test_a_password_may_stand_in_a_variable(flrun: Path) -> None:
    words = (OWN, OTHER, ROWS, "True", "-", "-", *TLS[3:])
    done = run(flrun, "run_vfl_train_leader.sh", *words, FLPS_SERVER_PASSWORD="a b", FLPS_CLIENT_PASSWORD="c")
    assert done.stdout.splitlines()[-1] == "server=a b client=c role=none"
    assert done.stderr == ""


@BOTH
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "0 arguments"),
        ((OWN, OTHER, ROWS), "3 arguments"),
        ((OWN, OTHER, ROWS, "maybe"), "the fourth argument is 'maybe', not True or False"),
        ((OWN, OTHER, ROWS, "True", "pw"), "TLS wants two passwords and three certificates, got 1 arguments"),
        ((OWN, OTHER, ROWS, "False", "pw"), "certificates belong to True"),
    ],
)
def test_what_is_wrong_is_usage(role: str, words: tuple[str, ...], says: str, flrun: Path) -> None:
    done = run(flrun, f"run_vfl_train_{role}.sh", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert f"expected: run_vfl_train_{role}.sh OWN_HOST:PORT" in done.stderr


def test_spaces_and_another_yaml(flrun: Path) -> None:
    done = run(flrun, "run_vfl_train_leader.sh", OWN, OTHER, "/with a space", "False", VFL_CONFIG="/my jobs/x.yaml")
    assert "--data_path=/with a space" in done.stdout.splitlines()
    assert done.stdout.splitlines()[1] == "/my jobs/x.yaml"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), []),
        (("/rows",), ["--data_path=/rows"]),
        (("/rows", "--epochs=1"), ["--data_path=/rows", "--epochs=1"]),
        (("-o", "preset=small"), ["-o", "preset=small"]),
    ],
)
def test_both_parties_in_one_process(words: tuple[str, ...], told: list[str], flrun: Path) -> None:
    done = run(flrun, "run_vfl_train_local.sh", *words)
    assert done.returncode == 7
    assert done.stdout.splitlines()[:-1] == [
        "-m", str(ROOT / "configs" / "wide_deep" / "job.yaml"), "--in_process", *told
    ]  # fmt: skip
