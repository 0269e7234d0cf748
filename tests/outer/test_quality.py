"""The README's figures of quality are those that were measured."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", ROOT / "benchmarks" / "quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_was_measured() -> None:
    figures = json.loads((ROOT / "benchmarks" / "quality.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for name, label in (("centralised", "one process"), ("geo/private", "ten zip-code clients, `geo`")):
        last = figures[name]["evaluations"][-1]
        shown = re.search(rf"\| {re.escape(label)}[^|]*\| ([\d.]+) \| ([\d.]+) \|", readme)
        assert shown is not None
        assert (float(shown[1]), float(shown[2])) == (round(last["hr"], 3), round(last["ndcg"], 3))


def test_the_federation_reaches_what_one_process_reaches() -> None:
    """The goal of the main job, on the figures in the repository."""
    figures = json.loads((ROOT / "benchmarks" / "quality.json").read_text())
    alone, federated = (figures[name]["evaluations"][-1] for name in ("centralised", "geo/private"))
    assert federated["hr"] >= 0.66
    assert federated["ndcg"] >= 0.39
    assert federated["hr"] >= alone["hr"] - 0.01
    assert federated["ndcg"] >= alone["ndcg"] - 0.01
    assert federated["warm"] == federated["users"] == 6040


def test_the_table_has_a_row_for_each_training(quality: ModuleType) -> None:
    figures = json.loads((ROOT / "benchmarks" / "quality.json").read_text())
    lines = [line for line in quality.table(figures).splitlines() if line.startswith("|")]
    assert len(lines) == 3 + len(figures)
    assert len({line.count("|") for line in lines}) == 1
    assert all(f"{figure['evaluations'][-1]['hr']:.4f}" in quality.table(figures) for figure in figures.values())


def test_split_training_reaches_what_centralised_training_reaches() -> None:
    """The goal on Criteo, and why to federate at all: on the figures in the repository."""
    figures = json.loads((ROOT / "benchmarks" / "split_quality.json").read_text())
    auc = {name: row["epochs"][-1]["auc"] for name, row in figures.items()}
    assert abs(auc["split"] - auc["centralised"]) <= 0.0005
    assert abs(auc["full, split"] - auc["full, centralised"]) <= 0.0005
    assert auc["split"] > auc["leader alone"] + 0.03
