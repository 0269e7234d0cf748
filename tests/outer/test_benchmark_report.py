"""RESULTS.md: a section is replaced in its place, the others stay."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "report.py"


@pytest.fixture
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_report", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_are_added_and_replaced(report: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    report.update_section("data", "first", path)
    report.update_section("table", "other", path)
    before = path.read_text()
    report.update_section("data", r"second \1 \n", path)
    text = path.read_text()
    assert "first" not in text
    assert text.index("second \\1 \\n") < text.index("other")
    assert text.count("<!-- data -->") == text.count("<!-- /data -->") == 1
    assert text.startswith("# Results")
    report.update_section("data", "first", path)
    assert path.read_text() == before


def test_the_machine_is_told(report: ModuleType) -> None:
    assert "cores" in report.machine()
    assert "torch" in report.machine()
