"""The heterogeneity card against plain formulas."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

from flps.data.card import describe, js_divergence, save_card, total_variation

COUNTS = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0]])


def card() -> dict[str, object]:
    return describe(COUNTS, np.array([20, 20, 0]), np.array([2, 3, 0]), np.array([2, 3, 0]))


def test_numbers_of_the_card() -> None:
    made = card()
    first, second, empty = made["clients"]  # type: ignore[misc]
    assert (first["positives"], first["items"], first["label_rate"]) == (4, 2, 0.2)
    assert made["overlap"][0][1] == pytest.approx(1 / 3, abs=1e-6)  # type: ignore[index]
    assert first["mean_overlap"] == pytest.approx(1 / 6, abs=1e-6)
    assert second["tv_distance"] == pytest.approx((3 / 8 + 1 / 8 + 2 / 8) / 2, abs=1e-6)
    assert (empty["label_rate"], empty["js_distance"], empty["tv_distance"]) == (0, 0, 0)
    json.dumps(made)


def test_js_divergence_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.integers(0, 9, (2, 12)) + np.eye(2, 12, dtype=int)
        assert js_divergence(p, q) == pytest.approx(jensenshannon(p, q, 2) ** 2, abs=1e-12)
    assert js_divergence(np.array([1, 0]), np.array([0, 1])) == 1
    assert total_variation(np.array([1, 0]), np.array([0, 1])) == 1


def test_json_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert save_card(card(), tmp_path).endswith("heterogeneity.json and .png")
    assert json.loads((tmp_path / "heterogeneity.json").read_text()) == card()
    assert (tmp_path / "heterogeneity.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_picture_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "flps[plot]" in save_card(card(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["heterogeneity.json"]
