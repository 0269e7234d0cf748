"""The configuration reference is what the types say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flps.config import Network, Runner, SplitConfig, TableParameters
from flps.config.split import Follower, Psi, SplitRunner
from flps.models.wide_deep.options import NetworkConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"


def written_page() -> str:
    """What docs/write_configuration.py would write now."""
    spec = importlib.util.spec_from_file_location("write_configuration", DOCS / "write_configuration.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return str(script.page())


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == written_page(), "run `make docs`"


def test_every_key_is_on_the_page() -> None:
    page = written_page()
    for part in (Runner, Network, TableParameters, SplitConfig, SplitRunner, Follower, Psi, NetworkConfig):
        for key in part.__struct_fields__:
            assert f"| `{key}` |" in page
