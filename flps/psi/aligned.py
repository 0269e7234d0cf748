"""The rows of an alignment, in its order, as a file; and beside it a few lines that the peer's must agree with.

    OUTPUT                the rows, every column as it came
    OUTPUT.psi.json       how many, and the digest of their order: the same at both parties

Law 1: rows are read as they come and sorted in buckets on the disk, so that a table need not fit into memory.
Law 2: a table that changed since its ids were read is refused: every row's id is looked at again.
Law 3: both files are there whole or not at all, and the digest last.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd

from flps.disk import beside, cannot_write, put_in_place, write_whole
from flps.errors import ConfigError, DataError, ProtocolError
from flps.psi.curve import to_points
from flps.psi.ids import Ids, text_of
from flps.psi.message import Reveal, Role
from flps.psi.protocol import Alignment, Positions
from flps.psi.sources import CSV_ENDINGS, MATCHED, PARQUET_ENDINGS, RANK, Source, optional, with_gaps

BUCKET_ROWS = 100_000


class Card(msgspec.Struct, frozen=True):
    """What stands beside an aligned file."""

    role: Role
    reveal: Reveal
    id_column: str
    rows: int
    matched: int | None  # None: this party is not to know
    digest: str
    dropped_empty: int
    dropped_repeated: int


def card_of(path: Path) -> Path:
    """Where the card of an aligned file is."""
    return path.with_name(path.name + ".psi.json")


def read_card(path: Path) -> Card:
    """The card of the aligned file `path`. Raises DataError when there is none, or not a card."""
    try:
        return msgspec.json.decode(card_of(path).read_bytes(), type=Card)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{card_of(path)}: {error}; `flps psi` writes it beside its output") from error


def check_same(own: Card, peer_rows: int, peer_digest: str) -> None:
    """Raises ProtocolError unless the peer's aligned file is the other half of this one."""
    if (own.rows, own.digest) != (peer_rows, peer_digest):
        raise ProtocolError(
            f"the parties' files are of different alignments: {own.rows} rows of digest {own.digest[:12]} here, "
            f"{peer_rows} of {peer_digest[:12]} at the peer; run flps psi again at both"
        )


