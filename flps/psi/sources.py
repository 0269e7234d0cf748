"""Tables that hold a party's rows: csv, parquet, or a table of a database. Read in pieces, twice: ids first, then rows.

Law 1: the rows come in the same order both times; who reads them checks that they are still the same.
Law 2: values go through as they are: the text of a csv is not made into numbers, whole numbers with gaps stay whole.
Law 3: what is missing (a file, a column, an optional package) is said in one line, with what is there instead.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from flps.errors import ConfigError, DataError

CHUNK_ROWS = 50_000
CSV_ENDINGS = (".csv", ".csv.gz", ".csv.xz", ".csv.bz2", ".csv.zst")
PARQUET_ENDINGS = (".parquet", ".pq")
MATCHED = "psi_matched"  # column of the leader's file when rows of the peer's cover the matches: 1, or 0 and no values
RANK = "psi_rank"  # column of files under way


def open_source(where: str, id_column: str, table: str | None = None, delimiter: str = ",") -> Source:
    """What `where` names: a file by its ending, or a database by its URL; `env:NAME` is the URL in that variable.

    Raises ConfigError when it is none of these, or not there.
    """
    if where.startswith("env:"):
        url = os.environ.get(where[4:])
        if not url:
            raise ConfigError(f"--input {where}: the environment has no {where[4:]}; it should hold a database's URL")
        return _database(url, id_column, table)
    if "://" in where:
        return _database(where, id_column, table)
    if table is not None:
        raise ConfigError(
            f"--table is of a database, but {where} is a file; a database is written as sqlite:///file.db"
        )
    path = Path(where)
    if not path.is_file():
        raise ConfigError(f"{where}: there is no such file")
    if path.name.lower().endswith(CSV_ENDINGS):
        return Csv(where, id_column, path, delimiter)
    if path.name.lower().endswith(PARQUET_ENDINGS):
        return Parquet(where, id_column, path)
    raise ConfigError(f"{where}: expected a file {', '.join((*CSV_ENDINGS, *PARQUET_ENDINGS))}, or a database's URL")


@dataclass(frozen=True)
class Csv:
    """A csv file with a header, in UTF-8."""

    name: str
    id_column: str
    path: Path
    delimiter: str = ","

    def ids(self) -> Iterator[Sequence[Any]]:
        """The id column as text."""
        _check_column(self.name, self.id_column, self._columns())
        for piece in self._pieces(usecols=[self.id_column]):
            yield piece[self.id_column].tolist()

    def rows(self) -> Iterator[pd.DataFrame]:
        """All columns as text."""
        yield from self._pieces()

    def _columns(self) -> list[str]:
        return [str(column) for piece in self._pieces(nrows=0) for column in piece.columns]

    def _pieces(self, **how: Any) -> Iterator[pd.DataFrame]:
        if "nrows" not in how:
            how["chunksize"] = CHUNK_ROWS
        try:
            read: Any = pd.read_csv(
                self.path, sep=self.delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig",
                index_col=False, **how,
            )  # fmt: skip
            yield from [read] if isinstance(read, pd.DataFrame) else read
        except (ValueError, OSError, EOFError) as error:  # the parser's errors are ValueErrors
            raise DataError(f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Parquet:
    """A parquet file."""

    name: str
    id_column: str
    path: Path

    def ids(self) -> Iterator[Sequence[Any]]:
        """The id column as Python values."""
        for batch in self._batches([self.id_column]):
            yield batch.column(0).to_pylist()

    def rows(self) -> Iterator[pd.DataFrame]:
        """All columns; those with gaps in types that have room for gaps."""
        for batch in self._batches(None):
            frame: pd.DataFrame = batch.to_pandas(types_mapper=with_gaps().get)
            yield frame

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        parquet = optional("pyarrow.parquet", "parquet", self.name)
        try:
            with parquet.ParquetFile(self.path) as file:
                _check_column(self.name, self.id_column, list(file.schema_arrow.names))
                yield from file.iter_batches(CHUNK_ROWS, columns=columns)
                if not file.metadata.num_rows:
                    yield file.read(columns=columns)  # no batch would come, and with it no columns
        except (ValueError, OSError) as error:  # what pyarrow raises for a broken file is one of these
            raise DataError(f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Table:
    """A table, or a view, of a database."""

    name: str
    id_column: str
    url: str = field(repr=False)  # it may hold a password
    table: str

    def ids(self) -> Iterator[Sequence[Any]]:
        """The id column as the database's values."""
        for piece in self._pieces(only_ids=True):
            yield piece[self.id_column].tolist()

    def rows(self) -> Iterator[pd.DataFrame]:
        """All columns, in types that have room for gaps."""
        yield from self._pieces(only_ids=False)

    def _pieces(self, *, only_ids: bool) -> Iterator[pd.DataFrame]:
        sqlalchemy = optional("sqlalchemy", "sql", self.name)
        try:
            engine = sqlalchemy.create_engine(self.url)
        except Exception as error:  # the drivers' packages are missing in as many ways as there are drivers
            raise ConfigError(f"{self.name}: {error}") from error
        try:
            with engine.connect().execution_options(stream_results=True) as connection:
                query = self._query(sqlalchemy, connection, only_ids=only_ids)
                yield from pd.read_sql(query, connection, chunksize=CHUNK_ROWS, dtype_backend="numpy_nullable")
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise DataError(f"{self.name}: {str(error).splitlines()[0]}") from error
        finally:
            engine.dispose()

    def _query(self, sqlalchemy: Any, connection: Any, *, only_ids: bool) -> Any:
        """Ordered by all columns that can name a row, since a database promises no order by itself."""
        schema, _, name = self.table.rpartition(".")
        inspector = sqlalchemy.inspect(connection)
        try:
            columns = [column["name"] for column in inspector.get_columns(name, schema=schema or None)]
        except sqlalchemy.exc.NoSuchTableError:
            there = ", ".join(sorted(inspector.get_table_names(schema=schema or None))[:10]) or "none"
            raise ConfigError(f"{self.name}: there is no table {self.table!r}; there are: {there}") from None
        _check_column(self.name, self.id_column, columns)
        table = sqlalchemy.table(name, *map(sqlalchemy.column, columns), schema=schema or None)
        wanted = [table.c[self.id_column]] if only_ids else list(table.c)
        return sqlalchemy.select(*wanted).order_by(table.c[self.id_column])


