"""A client's test users: one held-out positive each and the negatives it is ranked against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Batch, Ids, Rows, join
from flps.data.columns import read_columns
from flps.data.shards import columnar_of, shards_of
from flps.data.sources import Reader
from flps.errors import DataError

ABSENT = -1


@dataclass(frozen=True, eq=False)
class TestSet:
    """U users with one positive and up to M negatives each."""

    users: Ids  # (U,)
    items: Ids  # (U, 1 + M): the positive first; a place that is not valid repeats the positive
    valid: NDArray[np.bool_]  # (U, 1 + M): False for a negative that equals the positive, and for padding

    __test__ = False  # for pytest: no test class

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Every valid (user, item, label) in the order of the files, for AUC."""
        labels = np.zeros(self.items.shape, np.float32)
        labels[:, :1] = 1
        users = np.broadcast_to(self.users[:, None], self.items.shape)[self.valid]
        items, flat = self.items[self.valid], labels[self.valid]
        for lo in range(0, len(users), batch_size):
            yield Batch(users[lo : lo + batch_size], items[lo : lo + batch_size], flat[lo : lo + batch_size])


def open_test(
    test_data_dir: str | Path,
    client: int,
    clients: int,
    *,
    reader: Reader | None = None,
    split_file_list: bool = True,
    num_users: int = 0,
    num_items: int = 0,
) -> TestSet:
    """Open the test shards of one client.

    Raises:
        DataError: no shard for this client, a wrong line, or a user without exactly one positive.
        ConfigError: the reader of the config cannot be used.
    """
    reader = reader or Reader()
    shards = shards_of(Path(test_data_dir), client, clients, split_file_list)
    parts = [open_shard(files, reader) for files in shards]
    users = np.concatenate([users for users, _ in parts])
    width = max(items.shape[1] for _, items in parts)
    items = np.concatenate([padded(items, width) for _, items in parts])
    where = ", ".join(str(files[0]) for files in shards)
    for what, ids, limit in (("user", users, num_users), ("item", items, num_items)):
        if limit and ids.size and int(ids.max()) >= limit:
            raise DataError(f"{where}: {what} {int(ids.max())} is not below num_{what}s = {limit} of the config")
    return rankable(users, items)


def open_shard(files: list[Path], reader: Reader) -> tuple[Ids, Ids]:
    """Users (U,) and items (U, 1 + M) of one shard."""
    columnar = columnar_of(files)
    if reader.is_native and columnar is not None:
        arrays = read_columns(columnar).arrays
        if arrays.get("items", np.empty(0)).ndim != 2 or "users" not in arrays:
            raise DataError(f"{columnar}: expected columns users (U,) and items (U, 1 + M), found {', '.join(arrays)}")
        return arrays["users"].astype(np.int64), arrays["items"].astype(np.int64)
    return group(join(list(reader.rows([files]))), str(files[0]))


def group(rows: Rows, where: str) -> tuple[Ids, Ids]:
    """Rows of label 1 and 0 in any order as one line per user, positive first, negatives in file order.

    Raises:
        DataError: a user without exactly one positive.
    """
    users, first, index = np.unique(rows.users, return_index=True, return_inverse=True)
    wins = np.bincount(index, weights=rows.labels > 0, minlength=len(users))
    if (wins != 1).any():
        wrong = int(np.flatnonzero(wins != 1)[0])
        raise DataError(f"{where}: user {users[wrong]} has {int(wins[wrong])} positives, expected 1 and its negatives")
    order = np.lexsort((rows.labels <= 0, first[index]))
    counts = np.bincount(index, minlength=len(users))
    ranked = np.argsort(first)
    sizes = counts[ranked]
    column = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = np.full((len(users), int(counts.max(initial=1))), ABSENT, np.int64)
    items[np.repeat(np.arange(len(users)), sizes), column] = rows.items[order]
    return users[ranked].astype(np.int64), items


def padded(items: Ids, width: int) -> Ids:
    """The same lines with absent items behind them."""
    return np.pad(items, ((0, 0), (0, width - items.shape[1])), constant_values=ABSENT)


def rankable(users: Ids, items: Ids) -> TestSet:
    """Absent places and negatives that equal the positive are marked, and hold an id that a table knows."""
    positive = items[:, :1]
    valid: NDArray[Any] = (items != ABSENT) & (items != positive)
    valid[:, 0] = True
    return TestSet(users, np.where(valid, items, positive), valid)
