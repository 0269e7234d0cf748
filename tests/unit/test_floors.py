"""The import rules of the house, read from the sources with `ast`, never by importing them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    1: ("packing", "disk", "errors", "routing", "membership", "metrics", "ledger", "scripts", "faults"),
    2: ("table", "data", "parallel", "privacy", "config", "message", "frames", "compression"),
    3: ("transport", "checkpoint"),
    4: ("server", "coordinator", "split", "remote", "psi"),
    5: ("nn",),
    6: ("models",),
    7: ("worker", "party"),
    8: ("launch", "cli"),
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}
ROLES = {"server", "coordinator", "worker", "party"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"}
OUTER = {"datasets", "coordinator", "launch", "configs", "benchmarks", "tests", "docs"}

Tree = dict[str, str]  # module name -> source


def real_tree() -> Tree:
    """Every module of flps with its source."""
    tree = {}
    for path in sorted((ROOT / "flps").rglob("*.py")):
        steps = path.relative_to(ROOT).with_suffix("").parts
        tree[".".join(steps[:-1] if steps[-1] == "__init__" else steps)] = path.read_text(encoding="utf-8")
    return tree


def imports(module: str, tree: Tree) -> Iterator[tuple[int, str]]:
    """(line, imported module) of every import of a module, inside functions too; relative ones made absolute."""
    is_package = any(other.startswith(f"{module}.") for other in tree)
    for node in ast.walk(ast.parse(tree[module])):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                steps = module.split(".")
                kept = steps[: len(steps) - node.level + is_package]
                base = ".".join([*kept, base]) if base else ".".join(kept)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in tree else base


def part(module: str) -> str:
    """`flps.table.sparse` -> `table`; the package itself has no part."""
    steps = module.split(".")
    return steps[1] if len(steps) > 1 and steps[0] == "flps" else ""


def complaint(module: str, name: str) -> str | None:
    """Why `module` must not import `name`, or None."""
    top, here, there = name.split(".")[0], part(module), part(name)
    if top == "zmq" and here != "transport":
        return "only flps.transport speaks zmq"
    if top == "ssl" and not module.startswith("flps.transport.tls"):
        return "only flps.transport.tls speaks TLS"
    if top in PICKLES:
        return "nothing is pickled"
    if top in OUTER:
        return "flps does not import the outer folders"
    is_model = here == "models" and module.endswith(".model")
    if is_model and there != "nn" and top not in {*sys.stdlib_module_names, "torch"}:
        return "a model knows torch and flps.nn only"
    if top != "flps" or not there or here == there:
        return None
    if here == "table" and there in ("message", "frames"):
        return "a table does not know what a message is"
    if {here, there} <= ROLES:
        return "a role does not import another role"
    if not here:
        return "the package itself imports nothing of its own"
    if FLOOR.get(there, 99) > FLOOR.get(here, 99):
        return f"floor {FLOOR.get(here)} does not import from floor {FLOOR.get(there)}"
    return None


def violations(tree: Tree) -> list[str]:
    """Every broken rule as `module:line imports name: why`."""
    found = [
        f"{module}: the part {part(module)} stands on no floor" for module in tree if part(module) not in {"", *FLOOR}
    ]
    for module in tree:
        for line, name in imports(module, tree):
            if why := complaint(module, name):
                found.append(f"{module}:{line} imports {name}: {why}")
    return found + [f"circle: {' -> '.join(circle)}" for circle in circles(tree)]


def circles(tree: Tree) -> Iterator[list[str]]:
    """Import circles between files, and between the parts of the house; each is told once."""
    files = {module: {name for _, name in imports(module, tree) if name in tree} - {module} for module in tree}
    parts: dict[str, set[str]] = {}
    for module, names in files.items():
        parts.setdefault(part(module), set()).update(part(name) for name in names)
    parts = {name: {other for other in below if other and other != name} for name, below in parts.items() if name}
    for graph in (files, parts):
        yield from _circles_of(graph)


def _circles_of(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> Iterator[list[str]]:
        if node in path:
            yield [*path[path.index(node) :], node]
        elif node not in done:
            for below in sorted(graph.get(node, ())):
                yield from walk(below, [*path, node])
            done.add(node)

    for start in sorted(graph):
        yield from walk(start, [])


def test_the_house_keeps_its_rules() -> None:
    assert violations(real_tree()) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("flps.table.sparse", "from flps.message import Push", "does not know what a message is"),
        ("flps.table.sparse", "from flps.frames import encode", "does not know what a message is"),
        ("flps.config.load", "import flps.transport.socket", "floor 2 does not import from floor 3"),
        ("flps.metrics", "def f():\n    from flps.config import load", "floor 1 does not import from floor 2"),
        ("flps.worker.loop", "from flps.coordinator import Coordinator", "does not import another role"),
        ("flps.server.serve", "from ..coordinator import x", "does not import another role"),
        ("flps.remote", "import zmq", "only flps.transport speaks zmq"),
        ("flps.launch.spawn", "import zmq.auth", "only flps.transport speaks zmq"),
        ("flps.transport.sockets", "import ssl", "only flps.transport.tls speaks TLS"),
        ("flps.psi", "from ssl import SSLContext", "only flps.transport.tls speaks TLS"),
        ("flps.models.ncf.model", "import numpy", "torch and flps.nn only"),
        ("flps.models.ncf.model", "from flps.table import x", "torch and flps.nn only"),
        ("flps.checkpoint", "import pickle", "nothing is pickled"),
        ("flps.data.made", "from datasets import x", "does not import the outer folders"),
        ("flps.thing", "", "stands on no floor"),
        ("flps", "from flps.errors import FlpsError", "imports nothing of its own"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str, why: str) -> None:
    found = violations({"flps.filler": "", module: source} if module == "flps" else {module: source})
    assert any(why in line and line.startswith(f"{module}") for line in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flps.transport.socket", "import zmq\nfrom flps.message import Push"),
        ("flps.models.ncf.model", "import math\nimport torch.nn\nfrom flps.nn import Embedding"),
        ("flps.models.ncf.hyper", "import msgspec"),
        ("flps.transport.tls.channel", "import ssl"),
        ("flps.cli.flrun", "from flps.launch.plan import plan"),
        ("flps.worker.loop", "from flps import __version__"),
    ],
)
def test_what_is_allowed_is_allowed(module: str, source: str) -> None:
    assert violations({module: source}) == []


def test_circles_are_found() -> None:
    files = {"flps.table.a": "from flps.table import b", "flps.table.b": "import flps.table.a"}
    assert any("circle: flps.table.a -> flps.table.b -> flps.table.a" in line for line in violations(files))
    parts = {"flps.launch.a": "import flps.cli.b", "flps.cli.b": "", "flps.cli.c": "import flps.launch.a"}
    assert any("circle: cli -> launch -> cli" in line for line in violations(parts))


def _loads_torch(code: str) -> bool:
    """Whether running `code` in a fresh interpreter imports torch."""
    ending = "\nimport sys\nprint('torch' in sys.modules, file=sys.stderr)"
    answer = subprocess.run(
        [sys.executable, "-c", code + ending], capture_output=True, text=True, timeout=60, check=True
    )
    return answer.stderr.strip().endswith("True")


HELP = """
import sys
from flps.cli.flrun import main
sys.argv = ["flrun", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def test_help_does_not_wait_for_torch() -> None:
    assert not _loads_torch(HELP)


@pytest.mark.parametrize("module", ["flps", "flps.config", "flps.config.job", "flps.metrics", "flps.data"])
def test_parts_that_do_without_torch(module: str) -> None:
    assert not _loads_torch(f"import {module}")
