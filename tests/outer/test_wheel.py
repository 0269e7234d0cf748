"""What a `pip install` brings: flps and nothing else, and it works apart from this folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAY_HELP = (
    "import sys, flps; from flps.cli.flrun import main; print(flps.__file__); sys.argv = ['flrun', '--help']; main()"
)


@pytest.mark.slow
def test_the_wheel_holds_flps_and_runs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "flps", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=source, timeout=100, check=True)
    (wheel,) = tmp_path.glob("flps-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flps"}
    assert "flps/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    answer = subprocess.run(
        [sys.executable, "-c", SAY_HELP],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(tmp_path / "installed") in answer.stdout
    assert "usage: flrun" in answer.stdout
