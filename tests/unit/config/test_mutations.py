"""Whatever one mutation makes of a good yaml, a Config or a ConfigError comes out, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.config import Config, load
from flps.errors import ConfigError
from flps.models.ncf.hyper import NcfHyperParameters

GOOD = (Path(__file__).resolve().parents[3] / "configs" / "config_fl.yaml").read_text(encoding="utf-8")
SCHEMAS = {"ncf": NcfHyperParameters}
LEAVES = [(part, key) for part, keys in yaml.safe_load(GOOD).items() for key in keys]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=6
)
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(path: Path, text: str | bytes, *overrides: str) -> Config | str:
    """What loading gives: a Config, or the text of the ConfigError."""
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        config = load(path, overrides, SCHEMAS)
    except ConfigError as error:
        return str(error)
    assert isinstance(config, Config)
    return config


@quickly
@given(leaf=st.sampled_from(LEAVES), value=values)
def test_any_value_at_any_key(leaf: tuple[str, str], value: object, tmp_path: Path) -> None:
    tree = yaml.safe_load(GOOD)
    tree[leaf[0]][leaf[1]] = value
    outcome(tmp_path / "job.yaml", yaml.dump(tree, allow_unicode=True))


@quickly
@given(leaf=st.sampled_from(LEAVES), key=scalars)
def test_any_name_for_any_key(leaf: tuple[str, str], key: object, tmp_path: Path) -> None:
    tree = yaml.safe_load(GOOD)
    tree[leaf[0]][key] = tree[leaf[0]].pop(leaf[1])
    outcome(tmp_path / "job.yaml", yaml.dump(tree, allow_unicode=True))


@quickly
@given(start=st.integers(0, len(GOOD)), length=st.integers(0, 40), text=st.text(max_size=10))
def test_any_characters_anywhere(start: int, length: int, text: str, tmp_path: Path) -> None:
    outcome(tmp_path / "job.yaml", GOOD[:start] + text + GOOD[start + length :])


@quickly
@given(junk=st.binary(max_size=60))
def test_any_bytes(junk: bytes, tmp_path: Path) -> None:
    outcome(tmp_path / "job.yaml", junk)


@quickly
@given(
    override=st.text(max_size=30)
    | st.builds("runner.{}={}".format, st.sampled_from(LEAVES).map(lambda leaf: leaf[1]), st.text(max_size=12))
)
def test_any_override(override: str, tmp_path: Path) -> None:
    outcome(tmp_path / "job.yaml", GOOD, override)


@pytest.mark.parametrize("leaf", LEAVES)
def test_an_unknown_key_in_place_of_each_is_an_error(leaf: tuple[str, str], tmp_path: Path) -> None:
    tree = yaml.safe_load(GOOD)
    tree[leaf[0]][f"x_{leaf[1]}_x"] = tree[leaf[0]].pop(leaf[1])
    said = outcome(tmp_path / "job.yaml", yaml.dump(tree))
    assert isinstance(said, str)
    assert f"{leaf[0]}.x_{leaf[1]}_x: there is no such key; did you mean {leaf[0]}.{leaf[1]}?" in said