Source: TypeAlias = Csv | Parquet | Table  # each with `ids()` and `rows()`, piece by piece


def optional(module: str, extra: str, what: str) -> Any:
    """A package that only some inputs want. Raises ConfigError, with how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(f"{what} wants the package {package}: pip install 'flps[{extra}]'") from None


def _database(url: str, id_column: str, table: str | None) -> Table:
    if table is None:
        raise ConfigError("a database wants --table: the table or view that holds the rows")
    shown = url.partition("://")[0] + "://" + url.rpartition("@")[2].rpartition("://")[2]  # neither user nor password
    return Table(f"table {table} of {shown}", id_column, url, table)


def _check_column(name: str, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        shown = ", ".join(map(str, columns[:12])) + (", ..." if len(columns) > 12 else "")
        raise DataError(f"{name}: there is no column {column!r}; there are {shown}")
    if list(columns).count(column) > 1:
        raise DataError(f"{name}: the column {column!r} is there {list(columns).count(column)} times")
    if taken := {RANK, MATCHED} & set(columns):
        raise DataError(f"{name}: a column is called {taken.pop()}, a name that is taken; call it otherwise")


def with_gaps() -> dict[Any, Any]:
    """pyarrow type -> pandas type, for those that numpy would turn into floats where a value is missing."""
    arrow = importlib.import_module("pyarrow")
    names = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    numbers = {
        getattr(arrow, name)(): pd.api.types.pandas_dtype(name.replace("int", "Int").replace("u", "U"))
        for name in names
    }
    return {**numbers, arrow.bool_(): pd.BooleanDtype()}
