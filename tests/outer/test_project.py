"""What the project says of itself in several places is said the same way in each."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import flps
from flps import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAIN_JOB = "flrun --worker_num=10 --server_num=1 --coordinator_num=1 -m configs/ncf.yaml"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def plain_name(requirement: str) -> str:
    """`flps[plot]>=1 ; extra == "x"` -> `flps`, written as package indexes compare names."""
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def test_one_version() -> None:
    assert metadata.version("flps") == flps.__version__


def test_every_dependency_is_pinned() -> None:
    pinned = {plain_name(line) for line in text("constraints.txt").splitlines() if "==" in line}
    wanted = {plain_name(requirement) for requirement in metadata.requires("flps") or ()}
    assert wanted - {"flps"} <= pinned


def test_make_run_is_the_readmes_command() -> None:
    told = subprocess.run(
        ["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert MAIN_JOB in told
    assert MAIN_JOB in text("README.md")
    assert MAIN_JOB in text("docs/index.md")


def test_the_gate_calls_targets_that_exist() -> None:
    gate = re.search(r"for target in ([\w -]+);", text(".ci/run"))
    assert gate
    assert gate[1].split() == ["test", "test-slow", "lint", "types", "floors", "docs", "audit"]
    for target in gate[1].split():
        assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE)


@pytest.mark.parametrize("failing", ["", "test", "types"])
def test_the_gate_fails_when_one_part_fails_and_runs_the_others(failing: str, tmp_path: Path) -> None:
    gate = tmp_path / ".ci" / "run"
    gate.parent.mkdir()
    gate.write_text(text(".ci/run"), encoding="utf-8")
    targets = "".join(
        f"{target}:\n\t@{'false' if target == failing else f'echo ran {target}'}\n"
        for target in ("test", "test-slow", "lint", "types", "floors", "docs", "audit")
    )
    (tmp_path / "Makefile").write_text(targets, encoding="utf-8")
    answer = subprocess.run(["bash", str(gate)], capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == (1 if failing else 0)
    assert answer.stdout.count("ran ") == (6 if failing else 7)
    assert (f"failed: {failing}" in answer.stdout) is bool(failing)


def test_the_licence_is_the_whole_of_it() -> None:
    licence = text("LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert metadata.metadata("flps")["License-Expression"] == "Apache-2.0"


def test_each_exit_code_has_its_section() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FlpsError)]
    codes = {errors.EXIT_DONE, errors.EXIT_WITH_LOSSES, errors.EXIT_INTERRUPTED, *(kind.exit_code for kind in kinds)}
    sections = {int(code) for code in re.findall(r"^## (\d+): ", text("docs/exit-codes.md"), re.MULTILINE)}
    assert sections == codes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
