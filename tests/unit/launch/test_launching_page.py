"""docs/launching.md names every flag and every variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from flps.launch.arguments import _parser

PAGE = Path(__file__).resolve().parents[3] / "docs" / "launching.md"


@pytest.mark.parametrize("option", [word for one in _parser()._actions for word in one.option_strings])
def test_every_flag_is_explained(option: str) -> None:
    if option not in ("-h", "--help"):
        assert f"`{option}" in PAGE.read_text(encoding="utf-8")
