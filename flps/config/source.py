"""Text to plain values: a yaml file and `-o` overrides become nested dicts, and each value knows where it was written.

Law 1: what the text says is found out here, what it means is not: types and known keys are the business of `typed.py`.
Law 2: nothing in the text can raise anything but ConfigError; a complaint about one value does not stop the reading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from flps.errors import ConfigError

KeyPath: TypeAlias = tuple["str | int", ...]

JOB_NEEDS = "a job needs at least runner.train_data_dir"

_DEPTH_MAX = 20
_VALUES_MAX = 100_000


def dotted(path: KeyPath) -> str:
    """`("runner", "dump_fields", 0)` as `runner.dump_fields[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Complaints:
    """Everything that is wrong with one configuration, in the order of discovery."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.paths: set[KeyPath] = set()

    def add(self, origin: str, text: str, path: KeyPath = ()) -> None:
        """Note one complaint about the value at `path`, which was written at `origin` (`file:line` or the flag)."""
        self.paths.add(path)
        line = f"{origin}: {text}" if origin else text
        if line not in self.lines:
            self.lines.append(line)

    def touch(self, path: KeyPath) -> bool:
        """Whether the value at `path`, a part of it, or what it is a part of, is complained of."""
        return any(known[: len(path)] == path[: len(known)] for known in self.paths if known)

    def raise_if_any(self) -> None:
        """Raises ConfigError that says them all."""
        if len(self.lines) == 1:
            raise ConfigError(self.lines[0])
        if self.lines:
            raise ConfigError("\n  ".join([f"{len(self.lines)} things are wrong in the configuration:", *self.lines]))


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-5` is a number, `1:30` and `2024-01-31` are words, `010` is ten."""


_INT = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_BOOL = re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z")
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")

_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("yYnNtTfFoO"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])


def _scalar(node: yaml.ScalarNode) -> Any:
    """One word of yaml as a value; raises ValueError with the reason."""
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    if not node.tag.startswith("tag:yaml.org,2002:") or kind not in ("str", "int", "float", "bool", "null"):
        raise ValueError(f"the tag {node.tag} is not understood; write a plain value")
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        if not _BOOL.match(text):
            raise ValueError(f"{text!r} is not true or false")
        return text.lower() in ("yes", "true", "on")
    plain = text.replace("_", "")
    if kind == "int":
        return int(plain)
    number = float(plain.replace(".inf", "inf").replace(".nan", "nan").replace(".Inf", "inf").replace(".INF", "inf"))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


class Source:
    """The values of one configuration and where each was written.

    `values` is a nested dict of str, int, float, bool, None, list and dict.
    """

    def __init__(self, complaints: Complaints) -> None:
        self.values: dict[str, Any] = {}
        self.complaints = complaints
        self._origins: dict[KeyPath, str] = {}
        self._seen = 0

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` was written; for a value left out, where the part it belongs to was."""
        while path and path not in self._origins:
            path = path[:-1]
        return self._origins.get(path, "")

    def complain(self, path: KeyPath, text: str) -> None:
        """Note what is wrong with the value at `path`, with its key and where it was written."""
        self.complaints.add(self.origin(path), f"{dotted(path)}: {text}" if path else text, path)

    def read_file(self, path: Path, needs: str = JOB_NEEDS) -> None:
        """Take the values of a yaml file; `needs` is said of an empty one.

        Raises ConfigError when it cannot be read or is no yaml mapping.
        """
        node = _compose(_text_of(path), str(path))
        if node is None:
            raise ConfigError(f"{path}: the file is empty; {needs}")
        self._origins[()] = f"{path}:{_line(node)}"
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{self._origins[()]}: expected `key: value` lines at the top")
        self.values = self._value(node, (), str(path))

    def override(self, assignment: str, flag: str = "") -> None:
        """Take one `runner.epochs=3` from the command line; the value is read as yaml.

        flag: how it was said, where that is not `-o runner.epochs=3`.
        """
        flag = flag or f"-o {assignment}"
        key, equals, text = assignment.partition("=")
        steps: KeyPath = tuple(key.strip().split("."))
        if not equals or not all(steps):
            return self.complaints.add(flag, "expected key=value with a dotted key, for example runner.epochs=3")
        try:
            node = yaml.compose(text, Loader=_Loader)
        except (yaml.YAMLError, RecursionError) as error:
            return self.complaints.add(flag, _not_yaml(error))
        self._place(steps, flag, node)

    def _place(self, steps: KeyPath, flag: str, node: yaml.Node | None) -> None:
        part = self.values
        for depth, step in enumerate(steps[:-1], start=1):
            if part.get(str(step)) is None:
                part[str(step)] = {}
            part = part[str(step)]
            if not isinstance(part, dict):
                return self.complaints.add(flag, f"{dotted(steps[:depth])} is a single value, it has no keys", steps)
        for known in [path for path in self._origins if path[: len(steps)] == steps]:
            del self._origins[known]
        value = None if node is None else self._value(node, steps, flag, flag)
        self._origins[steps] = flag
        part[str(steps[-1])] = value

    def _value(self, node: yaml.Node, path: KeyPath, name: str, flag: str = "") -> Any:
        """A yaml node as a plain value; `flag`, where given, is the origin instead of file and line."""
        self._seen += 1
        if len(path) > _DEPTH_MAX or self._seen > _VALUES_MAX:
            raise ConfigError(f"{name}: nested deeper than {_DEPTH_MAX} or more than {_VALUES_MAX} values")
        self._origins.setdefault(path, flag or f"{name}:{_line(node)}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, name, flag)
        if not isinstance(node, yaml.ScalarNode):
            return [self._value(item, (*path, index), name, flag) for index, item in enumerate(node.value)]
        try:
            return _scalar(node)
        except ValueError as error:
            self.complaints.add(self._origins[path], f"{dotted(path)}: {error}", path)
            return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, name: str, flag: str) -> dict[str, Any]:
        part: dict[str, Any] = {}
        for key_node, value_node in node.value:
            origin = flag or f"{name}:{_line(key_node)}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.complaints.add(origin, "a key must be one word", path)
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in part:
                self.complaints.add(origin, f"{dotted(here)} is said twice, first at {self._origins[here]}", here)
                continue
            self._origins[here] = origin
            part[key] = self._value(value_node, here, name, flag)
        return part


def read(path: Path, overrides: Sequence[str], complaints: Complaints, needs: str = JOB_NEEDS) -> Source:
    """The values of a yaml file, the overrides applied in their order; `needs` is said of an empty file.

    Raises ConfigError for an unreadable file.
    """
    source = Source(complaints)
    source.read_file(path, needs)
    for assignment in overrides:
        source.override(assignment)
    return source


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{place}: {_not_yaml(error)}") from error


def _not_yaml(error: Exception) -> str:
    """Why a text is not yaml, in one line."""
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    return f"this is not yaml: {problem.splitlines()[0] if problem else type(error).__name__}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
