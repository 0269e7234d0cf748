"""`flps keys`: what each sub-command does, prints and ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flps.cli.flps import run
from flps.transport.security import ROLES, fingerprint, public_key


def keys(folder: Path, *words: object) -> int:
    return run(["keys", *map(str, words), "--key_dir", str(folder)])


def test_the_simple_way_makes_every_role(tmp_path: Path, capsys: Any) -> None:
    assert keys(tmp_path / "k", "make") == 0
    assert len(list((tmp_path / "k").iterdir())) == 2 * len(ROLES)
    assert keys(tmp_path / "k", "show") == 0
    said = capsys.readouterr().out
    assert said.count(fingerprint(public_key(tmp_path / "k", "worker"))) == 2


def test_an_owners_key_from_making_to_revoking(tmp_path: Path, capsys: Any) -> None:
    operator, owner = tmp_path / "operator", tmp_path / "owner"
    assert keys(operator, "make", "--role", "server", "--role", "coordinator") == 0
    assert keys(owner, "make", "--role", "worker", "--name", "hospital-3") == 0
    assert sorted(path.name for path in owner.iterdir()) == ["hospital-3.public", "worker.public", "worker.secret"]
    assert keys(operator, "allow", owner / "hospital-3.public", "--role", "worker", "--rank", "3") == 0
    assert keys(operator, "show") == 0
    assert "may speak as worker 3" in capsys.readouterr().out
    assert keys(operator, "revoke", "hospital-3") == 0
    assert "is revoked; jobs that run heed it within a second" in capsys.readouterr().out
    assert keys(operator, "show") == 0
    assert "revoked; was worker 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("make", "--name", "x"), "give one --role with it"),
        (("make", "--role", "worker", "--name", "server"), "a name that is not a role's"),
        (("make", "--role", "worker", "--name", "../x"), "is no name"),
        (("allow", "none.public", "--role", "worker"), "cannot read key none.public"),
        (("revoke", "nobody"), "no key"),
        (("show",), "`flps keys make"),
    ],
)
def test_what_is_wrong_ends_with_2(words: tuple[str, ...], why: str, tmp_path: Path, capsys: Any) -> None:
    assert keys(tmp_path / "k", *words) == 2
    assert why in capsys.readouterr().err
