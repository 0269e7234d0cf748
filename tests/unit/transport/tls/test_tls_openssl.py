"""What docs/security.md says about certificates, as it stands there: made by openssl, used by two parties."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import yaml

from flps.config.tls import TlsFiles
from flps.config.types import Network
from flps.errors import FlpsError
from flps.split.communicator import ServerConfig, VerticalFederatedCommunicator

PAGE = Path(__file__).resolve().parents[4] / "docs" / "security.md"
NETWORK = Network(heartbeat_s=0.1, retry_s=0.2, lease_s=1.0, start_timeout_s=10.0)
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


def blocks(kind: str) -> list[str]:
    """The blocks of the section."""
    (section,) = re.findall(r"### Certificates for a split job\n(.*?)\n### ", PAGE.read_text(), re.S)
    return re.findall(rf"```{kind}\n(.*?)```", section, re.S)


def shell(folder: Path, text: str) -> None:
    done = subprocess.run(["sh", "-eu", "-c", text], cwd=folder, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def party(name: str, other: str, address: str, files: Any) -> VerticalFederatedCommunicator:
    both = ServerConfig(name, address), ServerConfig(other, address)
    return VerticalFederatedCommunicator(*both, True, files, network=NETWORK, timeout_s=10.0)


def test_the_commands_and_the_yaml_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLPS_CLIENT_PASSWORD", "open sesame")
    monkeypatch.chdir(tmp_path)
    commands, _ = blocks("bash")
    shell(tmp_path, commands)
    files = [msgspec.convert(yaml.safe_load(text)["tls"], TlsFiles) for text in blocks("yaml")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    leader, follower = party("leader", "follower", address, files[0]), party("follower", "leader", address, files[1])
    with follower, leader:
        follower.send_tensors("leader", {"x": torch.arange(3)})
        assert leader.receive("follower")["x"].tolist() == [0, 1, 2]
        (revoke,) = re.findall(r"`(openssl ca .*? -revoke .*?)`", PAGE.read_text())
        (again,) = [line for line in commands.splitlines() if "-gencrl" in line]
        shell(tmp_path, f"{revoke}\n{again}")
        with pytest.raises(FlpsError, match="our certificate is revoked"):
            follower.receive("leader")
