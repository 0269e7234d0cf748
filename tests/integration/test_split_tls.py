"""A split job over tls://: leader and follower as two commands on one machine, trained to the end or told why not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from flps.data.criteo_like import Shape, ensure
from flps.scripts import load_script

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
Authority = load_script(ROOT / "tests" / "unit" / "transport" / "tls" / "conftest.py").Authority
DEADLINE_S = 90.0
SMALL = "{epochs: 1, batch_size: 256, emb_dim: 4, deep_layer_dim: [8, 4], vocab_size: 4000, data_path: rows}"


class Ended(NamedTuple):
    """How a command ended: its exit code, what it said, and the log of its party."""

    code: int
    said: str
    log: str


class Stage:
    """A job's folder, an authority, and the commands that run in it."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "configs" / "wide_deep", folder, dirs_exist_ok=True)
        (folder / "rows").symlink_to(rows)
        self.authority: Any = Authority(folder)
        self.leader = self.authority.issue("leader", "127.0.0.1")
        self.follower = self.authority.issue("follower", password=b"open sesame", as_pkcs12=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.write()

    def write(self, start_s: float = 60.0, lease_s: float = 3.0, **tls: Any) -> None:
        """The job's yaml; `tls` changes what the follower believes and shows."""
        known = {"ca": "authority.pem", "certificate": self.follower.name, "password_variable": "SESAME", **tls}
        said = ", ".join(f"{key}: '{value}'" for key, value in known.items())
        text = (ROOT / "configs" / "wide_deep" / "job.yaml").read_text().partition("parties:")[0]
        (self.folder / "job.yaml").write_text(
            f"{text}\nnetwork: {{start_timeout_s: {start_s}, lease_s: {lease_s}, heartbeat_s: 0.2}}\n"
            f"hyper_parameters: {SMALL}\ntls: {{ca: authority.pem, certificate: {self.leader.name}, "
            f"crl: revoked.crl}}\nparties:\n  leader: {{nets: [leader_bottom.yaml, leader_top.yaml]}}\n"
            f"  followers:\n    - {{name: follower, nets: [follower_bottom.yaml], tls: {{{said}}}}}\n"
        )

    def start(self, role: str, *flags: str, job: str = "job.yaml") -> subprocess.Popen[str]:
        """One party's command."""
        command = [sys.executable, "-m", "flps.cli.flrun", "-m", job, "--role", role,
                   f"--leader=127.0.0.1:{self.port}", f"--log_dir={role}", *flags]  # fmt: skip
        known = {"FLPS_TEST_RUN": str(self.folder), "SESAME": "open sesame", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=self.folder, env=os.environ | known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, role: str, process: subprocess.Popen[str]) -> Ended:
        """Wait for a command."""
        said, _ = process.communicate(timeout=DEADLINE_S)
        log = self.folder / role / f"{role}log.0"
        return Ended(process.returncode, said, log.read_text() if log.exists() else "")

    def run(self) -> tuple[Ended, Ended]:
        """Both commands, to their ends."""
        leader, follower = self.start("leader"), self.start("follower")
        return self.finish("leader", leader), self.finish("follower", follower)

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLPS_TEST_RUN") == str(self.folder):
                    found.append(process)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("rows"), Shape(rows=3000))


@pytest.fixture
def stage(tmp_path: Path, rows: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, rows)
    yield made
    left = made.processes()
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"


def test_two_commands_train_to_the_end(stage: Stage) -> None:
    leader, follower = stage.run()
    assert (leader.code, follower.code) == (0, 0), leader.said + leader.log + follower.said + follower.log
    assert "links are guarded by tls" in leader.said
    assert re.search(r"epoch 0 .*wide_loss", leader.log) or "----evaluation----" in leader.log, leader.log
    kept = [path.read_text(errors="replace") for path in stage.folder.glob("*/run-*/*") if path.is_file()]
    assert kept
    assert not any("open sesame" in text for text in kept)


