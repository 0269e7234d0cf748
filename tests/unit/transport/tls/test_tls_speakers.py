"""Which certificate may speak as which member."""

from __future__ import annotations

from typing import Any

import pytest

from flps.errors import ConfigError
from flps.membership import Member
from flps.transport.tls.speakers import Speakers, names_of

CN = ((("commonName", "Leader"),),)


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        ({"subject": CN}, {"leader"}),
        ({"subject": CN, "subjectAltName": (("DNS", "Follower-1"), ("DNS", "a.example"))}, {"follower-1", "a.example"}),
        ({"subject": CN, "subjectAltName": (("IP Address", "10.0.0.1"),)}, {"leader"}),
        ({"subject": ((("commonName", "leader"),), (("commonName", "follower"),))}, set()),
        ({"subject": CN, "subjectAltName": (("DNS", "*.example"),)}, set()),
        ({}, set()),
    ],
)
def test_names(certificate: dict[str, Any], names: set[str]) -> None:
    assert names_of(certificate) == names


@pytest.mark.parametrize(
    ("name", "member", "may"),
    [
        ("leader", Member("leader", 0), True),
        ("leader", Member("leader", 1), False),
        ("leader", Member("follower", 0), False),
        ("follower", Member("follower", 0), True),
        ("follower", Member("follower", 2), False),
        ("follower-2", Member("follower", 2), True),
        ("follower-2", Member("follower", 0), False),
        ("follower-2.example", Member("follower", 2), False),
        ("follower-", Member("follower", 0), False),
    ],
)
def test_without_a_table_the_name_is_the_member(name: str, member: Member, may: bool) -> None:
    assert Speakers({}).may_speak(frozenset({name, "other.example"}), member) is may


def test_with_a_table_only_what_stands_there_counts() -> None:
    speakers = Speakers({"Bank.example": "leader", "a.example": "follower:1,3", "b.example": "follower:*"})
    assert speakers.may_speak(frozenset({"bank.example"}), Member("leader", 0))
    assert not speakers.may_speak(frozenset({"bank.example"}), Member("leader", 1))
    assert speakers.may_speak(frozenset({"a.example"}), Member("follower", 3))
    assert not speakers.may_speak(frozenset({"a.example"}), Member("follower", 2))
    assert speakers.may_speak(frozenset({"b.example"}), Member("follower", 99))
    assert not speakers.may_speak(frozenset({"leader"}), Member("leader", 0))


@pytest.mark.parametrize("text", ["", ":1", "follower:x", "follower:", "Leader", "follower-1"])
def test_an_entry_that_names_no_member_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Speakers({"a.example": text})
