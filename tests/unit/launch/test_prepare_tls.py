"""Certificates of the parties that start here: from a part `tls`, or in the original's words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flps.config import load_split
from flps.config.split_job import SplitJob
from flps.config.tls import TlsFiles
from flps.errors import ConfigError
from flps.launch.plan import Plan, Role
from flps.launch.prepare_parties import with_files
from flps.models.catalog import SPLIT
from flps.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
Authority = load_script(ROOT / "tests" / "unit" / "transport" / "tls" / "conftest.py").Authority
LEADER, FOLLOWER = Role("leader", 0, "h", "tls://h:1"), Role("follower", 0, "h")
PASSWORDS = [f"FLPS_{side}_PASSWORD{file}" for side in ("SERVER", "CLIENT") for file in ("", "_FILE")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs" / "wide_deep", tmp_path / "job")
    (tmp_path / "job" / "rows").mkdir()
    for name in PASSWORDS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "job"


@pytest.fixture
def authority(folder: Path) -> Any:
    """Its files lie in the job's folder: `authority.pem`, `revoked.crl`."""
    return Authority(folder)


def plan_of(folder: Path, local: tuple[Role, ...], *overrides: str) -> Plan[SplitJob]:
    config = load_split(folder / "job.yaml", ("hyper_parameters.data_path=rows", *overrides), (), SPLIT)
    job = SplitJob(run_id="r", run_dir="/r", config_dir=str(folder), config=config, leader="x", security="tls")
    return Plan(job, (LEADER, FOLLOWER), local)


def tls_of(folder: Path, local: tuple[Role, ...], *overrides: str) -> dict[str, TlsFiles]:
    return with_files(plan_of(folder, local, *overrides)).job.tls


def test_a_part_of_the_job_and_one_of_a_party(folder: Path, authority: Any) -> None:
    own, other = authority.issue("follower"), authority.issue("leader", password=b"x", as_pkcs12=True)
    (folder / "word.txt").touch(mode=0o600)
    (folder / "word.txt").write_text("x\n")
    said = (
        f"tls={{ca: authority.pem, certificate: {own.name}, crl: revoked.crl, peer_name: leader}}",
        f"parties.leader.tls={{ca: authority.pem, certificate: {other.name}, password_file: word.txt}}",
    )
    found = tls_of(folder, (LEADER, FOLLOWER), *said)
    assert found == {
        "leader": TlsFiles(ca=str(authority.ca), certificate=str(other), password_file=str(folder / "word.txt")),
        "follower": TlsFiles(
            ca=str(authority.ca), certificate=str(own), crl=str(folder / "revoked.crl"), peer_name="leader"
        ),
    }
    assert set(tls_of(folder, (FOLLOWER,), *said)) == {"follower"}  # the leader's are another host's affair


def test_terms_of_a_party_have_its_own(folder: Path, authority: Any) -> None:
    own = authority.issue("follower")
    job = with_files(plan_of(folder, (FOLLOWER,), f"tls={{ca: authority.pem, certificate: {own.name}}}")).job
    assert job.terms("follower", 0).tls == job.tls["follower"]
    assert job.terms("leader", 0).tls is None


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_originals_keys_and_a_password(
    how: str, folder: Path, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = authority.issue("follower", password=b"open sesame", as_pkcs12=True)
    said = (
        "hyper_parameters.enable_ssl=True",
        f"hyper_parameters.client_cert_path={own.name}",
        "hyper_parameters.ca_cert_path=authority.pem",
    )
    with pytest.raises(ConfigError, match=r"follower: tls.certificate: .* password"):
        tls_of(folder, (FOLLOWER,), *said)
    if how == "variable":
        monkeypatch.setenv("FLPS_CLIENT_PASSWORD", "open sesame")
    else:
        (folder / "word").touch(mode=0o600)
        (folder / "word").write_text("open sesame\n")
        monkeypatch.setenv("FLPS_CLIENT_PASSWORD_FILE", str(folder / "word"))
    files = tls_of(folder, (FOLLOWER,), *said)["follower"]
    assert (files.ca, files.certificate) == (str(authority.ca), str(own))
    assert "open sesame" not in str(files)
    assert files.password_variable == ("FLPS_CLIENT_PASSWORD" if how == "variable" else "")
    monkeypatch.setenv("FLPS_CLIENT_PASSWORD", "wrong")
    with pytest.raises(ConfigError, match="wrong password" if how == "variable" else "are both set; keep one"):
        tls_of(folder, (FOLLOWER,), *said)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("tls={ca: nothing.pem, certificate: OWN}", "tls.ca: there is no file "),
        ("tls={ca: authority.pem, certificate: OLD}", "leader: tls.certificate: .* expired on"),
        ("tls={ca: authority.pem, certificate: OWN, speakers: {a: 'x:y'}}", "leader: .*'x:y'|leader: .*y"),
        ("tls={ca: authority.pem, certificate: OWN, password_variable: FLPS_NO}", "the environment has no FLPS_NO"),
        ("parties.leader.tls={ca: authority.pem, certificate: no.p12}", "parties.leader.tls.certificate: there is no"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(said: str, complaint: str, folder: Path, authority: Any) -> None:
    own, old = authority.issue("leader"), authority.issue("leader", days=(-3, -1))
    with pytest.raises(ConfigError, match=complaint):
        tls_of(folder, (LEADER,), said.replace("OWN", own.name).replace("OLD", old.name))
