"""What each key may speak as: the role keys of a key folder, and the entries of its `access.txt`.

    # verdict  name        role    ranks  public key
    allow      hospital-3  worker  3      rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7
    revoke     hospital-2  worker  2,4    Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID

Law 1: a revoked key may nothing, whatever else allows it; revoking is final.
Law 2: changes are whole: a reader finds the list as it was or as it is, and two writers take turns.
Law 3: a list that cannot be read lets nobody in when a role starts, and leaves what held while it runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from flps.errors import ConfigError, FlpsError, ResourceError
from flps.membership import Member
from flps.transport.security import ROLES, check_unwritable, fingerprint, is_key, read_public, write_exclusively

log = logging.getLogger(__name__)

LIST = "access.txt"
_ENTRIES_MAX = 100_000
_HEADER = """\
# What keys other than this folder's own may speak as. Changed by `flps keys allow` and `flps keys revoke`.
# verdict  name  role  ranks (3 or 3,4 or *)  public key
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RANKS = re.compile(r"\*|\d{1,6}(,\d{1,6})*", re.ASCII)

Ranks: TypeAlias = frozenset[int] | None  # None: every rank


class Entry(NamedTuple):
    """One line of the list."""

    verdict: Literal["allow", "revoke"]
    name: str
    role: str
    ranks: Ranks
    key: bytes

    def line(self) -> str:
        """The entry as it stands in the file."""
        return f"{self.verdict:<7} {self.name} {self.role} {ranks_text(self.ranks)} {self.key.decode()}\n"


def read_ranks(text: str) -> Ranks:
    """`3`, `3,4` or `*`. Raises ConfigError for anything else."""
    if not _RANKS.fullmatch(text):
        raise ConfigError(f"{text!r} are no ranks; expected a number, numbers with commas between them, or *")
    return None if text == "*" else frozenset(map(int, text.split(",")))


def ranks_text(ranks: Ranks) -> str:
    """The ranks as they are written."""
    return "*" if ranks is None else ",".join(map(str, sorted(ranks)))


def read_list(folder: Path) -> list[Entry]:
    """The entries of a folder's list; none when there is no list. Raises ConfigError that names the line."""
    path = folder / LIST
    try:
        text = path.read_text("ascii")
        check_unwritable(path)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    lines = text.splitlines()
    if len(lines) > _ENTRIES_MAX:
        raise ConfigError(f"{path} has {len(lines)} lines, at most {_ENTRIES_MAX} are read")
    return [
        _entry(line, f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]


def _entry(line: str, where: str) -> Entry:
    match line.split():
        case ["allow" | "revoke" as verdict, name, role, ranks, key]:
            check_name(name, where)
            if role not in ROLES:
                raise ConfigError(f"{where}: {role!r} is no role; expected {', '.join(ROLES)}")
            if not is_key(key.encode()):
                raise ConfigError(f"{where}: {key!r} is no public key of 40 characters")
            return Entry(verdict, name, role, read_ranks(ranks), key.encode())
    raise ConfigError(f"{where}: expected `allow|revoke name role ranks key`, got {line[:80]!r}")


def check_name(name: str, where: str) -> None:
    """Raises ConfigError for what is no name of a key."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name[:80]!r} is no name; letters, digits, dots, dashes and underscores make one")


def allow(folder: Path, key: bytes, name: str, role: str, ranks: Ranks) -> Entry:
    """Let a key speak as these ranks of a role; what the name's key was allowed before in that role is replaced.

    Raises ConfigError when the key is revoked or the name is another key's, ResourceError when nothing can be written.
    """
    check_name(name, "--name")
    new = Entry("allow", name, role, ranks, key)
    with _changing(folder) as entries:
        for entry in entries:
            if entry.key == key and entry.verdict == "revoke":
                raise ConfigError(f"key {fingerprint(key)} ({entry.name}) is revoked; its owner should make a new one")
            if entry.name == name and entry.key != key and entry.verdict == "allow":
                raise ConfigError(f"{name} is the name of another key, {fingerprint(entry.key)}; revoke it first")
        entries[:] = [entry for entry in entries if (entry.key, entry.role) != (key, role)] + [new]
    return new


def revoke(folder: Path, who: str) -> list[Entry]:
    """Let a key speak no more: `who` is a name, a fingerprint, or a role whose own key is meant.

    Returns the entries that are revoked. Raises ConfigError when there is no such key.
    """
    with _changing(folder) as entries:
        own = [Entry("allow", role, role, None, key) for role, key in _role_keys(folder).items()]
        wanted = {entry.key for entry in [*entries, *own] if who in (entry.name, fingerprint(entry.key))}
        if not wanted:
            raise ConfigError(f"{folder} knows no key of the name or fingerprint {who}; `flps keys show` lists them")
        listed = [entry for entry in entries if entry.key in wanted]
        found = listed + [entry for entry in own if entry.key in wanted - {entry.key for entry in listed}]
        revoked = [entry._replace(verdict="revoke") for entry in found]
        entries[:] = [entry for entry in entries if entry.key not in wanted] + revoked
    return revoked


def _role_keys(folder: Path) -> dict[str, bytes]:
    paths = {role: folder / f"{role}.public" for role in ROLES}
    return {role: read_public(path) for role, path in paths.items() if path.exists()}


@contextmanager
def _changing(folder: Path) -> Iterator[list[Entry]]:
    """The entries, to be changed in place; they are written when the block ends well."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"no key folder {folder}: {error.strerror}; `flps keys make` makes one") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        entries = read_list(folder)
        yield entries
        write_exclusively(folder / LIST, (_HEADER + "".join(entry.line() for entry in entries)).encode(), 0o644)
    except OSError as error:
        raise ResourceError(f"cannot write {folder / LIST}: {error.strerror}") from error
    finally:
        os.close(handle)


class Access:
    """What each key may speak as, kept up to date with its folder. Read by several threads, refreshed by one."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError when a key or the list cannot be read."""
        self._folder = folder
        self._seen = self._signature()
        self._ranks = _load(folder)

    def knows(self, key: str) -> bool:
        """Whether this key (Z85) may speak as anybody."""
        return key in self._ranks

    def may_speak(self, key: str, member: Member) -> bool:
        """Whether this key (Z85) may speak as that member."""
        roles = self._ranks.get(key, {})
        if member.role not in roles:
            return False
        ranks = roles[member.role]
        return ranks is None or member.rank in ranks

    def refresh(self) -> bool:
        """Look at the folder; returns whether what keys may do has changed."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            fresh = _load(self._folder)
        except FlpsError as error:
            log.error("what held before goes on to hold: %s", error)
            return False
        is_new = fresh != self._ranks
        if is_new:
            log.info("the keys in %s have changed: %d keys are allowed", self._folder, len(fresh))
        self._ranks = fresh
        return is_new

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(self._folder / name) for name in (LIST, *(f"{role}.public" for role in ROLES)))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load(folder: Path) -> dict[str, Mapping[str, Ranks]]:
    entries = [Entry("allow", role, role, None, key) for role, key in _role_keys(folder).items()] + read_list(folder)
    revoked = {entry.key for entry in entries if entry.verdict == "revoke"}
    found: dict[str, dict[str, Ranks]] = {}
    for entry in entries:
        if entry.key not in revoked:
            roles = found.setdefault(entry.key.decode(), {})
            before = roles.get(entry.role, frozenset())
            roles[entry.role] = None if before is None or entry.ranks is None else before | entry.ranks
    return dict(found)
