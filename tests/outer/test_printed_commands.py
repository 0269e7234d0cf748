"""Every flrun command that the help and the pages print is one that flrun takes: each is planned by --dry_run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from flps.cli.flrun import run
from flps.launch.arguments import EXAMPLES

ROOT = Path(__file__).parents[2]
PAGES = ("docs/launching.md", "docs/index.md", "docs/split.md", "docs/vertical-ps.md")


def printed_commands() -> list[str]:
    texts = [EXAMPLES, *("\n".join(code_blocks(ROOT / page)) for page in PAGES)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith(("flrun ", ".venv/bin/flrun "))})


def code_blocks(page: Path) -> list[str]:
    return [str(block) for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]


def test_there_are_commands_to_check() -> None:
    assert len(printed_commands()) >= 12


@pytest.mark.parametrize("command", printed_commands())
def test_a_printed_command_is_planned(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ncf = (ROOT / "configs" / "ncf.yaml").read_text()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ncf.yaml").write_text(ncf)
    shutil.copy(ROOT / "configs" / "vertical_fl_ps.yaml", tmp_path / "configs")
    shutil.copytree(ROOT / "configs" / "wide_deep", tmp_path / "configs" / "wide_deep")
    (tmp_path / "x.yaml").write_text(ncf.replace("  with_coordinator: true\n", ""))
    (tmp_path / "trainer.py").touch()
    (tmp_path / "configs" / "wide_deep" / "tables").mkdir()
    for party in ("leader", "follower"):  # a table to be aligned, and a run that some command takes up
        (tmp_path / "configs" / "wide_deep" / "tables" / f"{party}.csv").touch()
        trained = tmp_path / "log" / "run-20260131-120000" / "output_model" / party
        trained.mkdir(parents=True)
        (trained / "net_step_1.safetensors").touch()
    _, *argv = shlex.split(os.path.expandvars(command), comments=True)
    if "--resume" in argv:  # all is well with it but that there is nothing to go on from
        assert run([*argv, "--dry_run"], {}) == 2
        assert "--resume: there is no run in" in capsys.readouterr().err
        argv.remove("--resume")
    hosts = re.findall(r"10\.0\.0\.\d", command)
    for host in sorted(set(hosts)) or [""]:
        assert run([*argv, "--dry_run"], {"POD_IP": host} if host else {}) == 0, capsys.readouterr().err
        assert "starts here" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs", "log", "trainer.py", "x.yaml"]
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["run-20260131-120000"]
