"""Files of a role: what can be used, and what is said about the rest."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.config.tls import TlsFiles
from flps.errors import ConfigError

Authority = Any  # see conftest.py


@pytest.mark.parametrize("as_pkcs12", [False, True])
@pytest.mark.parametrize("from_file", [False, True])
def test_passwords_come_from_a_file_or_a_variable(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_pkcs12: bool, from_file: bool
) -> None:
    path = authority.issue("localhost", password=b"sesame open", as_pkcs12=as_pkcs12)
    monkeypatch.setenv("THE_PASSWORD", "sesame open")
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text("sesame open\n")
    setting = {"password_file": str(tmp_path / "password")} if from_file else {"password_variable": "THE_PASSWORD"}
    identity = authority.identity(path, **setting)
    assert identity.server.verify_mode == ssl.CERT_REQUIRED
    assert identity.client.check_hostname
    assert identity.client.minimum_version == ssl.TLSVersion.TLSv1_2
    monkeypatch.setenv("THE_PASSWORD", "wrong")
    (tmp_path / "password").write_text("wrong\n")
    with pytest.raises(ConfigError, match="wrong password"):
        authority.identity(path, **setting)
    with pytest.raises(ConfigError, match="needs a password; set `password_file` or `password_variable`"):
        authority.identity(path)


def test_no_key_is_left_on_the_disk(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    authority.identity(crl=str(authority.crl))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ca": "none.pem"}, r"cannot read .*none\.pem: No such file"),
        ({"certificate": "none.pem"}, r"tls\.certificate: cannot read .*none\.pem: No such file"),
        ({"key": "none.pem"}, r"tls\.key: cannot read .*none\.pem: No such file"),
        ({"crl": "none.crl"}, r"cannot read .*none\.crl: No such file"),
        ({"password_file": "none"}, r"tls\.password_file: cannot read .*none: No such file"),
        ({"password_variable": "FLPS_NONE"}, r"the environment has no FLPS_NONE; set it"),
        ({"password_variable": "A", "password_file": "b"}, r"both set; keep one"),
        ({"ca": "rubbish"}, r"tls\.ca: .*rubbish holds no certificate"),
        ({"crl": "rubbish"}, r"tls\.crl: .*rubbish holds no revocation list"),
        ({"certificate": "rubbish"}, r"tls\.certificate: .*rubbish"),
        ({"key": "rubbish"}, r"tls\.key: .*rubbish"),
    ],
)
def test_files_that_cannot_be_used(authority: Authority, changes: dict[str, str], why: str) -> None:
    rubbish = authority.folder / "rubbish"
    rubbish.touch(mode=0o600)
    rubbish.write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match=why) as caught:
        authority.identity(**changes)
    assert "\n" not in str(caught.value)


def test_own_certificates_out_of_time(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"expired on \d+-\d+-\d+; renew it"):
        authority.identity(authority.issue("localhost", days=(-3, -1)))
    with pytest.raises(ConfigError, match=r"not valid before .* UTC; look at the clock"):
        authority.identity(authority.issue("localhost", days=(1, 3)))


def test_a_key_of_another_certificate(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="the key does not belong to the certificate"):
        authority.identity(authority.issue("localhost"), key=str(authority.issue("localhost")))


def test_a_key_that_others_can_read(authority: Authority) -> None:
    path = authority.issue("localhost")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others; `chmod 600"):
        authority.identity(path)


def test_lists_are_read_again_when_they_change(own_authority: Callable[..., Authority]) -> None:
    authority = own_authority()
    gone, stays = authority.issue("gone"), authority.issue("stays")
    identity = authority.identity(crl=str(authority.crl))
    before = identity.server
    assert not identity.refresh()
    authority.revoke(gone, as_der=True)
    assert identity.refresh()
    assert identity.server is not before
    der = {
        path: ssl.PEM_cert_to_DER_cert(path.read_text()[path.read_text().index("-----BEGIN CERT") :])
        for path in (gone, stays)
    }
    assert [identity.is_revoked(der[path]) for path in (gone, stays)] == [True, False]
    authority.crl.write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match="no revocation list"):
        identity.refresh()
    assert not identity.refresh()  # said once


def test_unknown_keys_and_versions_are_errors() -> None:
    with pytest.raises(msgspec.ValidationError, match="pasword"):
        msgspec.convert({"ca": "a", "certificate": "b", "pasword": "c"}, TlsFiles)
    with pytest.raises(msgspec.ValidationError, match=r"1\.1"):
        msgspec.convert({"ca": "a", "certificate": "b", "minimum_version": "1.1"}, TlsFiles)


def test_an_end_that_is_near_is_told(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    own = authority.issue("leader", days=(-1, 20))
    authority.identity(own, expiry_warning_days=19)
    assert caplog.text == ""
    authority.identity(own, expiry_warning_days=21)
    assert f"{own} expires on " in caplog.text
