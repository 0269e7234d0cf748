"""Which certificate may speak as which member.

Law 1: a name is a DNS name of the certificate's subjectAltName; its common name counts only where there is none.
Law 2: without a table the name is the member: `follower-2` is follower 2, `follower` is follower 0. With one, what does
not stand there may speak as nobody.
Law 3: a wildcard is nobody's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flps.errors import ConfigError
from flps.membership import Member
from flps.transport.access import Ranks, read_ranks

_ROLE = re.compile(r"([a-z]+)(?:-(\d{1,6}))?", re.ASCII)


def names_of(certificate: Mapping[str, Any]) -> frozenset[str]:
    """The names in a certificate, in small letters, as `ssl` describes it."""
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    if not names:
        parts = [part for group in certificate.get("subject", ()) for part in group]
        names = {value for kind, value in parts if kind == "commonName"}
        if len(names) > 1:  # which of them its authority looked at, nobody knows
            names = set()
    return frozenset(name.lower() for name in names if "*" not in name)


class Speakers:
    """Reads `TlsFiles.speakers` once."""

    def __init__(self, table: Mapping[str, str]) -> None:
        """Raises ConfigError for an entry that names no member."""
        self._table = {name.lower(): _entry(name, text) for name, text in table.items()}

    def may_speak(self, names: frozenset[str], member: Member) -> bool:
        """Whether a certificate with these names may speak as that member."""
        if self._table:
            entries = [self._table[name] for name in names if name in self._table]
            return any(role == member.role and (ranks is None or member.rank in ranks) for role, ranks in entries)
        return any(_plain(name) == member for name in names)


def _plain(name: str) -> Member | None:
    match = _ROLE.fullmatch(name)
    return Member(match[1], int(match[2] or 0)) if match else None


def _entry(name: str, text: str) -> tuple[str, Ranks]:
    role, colon, ranks = text.partition(":")
    if not re.fullmatch("[a-z]+", role):
        raise ConfigError(f"tls.speakers.{name}: {text!r} names no member; expected role:rank, role:0,2 or role:*")
    return role, read_ranks(ranks) if colon else frozenset({0})
