"""A user's file becomes a module, or one clear complaint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flps.errors import ConfigError
from flps.scripts import load_script

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Point:
    x: int
    y: float = 2.0
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_dataclasses_with_annotations_as_text(tmp_path: Path) -> None:
    module = load_script(written(tmp_path, DATACLASS))
    assert module.Point(1) == module.Point(1, 2.0)
    assert sys.modules[module.__name__] is module


def test_files_of_one_name_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    one = load_script(written(tmp_path / "a", "x = 1\n"))
    two = load_script(written(tmp_path / "b", "x = 2\n", "mine.py"))
    assert (one.x, two.x) == (1, 2)
    assert one.__name__ != two.__name__
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n\n1 / 0\n", r"mine\.py:3: cannot be imported: ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", r"mine\.py:2: .*KeyError: 'k'"),
        ("def broken(:\n", r"mine\.py: cannot be imported: SyntaxError: .*line 1"),
        ("import no_such_module\n", r"mine\.py:1: .*No module named 'no_such_module'"),
    ],
)
def test_what_a_file_raises_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=says):
        load_script(written(tmp_path, text))
    assert not [name for name in set(sys.modules) - before if name.startswith("flps_user_")]


def test_what_is_no_python_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a Python file"):
        load_script(written(tmp_path, "x = 1\n", "mine.txt"))
    with pytest.raises(ConfigError, match="No such file"):
        load_script(tmp_path / "nowhere.py")
