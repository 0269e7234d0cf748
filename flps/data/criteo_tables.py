"""A party's table with named columns becomes rows to train on: I1, I2, ... are numbers, C1, C2, ... categories.

Law 1: a table is checked while its ids are read, before anybody is asked for anything; complaints name file and line,
and never a value, since the other parties hear them.
Law 2: every party's rows are split at the same place, since all have equally many; ids are a party's own, learned of
its training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_text import CRITEO, Layout
from flps.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SHOWN_COLUMNS = 12
CHUNK_ROWS = 50_000


class TableColumns(NamedTuple):
    """What a party's net needs of its table."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    label: str  # "": the party has none

    @property
    def names(self) -> list[str]:
        """All of them, in the order of raw lines."""
        return [self.label] * bool(self.label) + [*self.numbers, *self.categories]

    @property
    def layout(self) -> Layout:
        """Of the raw lines: each begins with a number of its own."""
        return Layout(len(self.numbers), len(self.categories), has_label=bool(self.label), has_id=True)


def columns_of(numbers: Iterable[int], label: str) -> TableColumns:
    """The names of columns by their numbers: 0 is I1, 12 is I13, 13 is C1, 38 is C26. Raises DataError for others."""
    dense, chosen = CRITEO.dense_dim, sorted(numbers)
    if chosen and chosen[-1] >= CRITEO.fields:
        raise DataError(f"there is no column {chosen[-1]}; there are {CRITEO.fields}, from 0")
    return TableColumns(
        tuple(f"I{number + 1}" for number in chosen if number < dense),
        tuple(f"C{number - dense + 1}" for number in chosen if number >= dense),
        label,
    )


def checked_ids(
    pieces: Iterable[pd.DataFrame], id_column: str, columns: TableColumns, table: str, place: Callable[[int], str]
) -> Iterator[Sequence[Any]]:
    """The id column of a table that comes in pieces, which can be trained on as far as it has been read.

    table: what to call it; place: the same for a row, from 0.
    Raises DataError for a column that is missing, a label that is not 0 or 1, a number that is none.
    """
    first = 0
    for piece in pieces:
        _check_names([str(name) for name in piece.columns], [id_column, *columns.names], table)
        if columns.label:
            labels = _numbers(piece[columns.label])
            _check(np.isin(labels, (0.0, 1.0)), first, place, f"column {columns.label}: expected the label 0 or 1")
        for name in columns.numbers:
            is_right = np.isfinite(_numbers(piece[name]))
            if not is_right.all():
                is_right[~is_right] = _texts(piece[name][~is_right]).str.strip() == ""
            _check(is_right, first, place, f"column {name}: expected a number or nothing")
        yield piece[id_column].tolist()
        first += len(piece)


def prepare_table(
    table: Path, folder: Path, columns: TableColumns, own: int, threshold: int, train_share: float
) -> dict[str, Any]:
    """Rows in the new folder of an aligned csv, the first `train_share` of them to train on; the folder's card.

    own: number of the party, 0 the leader.
    Raises DataError when one of the two parts would be empty.
    """
    lines = folder.with_name(folder.name + ".tsv")
    try:
        rows = _write_lines(table, columns, lines)
        if not 0 < round(rows * train_share) < rows:
            raise DataError(f"{rows} aligned rows leave none to train on, or none to hold out, by train_share")
        recipe = Recipe(columns.layout, threshold, train_share=train_share, own=own)
        return prepare(lines, folder, recipe, line_count=rows)
    finally:
        lines.unlink(missing_ok=True)


def _write_lines(table: Path, columns: TableColumns, lines: Path) -> int:
    """The table as raw lines; how many. White space in a category that would end it becomes a space."""
    import pandas as pd

    rows = 0
    with lines.open("w", encoding="utf-8", newline="") as file:
        for piece in pd.read_csv(table, dtype=str, keep_default_na=False, index_col=False, chunksize=CHUNK_ROWS):
            texts = [_texts(piece[name]).str.replace(r"[\t\r\n]", " ", regex=True) for name in columns.names]
            texts = [t if t.name in columns.categories else t.str.strip() for t in texts]
            for number, values in enumerate(zip(*texts, strict=True), rows):
                file.write(f"{number}\t" + "\t".join(values) + "\n")
            rows += len(piece)
    return rows


def _texts(column: pd.Series[Any]) -> pd.Series[str]:
    """Values as text, "" where nothing stands."""
    return column.astype(object).where(column.notna(), "").astype(str)


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Values as numbers, NaN where none stands; a truth value is none."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column):
        return np.full(len(column), np.nan)
    found: np.ndarray[Any, np.dtype[np.float64]]
    found = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return found


def _check_names(there: Sequence[str], wanted: Sequence[str], table: str) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        shown = ", ".join(there[:SHOWN_COLUMNS]) + (", ..." if len(there) > SHOWN_COLUMNS else "")
        raise DataError(f"{table}: there is no column {', '.join(missing)}; there are {shown}")


def _check(is_right: np.ndarray[Any, Any], first: int, place: Callable[[int], str], expected: str) -> None:
    wrong = np.flatnonzero(~is_right)
    if wrong.size:
        more = f" (and in {wrong.size - 1} rows after it)" if wrong.size > 1 else ""
        raise DataError(f"{place(first + int(wrong[0]))}: {expected}{more}")
