"""Raw lines of Criteo's display advertising data: label, numbers, categories.

Tab or comma separated, without header, plain, .gz or .xz; where nothing stands between two separators, a value is
missing.
Law 1: memory is bounded by the size of a block, whatever the size of the file.
Law 2: whatever is wrong with a line is told as file:line, with what was expected.
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.data.text import first_line, open_bytes
from flps.errors import DataError

BLOCK_BYTES = 1 << 24
SHOWN_CHARACTERS = 80
RAW_NAMES = ("train.txt", "train.tsv", "train.csv")
RAW_ENDS = ("", ".gz", ".xz")


@dataclass(frozen=True)
class Layout:
    """What a line holds: an id or not, a label or not, `dense_dim` numbers, `slot_dim` categories.

    A party's own file may begin its lines with an id, by which rows were aligned and which is passed over here; a
    follower's has no label. `header`: the first line names the columns.
    """

    dense_dim: int = 13
    slot_dim: int = 26
    has_label: bool = True
    has_id: bool = False
    header: bool = False

    def __post_init__(self) -> None:
        """Refuse a line without columns."""
        if self.dense_dim < 0 or self.slot_dim < 0 or self.dense_dim + self.slot_dim < 1:
            raise DataError(f"--dense_dim {self.dense_dim} --slot_dim {self.slot_dim}: expected at least one column")

    @property
    def fields(self) -> int:
        """Columns of features: neither id nor label."""
        return self.dense_dim + self.slot_dim

    @property
    def before(self) -> int:
        """Columns before the first feature."""
        return int(self.has_id) + int(self.has_label)

    def __str__(self) -> str:
        """The columns in words."""
        first = ["id"] * self.has_id + ["label"] * self.has_label
        return ", ".join([*first, f"{self.dense_dim} numbers", f"{self.slot_dim} categories"])


CRITEO = Layout()


class Categories(NamedTuple):
    """A column of text as codes into the different texts of its block; "" is a text like any other."""

    codes: NDArray[Any]  # (R,) integers
    texts: NDArray[Any]  # (C,) str objects


class Lines(NamedTuple):
    """R parsed lines."""

    first: int  # number of the first of them in the file, from 0
    labels: NDArray[np.float32]  # (R,) 0 or 1; 0 where the file has none
    numbers: NDArray[np.float64]  # (R, dense_dim), NaN where missing
    categories: list[Categories]  # slot_dim of them


def find_raw(place: Path) -> Path:
    """The file that is meant: itself, or train.txt, .tsv or .csv (.gz, .xz) in a folder or its `origin_data`.

    Raises:
        DataError: there is none.
    """
    if place.is_file():
        return place
    for folder in (place, place / "origin_data"):
        for name in RAW_NAMES:
            for end in RAW_ENDS:
                if (folder / (name + end)).is_file():
                    return folder / (name + end)
    raise DataError(
        f"{place}: expected a file of raw Criteo lines, or a folder with train.txt in it or in its origin_data "
        "(.tsv, .csv, .gz and .xz will do)"
    )


def separator_of(path: Path) -> str:
    """Tab if the first line has one, else comma."""
    return "\t" if b"\t" in first_line(path) else ","


def blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file in pieces of whole lines.

    Raises:
        DataError: no such file, an archive that is cut short or damaged, or a line longer than a block.
    """
    rest = b""
    try:
        with open_bytes(path) as file:
            while piece := file.read(block_bytes):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    yield whole + newline
                elif len(rest) > 4 * block_bytes:
                    raise DataError(f"{path}: no line end in {len(rest)} bytes; expected lines of text")
    except (EOFError, lzma.LZMAError, BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: archive cut short or damaged ({error}); fetch it again") from error
    if rest:
        yield rest + b"\n"


def count_lines(path: Path, block_bytes: int = BLOCK_BYTES, header: bool = False) -> int:
    """Lines of a file without its header; a last one without its end counts, too."""
    return max(sum(block.count(b"\n") for block in blocks(path, block_bytes)) - header, 0)


def read_lines(path: Path, layout: Layout, limit: int | None = None, block_bytes: int = BLOCK_BYTES) -> Iterator[Lines]:
    """Parsed lines, block by block; no more than `limit`.

    Raises:
        DataError: with file and line: wrong number of columns, a label that is not 0 or 1, a number that is none.
    """
    separator = separator_of(path)
    done = 0
    for block in blocks(path, block_bytes):
        if layout.header and not done and not (block := block.partition(b"\n")[2]):
            continue
        refuse_wrong_widths(path, block, done, separator, layout)
        try:
            lines = parse(block, done, separator, layout)
        except ValueError as error:
            raise blame(path, block, done, separator, layout, error) from error
        if limit is not None and done + len(lines.labels) > limit:
            yield head(lines, limit - done)
            return
        yield lines
        done += len(lines.labels)


def refuse_wrong_widths(path: Path, block: bytes, done: int, separator: str, layout: Layout) -> None:
    """Raise DataError for the first line that has another number of columns; without a loop over the lines."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    cuts = np.flatnonzero(text == ord(separator))
    found = np.diff(np.searchsorted(cuts, ends), prepend=0) + 1
    width = layout.before + layout.fields
    wrong = np.flatnonzero(found != width)
    if wrong.size:
        row = int(wrong[0])
        line = block[int(ends[row - 1]) + 1 if row else 0 : int(ends[row])]
        number = done + row + 1 + layout.header
        raise DataError(f"{path}:{number}: expected {width} columns ({layout}), found {found[row]}: {shown(line)}")


def parse(block: bytes, first: int, separator: str, layout: Layout) -> Lines:
    """The lines of a block whose widths are right. Raises ValueError for a label or number that is none."""
    import pandas as pd  # takes 0.4 s to import, and who reads prepared columns never comes here

    dense = range(layout.before, layout.before + layout.dense_dim)
    slots = range(dense.stop, layout.before + layout.fields)
    label = [layout.before - 1] * layout.has_label
    floats = dict.fromkeys((*label, *dense), np.float64)
    # not "category": there pandas reads a column of nothing but digits as numbers, and 007 and 7 become one
    types: dict[int, Any] = dict.fromkeys(range(layout.before + layout.fields), object) | floats
    frame = pd.read_csv(
        io.BytesIO(block), sep=separator, header=None, dtype=types, quoting=3, encoding="latin-1",
        keep_default_na=False, na_values={i: [""] for i in floats}, skip_blank_lines=False, low_memory=False,
    )  # fmt: skip
    labels = frame[label[0]].to_numpy() if label else np.zeros(len(frame))
    numbers = np.column_stack([frame[i].to_numpy() for i in dense]) if len(dense) else np.empty((len(labels), 0))
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("a label that is not 0 or 1")
    if np.isinf(numbers).any():
        raise ValueError("a number without end")
    return Lines(first, labels.astype(np.float32), numbers, [categories_of(frame[i]) for i in slots])


def categories_of(column: Any) -> Categories:
    """A column of texts by its different ones."""
    import pandas as pd

    codes, texts = pd.factorize(column.to_numpy(dtype=object))
    return Categories(codes, texts)


def head(lines: Lines, count: int) -> Lines:
    """The first `count` lines."""
    columns = [Categories(column.codes[:count], column.texts) for column in lines.categories]
    return Lines(lines.first, lines.labels[:count], lines.numbers[:count], columns)


def blame(path: Path, block: bytes, done: int, separator: str, layout: Layout, error: Exception) -> DataError:
    """The error that names the first wrong line of a block that could not be parsed."""
    for number, line in enumerate(block.split(b"\n")[:-1], done + 1 + layout.header):
        fields = line.decode("latin-1").rstrip("\r").split(separator)
        if found := complaint(fields, layout):
            return DataError(f"{path}:{number}: {found}: {shown(line)}")
    return DataError(f"{path}: lines from {done + 1} on cannot be read: {error}")


def complaint(fields: list[str], layout: Layout) -> str:
    """What is wrong with a line of the right width, or nothing."""
    label = fields[layout.before - 1]
    if layout.has_label and (not is_number(label) or float(label) not in (0.0, 1.0)):
        return f"expected the label 0 or 1, found {label!r}"
    for column, field in enumerate(fields[layout.before : layout.before + layout.dense_dim], 1):
        if field and not is_number(field):
            return f"column I{column}: expected a number or nothing, found {field!r}"
    return ""


def is_number(field: str) -> bool:
    """Whether the text is a finite number."""
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False


def shown(line: bytes) -> str:
    """The start of a line, as it may be printed."""
    return repr(line[:SHOWN_CHARACTERS].rstrip(b"\r").decode("utf-8", "backslashreplace"))
