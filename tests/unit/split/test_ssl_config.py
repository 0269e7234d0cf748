"""Certificates in the original's words: which files a party uses, and where its password is."""

from __future__ import annotations

import pytest

from flps.config.tls import TlsFiles
from flps.errors import ConfigError
from flps.split.parties import SSLConfig

PATHS = ("server.p12", "client.p12", "ca.pem")


@pytest.fixture(autouse=True)
def no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for side in ("SERVER", "CLIENT"):
        for kind in ("", "_FILE"):
            monkeypatch.delenv(f"FLPS_{side}_PASSWORD{kind}", raising=False)


@pytest.mark.parametrize(("role", "own", "password"), [("leader", "server", b"s"), ("follower", "client", b"c")])
def test_each_party_has_its_own(role: str, own: str, password: bytes) -> None:
    said = SSLConfig("s", "c", *PATHS, "list.crl")
    assert said.password(role) == password
    assert said.files(role) == TlsFiles(ca="ca.pem", certificate=f"{own}.p12", crl="list.crl", expiry_warning_days=90)


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_password_elsewhere(nothing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SSLConfig(nothing, nothing, *PATHS)
    assert said.password("leader") is None
    assert said.files("leader").password_variable == said.files("leader").password_file == ""
    monkeypatch.setenv("FLPS_SERVER_PASSWORD", "s")
    assert said.files("leader").password_variable == "FLPS_SERVER_PASSWORD"
    assert said.files("follower").password_variable == ""
    monkeypatch.setenv("FLPS_CLIENT_PASSWORD_FILE", "/w")
    assert said.files("follower").password_file == "/w"
    monkeypatch.setenv("FLPS_CLIENT_PASSWORD", "c")
    with pytest.raises(ConfigError, match="FLPS_CLIENT_PASSWORD and FLPS_CLIENT_PASSWORD_FILE are both set"):
        said.files("follower")
    assert SSLConfig("s", "c", *PATHS).files("follower").password_file == ""  # what the script says goes first


def test_a_path_that_is_missing() -> None:
    with pytest.raises(ConfigError, match="server_cert_path, ca_cert_path: is missing; the leader shows the server's"):
        SSLConfig("s", "c", None, "client.p12").files("leader")
    assert SSLConfig(None, "c", None, *PATHS[1:]).files("follower").certificate == "client.p12"
