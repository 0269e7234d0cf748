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
    run_main_job(tmp_path, {"PYTHONPATH": str(tmp_path / "installed"), "FLPS_CACHE_DIR": str(tmp_path / "cache")})


def run_main_job(folder: Path, environment: dict[str, str]) -> None:
    """The README's job, with fewer and larger steps, from the unpacked wheel alone."""
    command = [sys.executable, "-m", "flps.cli.flrun", "--worker_num=2", "--server_num=1", "--coordinator_num=1"]
    settings = ["runner.epochs=1", "runner.train_batch_size=8192", "evaluation.full=false"]
    (folder / "ncf.yaml").write_bytes((ROOT / "configs" / "ncf.yaml").read_bytes())
    ran = subprocess.run(
        [*command, "-m", "ncf.yaml", *(word for setting in settings for word in ("-o", setting))],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert "private rows warm 6040/6040" in ran.stdout
    assert (folder / "log" / "workerlog.1").exists()
