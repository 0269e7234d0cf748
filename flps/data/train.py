"""A client's training samples: shuffled anew each epoch, with negatives drawn anew where the config says so.

Law: epoch e of client c is a function of (seed, c, e) and the files; started at step k it gives what was left then.
Law: memory is bounded by the window, not by the files, when a foreign reader streams them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Batch, Ids, Rows, join
from flps.data.columns import compact, read_columns
from flps.data.interactions import Interactions
from flps.data.shards import columnar_of, count_examples, shards_of
from flps.data.sources import Reader, timed
from flps.errors import DataError

log = logging.getLogger(__name__)

EPOCH_STREAM = 1  # second word of the seed, so that no other choice of this client draws the same numbers
Negatives = Literal["fresh", "fixed"]


@dataclass(frozen=True)
class Sampling:
    """What an epoch is made of."""

    batch_size: int = 512
    seed: int = 0
    negatives: Negatives = "fresh"  # fresh: label-0 rows of the files are passed over and new ones drawn each epoch
    num_neg: int = 4  # per positive, when fresh
    num_users: int = 0  # ids at or above are refused; 0: any
    num_items: int = 0  # negatives are drawn below it; 0: as the shard says, else the largest id + 1
    window: int = 1 << 20  # rows that are shuffled together when a foreign reader streams them
    shuffle: bool = True
    debug: bool = False  # dataset_debug: log the time of the reader and of its user


@dataclass(frozen=True, eq=False)
class TrainSet:
    """The training samples of one client."""

    client: int
    shards: list[list[Path]]
    reader: Reader
    sampling: Sampling
    interactions: Interactions  # this client's positives
    samples: int  # per epoch, negatives included
    resident: Rows | None = None  # all rows, when flps reads the files itself
    _index: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # of the resident users in `interactions`

    @property
    def users(self) -> Ids:
        """(U,) sorted ids of the users who have at least one positive here."""
        return self.interactions.users

    @property
    def num_items(self) -> int:
        """Items are below this."""
        return self.interactions.num_items

    def steps(self, batch_size: int = 0) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-self.samples // (batch_size or self.sampling.batch_size))

    def examples(self, method: str = "example") -> int:
        """Lines ("example") or words ("word") of this client's files."""
        return count_examples(self.shards, method)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_step` on."""
        sizes = self.sampling
        rng = np.random.default_rng([sizes.seed, EPOCH_STREAM, self.client, epoch])
        rows = (self.with_negatives(part, rng) for part in self.windows())
        mixed = (shuffled(part, rng) for part in rows) if sizes.shuffle else rows
        batches = in_batches(mixed, sizes.batch_size, start_step)
        return timed(batches, log, f"epoch {epoch} of client {self.client}") if sizes.debug else batches

    def windows(self) -> Iterator[Rows]:
        """Rows that are shuffled together."""
        if self.resident is not None:
            yield self.resident
            return
        held: list[Rows] = []
        for rows in self.reader.rows(self.shards):
            held.append(rows)
            while sum(len(part.users) for part in held) >= self.sampling.window:
                whole = join(held)
                yield whole.take(slice(self.sampling.window))
                held = [whole.take(slice(self.sampling.window, None))]
        if held:
            yield join(held)

    def with_negatives(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """The rows as they are, or their positives with `num_neg` drawn negatives each."""
        sizes = self.sampling
        if sizes.negatives == "fixed":
            return rows
        if self.resident is None:
            rows = positives(rows)
            index = self.interactions.index_of(rows.users)
        else:
            index = self._index
        drawn = self.interactions.draw(rng, index, sizes.num_neg).astype(rows.items.dtype)
        items = np.concatenate([rows.items[:, None], drawn], axis=1)
        labels = np.zeros(items.shape, np.float32)
        labels[:, 0] = rows.labels
        users = np.broadcast_to(rows.users[:, None], items.shape)
        if not sizes.num_neg or (drawn.size and drawn.min() >= 0):
            return Rows(users.ravel(), items.ravel(), labels.ravel())
        kept = items >= 0
        return Rows(users[kept], items[kept], labels[kept])


def open_train(
    train_data_dir: str | Path,
    client: int,
    clients: int,
    *,
    reader: Reader | None = None,
    sampling: Sampling | None = None,
    split_file_list: bool = True,
) -> TrainSet:
    """Open the shards of one client out of `clients`; one pass over the files finds users and positives.

    Raises:
        DataError: no shard for this client, or a wrong line, with file and line.
        ConfigError: the reader of the config cannot be used.
    """
    reader, sampling = reader or Reader(), sampling or Sampling()
    shards = shards_of(Path(train_data_dir), client, clients, split_file_list)
    if reader.is_native:
        return open_resident(client, shards, reader, sampling)
    return open_streamed(client, shards, reader, sampling)


def open_resident(client: int, shards: list[list[Path]], reader: Reader, sampling: Sampling) -> TrainSet:
    """All rows of this client stay at hand, mapped where the shard is columnar."""
    rows = join([narrow(part) for part in reader.rows(shards)])
    pairs = positives(rows)
    interactions = index_positives([pairs], largest(rows), shards, sampling)
    kept = rows if sampling.negatives == "fixed" else pairs
    index = interactions.index_of(pairs.users)
    warn_one_sided(client, shards, len(rows.users), len(index), sampling)
    samples = count_samples(len(rows.users), index, interactions, sampling)
    return TrainSet(client, shards, reader, sampling, interactions, samples, kept, index)


def open_streamed(client: int, shards: list[list[Path]], reader: Reader, sampling: Sampling) -> TrainSet:
    """Only the positives' ids are kept; every epoch asks the reader again."""
    parts, count, top = [], 0, (-1, -1)
    for rows in reader.rows(shards):
        part = narrow(rows)
        count += len(part.users)
        top = tuple(map(max, top, largest(part)))  # type: ignore[assignment]
        parts.append(positives(part))
    interactions = index_positives(parts, top, shards, sampling)
    index = interactions.index_of(join(parts).users)
    warn_one_sided(client, shards, count, len(index), sampling)
    return TrainSet(client, shards, reader, sampling, interactions, count_samples(count, index, interactions, sampling))


def warn_one_sided(client: int, shards: list[list[Path]], rows: int, positives: int, sampling: Sampling) -> None:
    """Say so when a model would see label 1 only, and learn nothing."""
    if rows and rows == positives and (sampling.negatives == "fixed" or not sampling.num_neg):
        advice = "set runner.negatives to fresh, or divide the ratings with --negatives fixed"
        log.warning("client %d: no sample of label 0 in %s; %s", client, shards[0][0].parent, advice)


def count_samples(rows: int, index: Ids, interactions: Interactions, sampling: Sampling) -> int:
    """Samples of an epoch; a user who has every item gets no negatives."""
    if sampling.negatives == "fixed":
        return rows
    return len(index) + sampling.num_neg * int((interactions.open_items(index) > 0).sum())


def index_positives(
    parts: list[Rows], top: tuple[int, int], shards: list[list[Path]], sampling: Sampling
) -> Interactions:
    """The positives of this client, once its ids are known to fit the config."""
    files = ", ".join(str(files[0]) for files in shards)
    for what, id_, limit in (("user", top[0], sampling.num_users), ("item", top[1], sampling.num_items)):
        if limit and id_ >= limit:
            raise DataError(
                f"{files}: {what} {id_} is not below num_{what}s = {limit} of the config; raise it, or divide again"
            )
    rows = join(parts)
    num_items = sampling.num_items or noted_items(shards) or top[1] + 1
    return Interactions.build(rows.users, rows.items, max(num_items, top[1] + 1))


def noted_items(shards: list[list[Path]]) -> int:
    """The number of items that gen_heter_data wrote into the columnar shards; 0 where there are none."""
    columnar = [path for path in map(columnar_of, shards) if path is not None]
    return max((int(read_columns(path).meta.get("num_items", 0)) for path in columnar), default=0)


def largest(rows: Rows) -> tuple[int, int]:
    """The largest user and item id; -1 where there are no rows."""
    return (int(rows.users.max()), int(rows.items.max())) if len(rows.users) else (-1, -1)


def positives(rows: Rows) -> Rows:
    """The rows with a label above 0; the rows themselves where that is all of them."""
    wanted: NDArray[Any] = rows.labels > 0
    return rows if wanted.all() else rows.take(wanted)


def narrow(rows: Rows) -> Rows:
    """Ids in four bytes where they fit; a batch widens them again."""
    return Rows(compact(rows.users), compact(rows.items), rows.labels.astype(np.float32, copy=False))


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows in a random order."""
    order = np.arange(len(rows.users), dtype=np.int32 if len(rows.users) < 2**31 else np.int64)
    rng.shuffle(order)
    return rows.take(order)


def in_batches(parts: Iterator[Rows], size: int, start_step: int) -> Iterator[Batch]:
    """Slices of `size` across the borders of the parts, the first `start_step` of them passed over."""
    held: list[Rows] = []
    skip = start_step * size
    for part in parts:
        whole = join([*held, part])
        end = len(whole.users) // size * size
        for lo in range(min(skip, end), end, size):
            yield batch_of(whole, lo, lo + size)
        skip -= min(skip, end)
        held = [whole.take(slice(end, None))]
    if held and len(held[0].users) and not skip:
        yield batch_of(held[0], 0, size)


def batch_of(rows: Rows, lo: int, hi: int) -> Batch:
    """One slice with the types that models expect."""
    return Batch(
        rows.users[lo:hi].astype(np.int64, copy=False),
        rows.items[lo:hi].astype(np.int64, copy=False),
        rows.labels[lo:hi].astype(np.float32, copy=False),
    )
