"""`.ci/audit.py`: what it finds, and that it fails for no lack of a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("flps_audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_of_ours_is_bounded_and_pinned(audit: Any) -> None:
    wanted, pinned = audit.requirements(ROOT / "pyproject.toml"), audit.pins(ROOT / "constraints.txt")
    assert "torch" in {one.name for one in wanted}
    assert list(audit.unbounded(wanted, pinned)) == []


@pytest.mark.parametrize(
    ("wanted", "pinned", "why"),
    [
        ("torch>=2", "", "torch is not pinned"),
        ("torch", "torch==2.4", "torch has no least version"),
        ("torch>=2.4", "torch>=2.4", "does not pin torch to one version"),
        ("torch>=2.4", "torch==2.3", "pins torch==2.3, pyproject.toml wants torch>=2.4"),
    ],
)
def test_what_is_unbounded_is_found(wanted: str, pinned: str, why: str, audit: Any) -> None:
    pins = {one.name: one for one in map(Requirement, filter(None, [pinned]))}
    assert any(why in line for line in audit.unbounded([Requirement(wanted)], pins))


def test_another_version_is_found(audit: Any) -> None:
    pins = {"torch": Requirement("torch==2.4"), "old": Requirement('old==1 ; python_version < "3"')}
    assert list(audit.other_versions(pins, {"torch": "2.4+cpu", "old": "2"})) == []
    assert list(audit.other_versions(pins, {"torch": "2.5"})) == ["torch 2.5 is installed, constraints.txt wants ==2.4"]


def test_a_changed_file_is_found(audit: Any, tmp_path: Path) -> None:
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "x-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\n")
    digest = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"  # of `abc`
    (tmp_path / "x-1.dist-info" / "RECORD").write_text(f"x.py,sha256={digest},3\ny.py,sha256={digest},3\n")
    (tmp_path / "x.py").write_text("abc")
    (tmp_path / "y.py").write_text("abd")
    found = list(audit.changed_files(metadata.Distribution.at(tmp_path / "x-1.dist-info")))
    assert found == ["x: y.py was changed after it was installed"]
    (tmp_path / "y.py").unlink()
    assert list(audit.changed_files(metadata.Distribution.at(tmp_path / "x-1.dist-info"))) == ["x: y.py is missing"]


@pytest.mark.slow
def test_without_a_network_it_says_so_and_does_not_fail_for_it() -> None:
    code = "import sys, runpy, urllib.request as u\ndef no(*a, **k): raise OSError('no network')\nu.urlopen = no\n"
    code += f"sys.argv = ['audit.py']; runpy.run_path({str(ROOT / '.ci' / 'audit.py')!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert "skipped: no advisory database reachable (no network)" in ended.stdout
    assert ended.returncode == int("wrong:" in ended.stderr)


def test_a_known_vulnerability_is_named(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, *_: object) -> bytes:
            return b'{"results": [{}, {"vulns": [{"id": "CVE-1"}]}]}'

    monkeypatch.setattr(audit.urllib.request, "urlopen", lambda *_, **__: Answer())
    assert list(audit.vulnerabilities({"b": "2+cpu", "a": "1"})) == ["b 2+cpu: CVE-1"]
