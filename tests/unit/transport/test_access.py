"""The list of what each key may speak as: read, changed, and heeded while it changes."""

from __future__ import annotations

import string
import threading
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ConfigError, ResourceError
from flps.membership import Member
from flps.transport.access import LIST, Access, Entry, allow, ranks_text, read_list, read_ranks, revoke
from flps.transport.security import fingerprint, make_keys, public_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A key folder of an operator: no key for the role of the workers."""
    make_keys(tmp_path / "keys", ["server", "coordinator"])
    return tmp_path / "keys"


def new_key() -> bytes:
    return bytes(zmq.curve_keypair()[0])


def who(access: Access, key: bytes, role: str = "worker") -> list[int]:
    """The ranks below 6 that a key may speak as."""
    return [rank for rank in range(6) if access.may_speak(key.decode(), Member(role, rank))]


def test_a_role_key_speaks_for_its_role_and_a_stranger_for_nobody(folder: Path) -> None:
    access = Access(folder)
    server = public_key(folder, "server")
    assert who(access, server, "server") == list(range(6))
    assert who(access, server) == who(access, server, "coordinator") == who(access, new_key()) == []
    assert access.knows(server.decode())
    assert not access.knows("")


def test_a_key_speaks_for_the_ranks_that_it_was_given(folder: Path) -> None:
    one, two, three = new_key(), new_key(), new_key()
    allow(folder, one, "one", "worker", frozenset({3}))
    allow(folder, two, "two", "worker", frozenset({1, 2}))
    allow(folder, three, "three", "worker", None)
    access = Access(folder)
    assert [who(access, key) for key in (one, two, three)] == [[3], [1, 2], list(range(6))]
    assert who(access, one, "server") == []


def test_what_was_allowed_before_in_that_role_is_replaced(folder: Path) -> None:
    key = new_key()
    allow(folder, key, "one", "worker", frozenset({3}))
    allow(folder, key, "one", "worker", frozenset({4}))
    allow(folder, key, "one", "server", frozenset({0}))
    assert who(Access(folder), key) == [4]
    assert who(Access(folder), key, "server") == [0]


def test_revoked_is_revoked_by_name_by_fingerprint_and_for_good(folder: Path) -> None:
    keys = {name: new_key() for name in ("one", "two")}
    for name, key in keys.items():
        allow(folder, key, name, "worker", None)
        allow(folder, key, name, "server", None)
    assert len(revoke(folder, "one")) == 2  # in both of its roles
    revoke(folder, fingerprint(keys["two"]))
    for key in keys.values():
        assert not Access(folder).knows(key.decode())
        with pytest.raises(ConfigError, match="is revoked; its owner should make a new one"):
            allow(folder, key, "again", "worker", None)
    allow(folder, new_key(), "one", "worker", None)  # the name is free for the owner's next key


def test_the_key_of_a_role_can_be_revoked_too(folder: Path) -> None:
    server = public_key(folder, "server")
    revoke(folder, "server")
    assert not Access(folder).knows(server.decode())
    assert Access(folder).knows(public_key(folder, "coordinator").decode())


def test_nobody_of_that_name_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="knows no key of the name or fingerprint nobody"):
        revoke(folder, "nobody")
    assert not (folder / LIST).exists()


def test_a_name_is_one_keys(folder: Path) -> None:
    allow(folder, new_key(), "one", "worker", None)
    with pytest.raises(ConfigError, match="one is the name of another key"):
        allow(folder, new_key(), "one", "worker", None)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\nallow", "x" * 65, "ä", "../x"])
def test_a_name_is_a_word(name: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        allow(folder, new_key(), name, "worker", None)


@pytest.mark.parametrize("text", ["", "-1", "1,", "a", "1 2", "*,1", "1234567", "\u0661"])
def test_what_are_no_ranks_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="are no ranks"):
        read_ranks(text)


RANKS = st.none() | st.frozensets(st.integers(0, 999_999), min_size=1, max_size=5)
NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=64)


@given(RANKS)
def test_ranks_come_back_as_they_were_written(ranks: frozenset[int] | None) -> None:
    assert read_ranks(ranks_text(ranks)) == ranks


@given(st.lists(st.tuples(NAMES, RANKS), max_size=4), st.sampled_from(["allow", "revoke"]))
def test_a_list_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, frozenset[int] | None]], verdict: str
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    entries = [Entry(verdict, name, "worker", ranks, new_key()) for name, ranks in said]  # type: ignore[arg-type]
    (folder / LIST).write_text("# a comment\n\n" + "".join(entry.line() for entry in entries))
    assert read_list(folder) == entries


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("allow x worker *", "expected `allow|revoke name role ranks key`"),
        ("permit x worker * {key}", "expected `allow|revoke name role ranks key`"),
        ("allow x admin * {key}", "'admin' is no role; expected server, worker, coordinator"),
        ("allow x worker 1- {key}", "'1-' are no ranks"),
        ("allow x worker 1 short", "'short' is no public key of 40 characters"),
        ("allow x worker 1 " + "#" * 40, "is no public key of 40 characters"),
        ("allow ../x worker 1 {key}", "'../x' is no name"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, why: str, folder: Path) -> None:
    (folder / LIST).write_text("# first\n" + line.format(key=new_key().decode()) + "\n")
    with pytest.raises(ConfigError) as caught:
        Access(folder)
    assert why in str(caught.value)


def test_a_list_that_others_may_write_lets_nobody_in(folder: Path) -> None:
    allow(folder, new_key(), "one", "worker", None)
    folder.chmod(0o755)
    (folder / LIST).chmod(0o664)
    with pytest.raises(ConfigError, match=r"others may change .*access\.txt"):
        Access(folder)
    folder.chmod(0o700)  # nobody else gets to the file
    Access(folder)
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match="others may put keys into"):
        Access(folder)


def test_changes_are_seen_and_a_broken_list_changes_nothing(folder: Path) -> None:
    key = new_key()
    access = Access(folder)
    assert not access.refresh()
    allow(folder, key, "one", "worker", frozenset({1}))
    assert access.refresh()
    assert who(access, key) == [1]
    good = (folder / LIST).read_text()
    (folder / LIST).write_text("nonsense")
    assert not access.refresh()
    assert who(access, key) == [1]
    (folder / LIST).write_text(good.replace("allow ", "revoke"))
    assert access.refresh()
    assert who(access, key) == []


def test_a_role_key_that_is_taken_away_is_known_no_more(folder: Path) -> None:
    access = Access(folder)
    server = public_key(folder, "server").decode()
    (folder / "server.public").unlink()
    assert access.refresh()
    assert not access.knows(server)


def test_writers_take_turns_and_leave_nothing_beside(folder: Path) -> None:
    keys = [new_key() for _ in range(24)]

    def write(some: list[bytes]) -> None:
        for key in some:
            allow(folder, key, f"k{keys.index(key)}", "worker", None)

    threads = [threading.Thread(target=write, args=(keys[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.key for entry in read_list(folder)} == set(keys)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_that_is_not_there_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key folder"):
        allow(tmp_path / "none", new_key(), "one", "worker", None)
    (tmp_path / LIST).mkdir()
    with pytest.raises((ConfigError, ResourceError), match=r"cannot (read|write) .*access\.txt"):
        allow(tmp_path, new_key(), "one", "worker", None)
