"""The page of the split yaml names every key that a file may say, and its examples load."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from msgspec import inspect

from flps.config.typed import bare, fields_of
from flps.split.schema import FLYamlData
from flps.split.yaml_types import LossScale, Net

PAGE = Path(__file__).resolve().parents[2] / "docs" / "split-yaml.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """docs/write_configuration.py."""
    spec = importlib.util.spec_from_file_location("write_pages", PAGE.with_name("write_configuration.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """A part of the schema and all below it."""
    yield kind
    for field in fields_of(kind):
        inner = bare(field.type)
        inner = bare(inner.item_type) if isinstance(inner, inspect.VarTupleType) else inner
        if isinstance(inner, inspect.StructType):
            yield from parts(inner.cls)


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    assert PAGE.read_text(encoding="utf-8") == script.split_page(), "run `make docs`"


def test_every_key_is_on_the_page(script: ModuleType) -> None:
    sections = {kind: script.section(*part) for part in script.SPLIT_PARTS for kind in part[2:3]}
    page = PAGE.read_text(encoding="utf-8")
    for kind in {*parts(Net), LossScale}:
        assert sections[kind] in page
        for key in kind.__struct_fields__:
            assert f"| `{key}` |" in sections[kind]


def test_the_example_of_the_page_loads(tmp_path: Path) -> None:
    for index, example in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        path = tmp_path / f"{index}.yaml"
        path.write_text(example, encoding="utf-8")
        assert FLYamlData(path).train_net_in_names == ["x"]
