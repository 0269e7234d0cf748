"""Nobody waits by the wall clock: it may be set while a job runs. Deadlines are kept by `time.monotonic`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Who may ask what time of day it is, and what for.
MAY = {
    "flps/metrics.py": "the time of an event",
    "flps/transport/journal.py": "the time of a record",
    "flps/transport/recovery.py": "figures of an epoch that began in an earlier life",
    "flps/cli/flrun.py": "the name of a run's folder",
    "flps/cli/psi.py": "the number of a party's life; a later one is higher",
    "flps/split/communicator.py": "the number of a party's life, where no launcher counts them",
    "flps/transport/tls/identity.py": "whether a certificate is valid today",
}
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"),
        ("date", "today"), ("time", "clock_gettime")}  # fmt: skip


def looks(source: str) -> Iterator[int]:
    """Lines that look at the wall clock."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (owner, node.attr) in WALL:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for name in node.names if ("time", name.name) in WALL)


def test_nobody_else_looks_at_the_wall_clock() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "flps").rglob("*.py"))
        if (lines := list(looks(path.read_text(encoding="utf-8"))))
    }
    assert {path: lines for path, lines in found.items() if path not in MAY} == {}
    assert found.keys() == MAY.keys()


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\nx = time.time()", [2]),
        ("def f(clock=time.time): pass", [1]),
        ("import datetime\ndatetime.datetime.now()", [2]),
        ("from time import time", [1]),
        ("time.monotonic(); time.sleep(1); self.time.monotonic()", []),
    ],
)
def test_looks_are_found(source: str, lines: list[int]) -> None:
    assert list(looks(source)) == lines