@pytest.mark.parametrize("where", ["command line", "variables"])
def test_the_originals_scripts_with_their_positional_arguments(stage: Stage, tmp_path: Path, where: str) -> None:
    """Two passwords and three files behind `True`, one party a command."""
    text = (stage.folder / "job.yaml").read_text()
    (stage.folder / "job.yaml").write_text(re.sub(r"\ntls: .*", "", re.sub(r", tls: \{.*?\}", "", text)))
    server = stage.authority.issue("server", "127.0.0.1", password=b"s3cret", as_pkcs12=True)
    wrapper = tmp_path / "bin" / "flrun"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m flps.cli.flrun "$@"\n')
    wrapper.chmod(0o755)
    secrets = {"FLPS_SERVER_PASSWORD": "s3cret", "FLPS_CLIENT_PASSWORD": "open sesame"}
    words = ["-", "-"] if where == "variables" else list(secrets.values())
    known = {"FLPS_TEST_RUN": str(stage.folder), "PYTHONPATH": str(ROOT), "VFL_CONFIG": "job.yaml"}
    known |= secrets if where == "variables" else {}
    known["PATH"] = os.pathsep.join([str(wrapper.parent), os.environ["PATH"]])
    address = f"127.0.0.1:{stage.port}"
    running = {}
    for role in ("leader", "follower"):
        command = [
            str(ROOT / "launch" / f"run_vfl_train_{role}.sh"), address, address, "rows", "True", *words, server.name,
            stage.follower.name, "authority.pem", f"--log_dir={role}",
        ]  # fmt: skip
        running[role] = subprocess.Popen(
            command, cwd=stage.folder, env=os.environ | known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
    ended = [stage.finish(role, started) for role, started in running.items()]
    assert [one.code for one in ended] == [0, 0], ended
    warned = "a password on the command line is everybody's to read"
    assert all((warned in one.said) == (where == "command line") for one in ended)
    assert "----evaluation----" in ended[0].log


def both(leader: Ended, follower: Ended) -> str:
    return f"{leader}\n{follower}".replace("\\n", "\n")


def test_followers_that_do_not_fit(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that believes another authority ends once it is sure; the leader waits on, and says who was there."""
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "stranger")
    stage.write(start_s=15.0, lease_s=2.0, ca=str(stranger.ca))
    text = (stage.folder / "job.yaml").read_text()
    plain = re.sub(r"tls: \{.*?\}", "", text).replace(", }", "}")
    (stage.folder / "plain.yaml").write_text(plain)
    began = time.monotonic()
    running = [
        stage.start("leader"),
        stage.start("follower"),
        stage.start("follower", "--log_dir=plain", job="plain.yaml"),
    ]
    leader, strange, unsealed = (
        stage.finish(role, one) for role, one in zip(("leader", "follower", "follower"), running, strict=True)
    )
    assert time.monotonic() - began < 60.0
    assert (leader.code, strange.code, unsealed.code) == (5, 2, 5), f"{both(leader, strange)}\n{unsealed}"
    assert "no connection to leader:0 at tls://127.0.0.1:" in strange.said
    assert "the other side's certificate is refused: its authority is not in `ca`" in strange.said
    assert "do both ends guard the link alike, by TLS or by keys?" in unsealed.said
    assert "follower did not come up within 15 s" in leader.said
    assert "was turned away: the other side does not " in leader.said
    assert "turned away 127.0.0.1" in leader.log
    assert "the other side does not know the authority of our certificate" in leader.log
    assert "the other side does not speak TLS" in leader.log


def test_a_certificate_that_is_revoked_while_the_job_runs(stage: Stage) -> None:
    leader, follower = stage.start("leader", "--epochs=1000"), stage.start("follower", "--epochs=1000")
    log = stage.folder / "leader" / "leaderlog.0"
    deadline = time.monotonic() + 40.0
    while not (log.exists() and "epoch 0" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    stage.authority.revoke(stage.follower)
    ends = stage.finish("leader", leader), stage.finish("follower", follower)
    assert [one.code for one in ends] == [4, 4], both(*ends)
    assert "follower gave no sign of life for 3 s" in ends[0].said
    assert "revoked" in ends[0].said
    assert "the other side says that our certificate is revoked" in ends[1].said
