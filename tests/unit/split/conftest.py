"""What tests of nets share: yaml as dicts, and a file of it as FLModel gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flps.split.schema import FLYamlData

Values = dict[str, Any]


class Spelled(yaml.SafeDumper):
    """Writes a part anew wherever it occurs: parts of these tests' yaml are shared Python objects."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Numbers that do not depend on how many cores there are; two cores are shared by many tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def described(tmp_path: Path) -> Callable[[str, Values], FLYamlData]:
    """described(name, values): what `name`.yaml with those values says."""

    def make(name: str, values: Values) -> FLYamlData:
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            yaml.dump({"ckpt_path": str(tmp_path / "checkpoints"), **values}, Dumper=Spelled, sort_keys=False)
        )
        return FLYamlData(path)

    return make
