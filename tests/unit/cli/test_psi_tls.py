"""`flps psi` over TLS: the flags name files, and two commands align their rows."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flps.cli.flps import run
from flps.cli.tls_flags import add_tls, tls_files
from flps.errors import ConfigError
from flps.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
Authority = load_script(ROOT / "tests" / "unit" / "transport" / "tls" / "conftest.py").Authority


@pytest.fixture
def authority(tmp_path: Path) -> Any:
    return Authority(tmp_path)


def read(*words: str) -> Any:
    parser = argparse.ArgumentParser()
    add_tls(parser)
    return tls_files(parser.parse_args(words))


def test_flags_become_files(authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = authority.issue("follower", password=b"open sesame", as_pkcs12=True)
    monkeypatch.setenv("SESAME", "open sesame")
    files = read(
        f"--tls_ca={authority.ca}", f"--tls-certificate={own}", "--tls-password-variable=SESAME",
        "--tls_peer_name=bank.example", "--tls_speakers=bank.example=leader:0", "--tls_speakers=shop=follower:*",
    )  # fmt: skip
    assert (files.ca, files.certificate, files.peer_name) == (str(authority.ca), str(own), "bank.example")
    assert files.speakers == {"bank.example": "leader:0", "shop": "follower:*"}
    assert read() is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tls_ca=CA"], "TLS wants --tls_certificate too"),
        (["--tls_peer_name=x"], "TLS wants --tls_ca and --tls_certificate too"),
        (["--tls_ca=CA", "--tls_certificate=OWN", "--tls_speakers=nobody"], "expected NAME=ROLE:RANK"),
        (["--tls_ca=CA", "--tls_certificate=none.pem"], "cannot read"),
        (["--tls_ca=CA", "--tls_certificate=OWN", "--tls_password_file=none"], "cannot read"),
    ],
)
def test_what_is_refused(words: list[str], says: str, authority: Any) -> None:
    own = authority.issue("leader", password=b"x")
    with pytest.raises(ConfigError, match=says):
        read(*(word.replace("=CA", f"={authority.ca}").replace("=OWN", f"={own}") for word in words))


def test_certificates_are_no_good_with_insecure(
    authority: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input", "a.csv", "--output", str(tmp_path / "o.csv"), "--address", "127.0.0.1:1", "--insecure"]
    files = [f"--tls_ca={authority.ca}", f"--tls_certificate={authority.issue('leader')}"]
    assert run(["psi", "--role", "leader", "--id_column", "id", *words, *files]) == 2
    assert "--insecure and certificates contradict" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("is_strange", [False, True])
def test_two_commands(is_strange: bool, authority: Any, tmp_path: Path, tmp_path_factory: Any) -> None:
    other = Authority(tmp_path_factory.mktemp("other")) if is_strange else authority
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "word").touch(mode=0o600)
    (tmp_path / "word").write_text("open sesame\n")
    parties = {}
    for role, authorities in (("leader", authority), ("follower", other)):
        own = authority.issue(role, "127.0.0.1", password=b"open sesame", as_pkcs12=True)
        rows = range(30) if role == "leader" else range(20, 50)
        (tmp_path / f"{role}.csv").write_text("id\n" + "".join(f"p{n}\n" for n in rows))
        words = [
            "--role", role, "--id_column", "id", "--input", f"{role}.csv", "--output", f"{role}.out.csv",
            "--address", address, "--cores", "1", "--start_timeout_s", "13", "--tls_ca", str(authorities.ca),
            "--tls_certificate", str(own), "--tls_password_file", "word",
        ]  # fmt: skip
        parties[role] = subprocess.Popen(
            [sys.executable, "-m", "flps.cli.flps", "psi", *words], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    said = {role: party.communicate(timeout=60)[0] for role, party in parties.items()}
    codes = {role: party.returncode for role, party in parties.items()}
    if is_strange:
        assert codes == {"leader": 5, "follower": 2}, said
        assert "the other side's certificate is refused: its authority" in said["follower"]
        assert "was turned away: the other side knows our authority by another key" in said["leader"]
    else:
        assert codes == {"leader": 0, "follower": 0}, said
        outputs = [(tmp_path / f"{role}.out.csv").read_text() for role in parties]
        assert outputs[0] == outputs[1]
        assert len(outputs[0].splitlines()) == 11