def check_output(path: Path) -> None:
    """Raises ConfigError for a file whose ending says nothing, or that cannot be written: before the work is done."""
    if not path.name.lower().endswith((*CSV_ENDINGS[:1], *PARQUET_ENDINGS)):
        raise ConfigError(f"--output {path}: expected a file .csv or .parquet")
    if path.name.lower().endswith(PARQUET_ENDINGS):
        optional("pyarrow", "parquet", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {path}: nothing can be written there")


def write_aligned(
    path: Path,
    source: Source,
    ids: Ids,
    alignment: Alignment,
    role: Role,
    reveal: Reveal,
    bucket_rows: int = BUCKET_ROWS,
) -> Card:
    """Write the rows of `source` that `alignment` names, in its order, and the card; returns the card.

    Raises DataError when the table is no longer as it was, ResourceError when a file cannot be written.
    """
    rows = alignment.rows
    rank_of_row = np.full(ids.table_rows, -1, np.int64)
    own = np.flatnonzero(rows >= 0)
    rank_of_row[ids.rows[rows[own]]] = own
    partial = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=path.name + ".", dir=path.parent) as folder:
            buckets = _Buckets(Path(folder), bucket_rows, path.suffix)
            for piece in _chosen(source, ids, rank_of_row):
                buckets.add(piece)
            covers = len(own) < len(rows) or (reveal == "leader" and role == "leader")
            buckets.store.write(_frames(buckets, len(rows), with_covers=covers), partial)
        put_in_place(path)
        card = Card(
            role, reveal, source.id_column, len(rows), alignment.matched, alignment.digest, ids.empty, ids.repeated
        )
        write_whole(card_of(path), msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return card


def _chosen(source: Source, ids: Ids, rank_of_row: Positions) -> Iterator[pd.DataFrame]:
    """The rows that have a rank, with it. Raises DataError when the table has changed."""
    at = 0
    for piece in source.rows():
        if at + len(piece) > len(rank_of_row):
            break
        ranks = rank_of_row[at : at + len(piece)]
        kept = np.flatnonzero(ranks >= 0)
        chosen = piece.iloc[kept]
        texts = [text_of(value) for value in chosen[source.id_column].tolist()]
        if not np.array_equal(to_points(texts), ids.points[np.searchsorted(ids.rows, at + kept)]):
            raise DataError(
                f"{source.name}: ids have changed while they were aligned; do it again with a table at rest"
            )
        if {RANK, MATCHED} & set(piece.columns):
            raise ConfigError(f"{source.name}: a column is called {RANK} or {MATCHED}; these names are taken")
        yield chosen.assign(**{RANK: ranks[kept]})
        at += len(piece)
    else:
        if at == len(rank_of_row):
            return
    raise DataError(f"{source.name}: it had {len(rank_of_row)} rows when its ids were read, and has other ones now")


class _Store(Protocol):
    """A kind of file in which pieces of a bucket wait, and in which the result is written."""

    def keep(self, bucket: int, piece: pd.DataFrame) -> None:
        """Note down rows of a bucket."""

    def take(self, bucket: int) -> pd.DataFrame:
        """All rows of a bucket."""

    def write(self, frames: Iterator[pd.DataFrame], path: Path) -> None:
        """Write frames one after the other into one file."""


class _Buckets:
    """Rows by rank, `bucket_rows` ranks each."""

    def __init__(self, folder: Path, bucket_rows: int, suffix: str) -> None:
        self.bucket_rows = bucket_rows
        self.store: _Store = _CsvStore(folder) if suffix.lower() == ".csv" else _ParquetStore(folder)

    def add(self, piece: pd.DataFrame) -> None:
        """Put each row into its bucket; a piece without rows still tells the columns."""
        buckets = piece[RANK].to_numpy() // self.bucket_rows
        for bucket in np.unique(buckets) if len(piece) else [0]:
            self.store.keep(int(bucket), piece[buckets == bucket])


def _frames(buckets: _Buckets, total: int, *, with_covers: bool) -> Iterator[pd.DataFrame]:
    for first in range(0, max(total, 1), buckets.bucket_rows):
        frame = buckets.store.take(first // buckets.bucket_rows)
        ranks = range(first, min(first + buckets.bucket_rows, total))
        frame.index = pd.Index(frame[RANK].astype(np.int64))
        is_own = np.isin(ranks, frame.index.to_numpy())
        frame = frame.reindex(ranks).drop(columns=RANK)
        yield frame.assign(**{MATCHED: is_own.astype(np.int64)}) if with_covers else frame


class _CsvStore:
    """Buckets and result as csv."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, bucket: int, piece: pd.DataFrame) -> None:
        path = self._path(bucket)
        piece.to_csv(path, mode="a", header=not path.exists(), index=False)

    def take(self, bucket: int) -> pd.DataFrame:
        path = self._path(bucket)
        if not path.exists():  # nothing but covers
            return pd.DataFrame({name: pd.Series(dtype=str) for name in self._columns()})
        return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)

    def write(self, frames: Iterator[pd.DataFrame], path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, frame in enumerate(frames):
                frame.to_csv(file, header=number == 0, index=False)

    def _columns(self) -> list[str]:
        some = next(iter(sorted(self._folder.iterdir())), None)
        return [] if some is None else list(pd.read_csv(some, nrows=0).columns)

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.csv"


class _ParquetStore:
    """Buckets and result as parquet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrow = optional("pyarrow", "parquet", "parquet")
        self._parquet = optional("pyarrow.parquet", "parquet", "parquet")

    def keep(self, bucket: int, piece: pd.DataFrame) -> None:
        table = self._arrow.Table.from_pandas(piece, preserve_index=False)
        number = len(list(self._folder.glob(f"{bucket}-*.parquet")))
        self._parquet.write_table(table, self._folder / f"{bucket}-{number}.parquet")

    def take(self, bucket: int) -> pd.DataFrame:
        parts = [self._parquet.read_table(path) for path in sorted(self._folder.glob(f"{bucket}-*.parquet"))]
        whole = self._schema()
        table = self._arrow.concat_tables([part.cast(whole) for part in parts]) if parts else whole.empty_table()
        frame: pd.DataFrame = table.to_pandas(types_mapper=with_gaps().get)
        return frame

    def write(self, frames: Iterator[pd.DataFrame], path: Path) -> None:
        first = next(frames)
        columns = [self._schema().field(name) for name in first.columns if name != MATCHED]
        marks = [self._arrow.field(MATCHED, self._arrow.int64())] if MATCHED in first.columns else []
        schema = self._arrow.schema([*columns, *marks])
        with self._parquet.ParquetWriter(path, schema) as writer:
            for frame in (first, *frames):
                writer.write_table(self._arrow.Table.from_pandas(frame, schema=schema, preserve_index=False))

    def _schema(self) -> Any:
        """The types of all parts together: a column may be without a value in one of them."""
        schemas = [self._parquet.read_schema(path).remove_metadata() for path in sorted(self._folder.iterdir())]
        return self._arrow.unify_schemas(schemas, promote_options="default")
