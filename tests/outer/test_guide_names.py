"""What the guide for modes names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "add-a-mode.md").read_text()
ROWS = re.findall(r"^\| `(flps/[\w/]+\.py)`(?:, `(\w+)`)? \|", GUIDE, re.MULTILINE)


def test_the_guide_names_both_sides() -> None:
    assert {path.split("/")[1] for path, _ in ROWS} == {"worker", "server"}


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_what_the_guide_names_is_there(path: str, name: str) -> None:
    text = (ROOT / path).read_text()
    assert not name or re.search(rf"^ *(class|def) {name}\b", text, re.MULTILINE)
