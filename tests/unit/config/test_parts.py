"""Lists of parts, and keys of which null is a value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from flps.config.source import Complaints, read
from flps.config.typed import expected, fields_of, typed


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a list."""

    width: Annotated[int, Meta(ge=1, description="In books.")]
    label: str | None = None


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is read."""

    shelves: Annotated[tuple[Shelf, ...], Meta(min_length=1, description="At least one.")]
    heat: Annotated[float | None, Meta(description="Null: none.", extra={"null": True})] = 1.0


def room(folder: Path, text: str) -> tuple[Room | None, list[str]]:
    """What is read, and what is complained of."""
    path = folder / "room.yaml"
    path.write_text(text, encoding="utf-8")
    source = read(path, (), Complaints())
    found = typed(source, Room, source.values)
    return found, [line.replace(f"{folder}/", "") for line in source.complaints.lines]


def test_every_entry_of_a_list_is_a_part(tmp_path: Path) -> None:
    found, complaints = room(tmp_path, "shelves:\n  - {width: 3}\n  - width: 4\n    label: b\nheat: null\n")
    assert complaints == []
    assert found == Room(shelves=(Shelf(width=3), Shelf(width=4, label="b")), heat=None)


def test_wrong_entries_are_told_by_their_place_and_the_others_are_still_read(tmp_path: Path) -> None:
    text = "shelves:\n  - {width: 0}\n  - {widht: 4}\n  -\n  - five\n  - {width: 6, label:}\n  - {width: 7}\n"
    found, complaints = room(tmp_path, text)
    assert [line.split(":", 2)[1] + line.split(":", 2)[2].partition(":")[0] for line in complaints] == [
        "2 shelves[0].width",
        "3 shelves[1].widht",
        "3 shelves[1].width",
        "4 shelves[2]",
        "5 shelves[3]",
        "6 shelves[4].label",
    ]
    assert found == Room(shelves=(Shelf(width=6), Shelf(width=7)))


@pytest.mark.parametrize("text", ["shelves: []", "shelves: 3", "shelves: {width: 3}"])
def test_what_is_no_list_of_parts(text: str, tmp_path: Path) -> None:
    _, complaints = room(tmp_path, text)
    assert "expected a list that is not empty, each entry keys and values" in complaints[0]


def test_null_is_told_where_it_is_a_value() -> None:
    assert [expected(field.type) for field in fields_of(Room)][1] == "a number, or null"
