"""Which files of a folder belong to which client.

Rules: a shard is `N.csv`, its columnar twin `N.flps`, or both. The twin counts when it is at least as new as the csv.
With `split_file_list` the shards of one folder, in natural order (9 before 10), are dealt in contiguous blocks, the
remainder to the first clients: with as many shards as clients, client i reads `i.csv`. Without it the folder is this
client's own and is read whole.
"""

from __future__ import annotations

import re
from pathlib import Path

from flps.errors import DataError

CSV_ENDS = (".csv", ".csv.gz", ".csv.xz")
ENDS = (*CSV_ENDS, ".flps")


def stem_of(path: Path) -> str:
    """The shard's name: the file's name without the endings that we know."""
    for end in ENDS:
        if path.name.endswith(end):
            return path.name[: -len(end)]
    return ""


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which 9 comes before 10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def list_shards(folder: Path) -> dict[str, list[Path]]:
    """Shards in natural order: name -> its files.

    Raises:
        DataError: no such folder, or no shard in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; gen_heter_data makes one (--splitted_data_path)")
    shards: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if stem_of(path) and path.is_file():
            shards.setdefault(stem_of(path), []).append(path)
    if not shards:
        raise DataError(
            f"{folder}: no shard in it (expected 0.csv, 1.csv, ... or 0.flps, ...); gen_heter_data makes them"
        )
    return {name: shards[name] for name in sorted(shards, key=natural)}


def deal(count: int, clients: int, client: int) -> range:
    """The positions of `count` sorted shards that fall to a client: contiguous, the remainder to the first clients."""
    each, more = divmod(count, clients)
    first = client * each + min(client, more)
    return range(first, first + each + (client < more))


def shards_of(folder: Path, client: int, clients: int, split_file_list: bool) -> list[list[Path]]:
    """The files of each shard that this client reads.

    Raises:
        DataError: the folder has no shard for this client.
    """
    shards = list_shards(folder)
    names = list(shards)
    if not split_file_list:
        return list(shards.values())
    if clients > len(names):
        wish = f"start at most {len(names)} workers, or divide the ratings again with --file_nums {clients}"
        own = "set split_file_list to False if each client has a folder of its own"
        raise DataError(f"{folder}: {clients} clients but {len(names)} shards; {wish}, or {own}")
    return [shards[names[i]] for i in deal(len(names), clients, client)]


def csv_of(files: list[Path]) -> Path | None:
    """The text form of a shard, if it has one."""
    return next((path for path in files if path.name.endswith(CSV_ENDS)), None)


def columnar_of(files: list[Path]) -> Path | None:
    """The columnar form of a shard, if it has one that is not older than its csv."""
    columnar = next((path for path in files if path.suffix == ".flps"), None)
    csv = csv_of(files)
    if columnar is None or csv is None:
        return columnar
    return columnar if columnar.stat().st_mtime_ns >= csv.stat().st_mtime_ns else None


def count_examples(files: list[list[Path]], method: str = "example") -> int:
    """`example_count_method`: "example" counts lines of the csv files, "word" their white-space separated words.

    A header is not counted. A shard that has only its columnar form counts its rows, whatever the method.

    Raises:
        DataError: another method.
    """
    from flps.data.columns import read_columns
    from flps.data.text import first_line, is_header, read_bytes

    if method not in ("example", "word"):
        raise DataError(f"example_count_method: expected example or word, found {method!r}")
    total = 0
    for shard in files:
        csv = csv_of(shard)
        if csv is None:
            total += next(iter(read_columns(shard[0]).arrays.values())).shape[0]
            continue
        content = read_bytes(csv)
        header = first_line(csv)
        counted = content.split() if method == "word" else content.splitlines()
        total += len(counted) - (len(header.split() if method == "word" else [header]) if is_header(header) else 0)
    return total
