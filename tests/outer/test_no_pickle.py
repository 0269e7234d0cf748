"""Nothing that flps sends, receives, writes or reads is pickled: pickles run code when they are read.

The sources are read with `ast`; a run is watched by an audit hook. Python's own start of a process (multiprocessing's
forkserver) pickles the arguments of that process, on a pipe between parent and child of one user: that is Python's.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "copyreg",
    "jsonpickle",
}
CALLS = {"torch.load", "torch.save", "np.save", "numpy.save", "torch.package", "torch.jit.load"}
SENDS_OBJECTS = {"send_pyobj", "recv_pyobj", "to_pickle", "read_pickle", "tobytes_pickle"}


def dotted(node: ast.expr) -> str:
    """`torch.load` of such an expression; "" for others."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def is_true(call: ast.Call, name: str) -> bool:
    """Whether a call says `name=True`, or something that cannot be seen here."""
    return any(
        k.arg == name and not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in call.keywords
    )


def is_plainly(call: ast.Call, name: str, value: bool) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def complaints(source: str) -> Iterator[str]:
    """What in a source pickles, or could."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES)  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        if name == "__import__" or last == "import_module":
            said = node.args[0] if node.args else None
            if isinstance(said, ast.Constant) and str(said.value).split(".")[0] in MODULES:
                yield f"{node.lineno}: imports {said.value}"
        if last in SENDS_OBJECTS:
            yield f"{node.lineno}: {last} pickles"
        if name == "torch.load" and not is_plainly(node, "weights_only", True):
            yield f"{node.lineno}: torch.load without weights_only=True"
        if name in {"torch.save", "torch.jit.load"}:
            yield f"{node.lineno}: {name} pickles"
        if name in {"np.load", "numpy.load", "np.save", "numpy.save", "np.savez"} and is_true(node, "allow_pickle"):
            yield f"{node.lineno}: {name} with allow_pickle"
        if name in {"np.save", "numpy.save"} and not is_plainly(node, "allow_pickle", False):
            yield f"{node.lineno}: {name} without allow_pickle=False"


def test_no_source_pickles() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{complaint}"
        for path in sorted((ROOT / "flps").rglob("*.py"))
        for complaint in complaints(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "def f():\n    import dill as d", "from shelve import open",
        "import marshal", "from cloudpickle import dumps", "__import__('pickle')", "importlib.import_module('dill')",
        "socket.send_pyobj(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "torch.save(x, p)",
        "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)", "frame.to_pickle(p)", "np.save(p, x)",
    ],
)  # fmt: skip
def test_what_pickles_is_found(source: str) -> None:
    assert list(complaints(source))


@pytest.mark.parametrize(
    "source", ["torch.load(p, weights_only=True)", "np.load(p)", "np.save(p, x, allow_pickle=False)"]
)
def test_what_does_not_is_not(source: str) -> None:
    assert not list(complaints(source))


# `pickle.find_class` is raised whenever a pickle names a class or function. What writes and reads pickles is
# replaced by some that tell their callers apart: a frame of flps that is not multiprocessing's own counts.
RUN = """
    import sys, threading
    from pathlib import Path

    told = []

    def who():
        frame, names = sys._getframe(2), []
        while frame is not None:
            names.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        return names

    def watch(event, arguments):
        if event == "pickle.find_class" and any(name.split(".")[0] == "flps" for name in who()):
            told.append((event, arguments))

    sys.addaudithook(watch)
    import pickle, marshal

    def spied(module, name):
        true = getattr(module, name)

        def spy(*arguments, **more):
            names = who()
            inside = [name for name in names if name.startswith(("torch", "importlib", "multiprocessing", "copy"))]
            if any(name.split(".")[0] == "flps" for name in names) and not inside:
                told.append((module.__name__, name, names[:6]))
            return true(*arguments, **more)

        setattr(module, name, spy)

    for name in ("loads", "load", "dumps", "dump"):
        spied(pickle, name)
        spied(marshal, name)

    from flps.cli.flrun import run
    code = run(sys.argv[1:], {"HOME": sys.argv[-1].partition("=")[2]})
    print("pickled:", told)
    sys.exit(code or bool(told))
"""


def test_a_whole_run_pickles_nothing(tmp_path: Path) -> None:
    """All roles in one process, from the config to the saved model."""
    (tmp_path / "watched.py").write_text(textwrap.dedent(RUN))
    for kind in ("fl_train_data", "fl_test_data"):
        (tmp_path / kind).mkdir()
        for client in range(2):
            lines = [f"{2 * user + client},{item},{int(item < 3)}" for user in range(5) for item in range(8)]
            (tmp_path / kind / f"{client}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "x.yaml").write_text(
        "runner: {train_data_dir: fl_train_data, negatives: fixed, epochs: 1, train_batch_size: 16, geo_step: 2}\n"
        "hyper_parameters: {num_users: 10, num_items: 8, mf_dim: 4, fc_layers: [8, 4]}\n"
    )
    command = [sys.executable, "watched.py", "-m", "x.yaml", "--worker_num=2", "--coordinator_num=1", "--in_process",
               f"--log_dir={tmp_path}/log"]  # fmt: skip
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=110, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "pickled: []" in ended.stdout
    assert list(tmp_path.glob("log/run-*/*/*/manifest.json"))
