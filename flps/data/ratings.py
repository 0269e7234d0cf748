"""Ratings as they come: ML-1M's own files, the split files of the NCF paper, or the original's csv.

Everything is turned into a Split: zero-based users and items, training pairs, one test positive a user with its
negatives. What is left out on the way (duplicates, users of one rating) is said in `notes`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Ids, Rows, join
from flps.data.evaluation import ABSENT, group
from flps.data.interactions import Interactions
from flps.data.text import blame, first_line, is_id, read_bytes, read_numbers, read_samples
from flps.errors import DataError

ARCHIVES = ("", ".gz", ".xz")
HELD_OUT_STREAM = 11
TEST_NEGATIVES = 99


@dataclass(frozen=True, eq=False)
class Split:
    """Training samples and held-out positives of a whole data set, before it is divided."""

    train: Rows  # positives only, or positives and the negatives that the files already hold
    test_users: Ids  # (U,)
    test_items: Ids  # (U, 1 + M): the positive first; -1 where a user has fewer negatives
    num_users: int
    num_items: int
    notes: list[str] = field(default_factory=list)
    item_names: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # (num_items,) the files' own ids, if mapped


def read_split(train: Path, test: Path | None = None, seed: int = 0, num_items: int = 0) -> Split:
    """Read ratings of any of the known forms; a folder is searched for them.

    `train`: ratings.dat, *.train.rating[.gz|.xz], a csv user,item,label, or a folder with one of these.
    `test`: *.test.negative[.gz|.xz] or a csv; not used with ratings.dat, whose latest ratings are held out.

    Raises:
        DataError: nothing of the kind is there, or a line is wrong, with file and line.
    """
    path = find_train(train) if train.is_dir() else train
    line = first_line(path)
    if b"::" in line:
        return leave_latest_out(path, seed, num_items)
    if b"\t" in line:
        rows, notes = read_tabbed(path)
    else:
        rows, notes = binary(join(list(read_samples(path)))), []
    test = test or sibling_test(path)
    users, items = read_test(test) if test else (np.empty(0, np.int64), np.empty((0, 1), np.int64))
    return checked_split(rows, users, items, num_items, notes)


def binary(rows: Rows) -> Rows:
    """A label above 0 is a positive."""
    return Rows(rows.users, rows.items, (rows.labels > 0).astype(np.float32))


def find_train(folder: Path) -> Path:
    """The training file of a folder."""
    names = ["ratings.dat", *(f"ml-1m.train.rating{end}" for end in ARCHIVES), "train_data.csv"]
    found = [folder / name for name in names if (folder / name).is_file()]
    found += sorted(path for end in ARCHIVES for path in folder.glob(f"*.train.rating{end}"))
    if not found:
        raise DataError(f"{folder}: none of {', '.join(names)} nor *.train.rating in it")
    return found[0]


def sibling_test(train: Path) -> Path | None:
    """X.test.negative beside X.train.rating, test_data.csv beside train_data.csv."""
    stem = train.name.removesuffix(".gz").removesuffix(".xz")
    for old, new in ((".train.rating", ".test.negative"), ("train_data.csv", "test_data.csv")):
        if stem.endswith(old):
            name = stem.removesuffix(old) + new
            return next((p for end in ARCHIVES if (p := train.with_name(name + end)).is_file()), None)
    return None


def read_tabbed(path: Path) -> tuple[Rows, list[str]]:
    """`user\\titem\\trating\\ttimestamp`, zero-based; a rating of 0 is no interaction; duplicates count once."""
    users, items, ratings, _ = read_table(path, read_bytes(path), tabbed_complaint)
    return once(users[ratings > 0], items[ratings > 0])


def read_table(path: Path, text: bytes, complaint: Any) -> tuple[NDArray[Any], ...]:
    """Four tab-separated number columns; the rating may be a fraction."""
    types = [np.int64, np.int64, np.float32, np.int64]
    try:
        parts = list(read_numbers(io.BytesIO(text), "\t", types))
        columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        if not columns or columns[0].min() < 0 or columns[1].min() < 0 or np.isnan(columns[2]).any():
            raise ValueError("no ratings" if not columns else "a negative id or a missing rating")
    except ValueError as error:
        raise blame(path, complaint, 0, error) from error
    return columns


def tabbed_complaint(line: str) -> str:
    """What is wrong with one line of an NCF rating file, or nothing."""
    return rating_complaint(line.split("\t"), "user, item, rating, timestamp between tabs")


def starred_complaint(line: str) -> str:
    """What is wrong with one line of ratings.dat, or nothing."""
    return rating_complaint(line.split("::"), "UserID::MovieID::Rating::Timestamp")


def rating_complaint(fields: list[str], expected: str) -> str:
    """What is wrong with the four fields of a rating."""
    if len(fields) != 4:
        return f"expected 4 columns {expected}, found {len(fields)}"
    if not is_id(fields[0]) or not is_id(fields[1]):
        return "expected user and item as integers from 0 to 2^63 - 1"
    try:
        float(fields[2]), int(fields[3])
    except ValueError:
        return f"expected {expected} as numbers"
    return ""


def once(users: Ids, items: Ids) -> tuple[Rows, list[str]]:
    """Pairs in their first order, a repeated pair dropped; the note says how many were."""
    width = int(items.max(initial=0)) + 1
    _, first = np.unique(users * width + items, return_index=True)
    kept = np.sort(first)
    dropped = len(users) - len(kept)
    rows = Rows(users[kept], items[kept], np.ones(len(kept), np.float32))
    return rows, [f"{dropped} repeated (user, item) pairs count once"] if dropped else []


def read_test(path: Path) -> tuple[Ids, Ids]:
    """Test users (U,) and items (U, 1 + M) from a test.negative file or a csv."""
    if not first_line(path).startswith(b"("):
        return group(join(list(read_samples(path))), str(path))
    table = str.maketrans("", "", "()")
    pairs: list[list[int]] = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        head, *negatives = line.decode("utf-8", "replace").split("\t")
        try:
            user, item = head.translate(table).split(",")
            pairs.append([int(user), int(item), *map(int, filter(None, negatives))])
        except ValueError as error:
            expected = "expected (user,item) and its negatives between tabs"
            raise DataError(f"{path}:{number}: {expected}: {line[:60]!r}") from error
    width = max(map(len, pairs), default=2)
    lines = np.array([pair + [ABSENT] * (width - len(pair)) for pair in pairs], np.int64).reshape(-1, width)
    if len(np.unique(lines[:, 0])) != len(lines):
        raise DataError(f"{path}: a user stands on more than one line, expected one held-out item a user")
    return lines[:, 0], lines[:, 1:]


def checked_split(rows: Rows, users: Ids, items: Ids, num_items: int, notes: list[str]) -> Split:
    """A split whose sizes are known; `num_items` given by the user must hold every item."""
    top = max(int(rows.items.max(initial=-1)), int(items.max(initial=-1)))
    if num_items and top >= num_items:
        raise DataError(f"--num_items {num_items}: item {top} occurs in the files")
    strangers = np.setdiff1d(users, rows.users)
    if len(strangers):
        notes = [*notes, f"{len(strangers)} test users have no training sample, e.g. user {strangers[0]}"]
    num_users = max(int(rows.users.max(initial=-1)), int(users.max(initial=-1))) + 1
    return Split(rows, users, items, num_users, num_items or top + 1, notes)


def leave_latest_out(path: Path, seed: int, num_items: int = 0) -> Split:
    """ratings.dat as the NCF paper splits it (He et al. 2017): a user's latest rating is held out, of equals the last.

    User = UserID - 1, items are numbered as they first appear; 99 negatives a user are drawn, seeded, without
    repetition from the items that the user never rated. A user of a single rating keeps it for training.
    """
    names, movies, _, times = read_table(path, read_bytes(path).replace(b"::", b"\t"), starred_complaint)
    if int(names.min()) < 1:
        raise DataError(f"{path}: UserID 0 found, ML-1M's ids start at 1")
    items, item_names = by_appearance(movies)
    users = names - 1
    rows, notes = latest_once(users, items, times)
    order = np.lexsort((np.arange(len(rows.users)), rows.labels, rows.users))
    last = np.flatnonzero(np.append(np.diff(rows.users[order]) != 0, True))
    sizes = np.diff(np.append(-1, last))
    held = np.sort(order[last[sizes > 1]])
    if (sizes == 1).any():
        notes = [
            *notes,
            f"{int((sizes == 1).sum())} users have a single rating; it stays in training, they have no test item",
        ]
    trained = np.delete(np.arange(len(rows.users)), held)
    train = Rows(rows.users[trained], rows.items[trained], np.ones(len(trained), np.float32))
    count = max(num_items, len(item_names))
    seen = Interactions.build(users, items, count)
    test_users, test_items = rows.users[held], rows.items[held]
    negatives = held_out_negatives(seen, test_users, np.random.default_rng([seed, HELD_OUT_STREAM]))
    by_user = np.argsort(test_users, kind="stable")
    lines = np.concatenate([test_items[:, None], negatives], axis=1)[by_user]
    split = checked_split(train, test_users[by_user], lines, count, notes)
    return Split(**{**split.__dict__, "item_names": item_names})


def by_appearance(names: Ids) -> tuple[Ids, Ids]:
    """Numbers 0, 1, 2 ... in the order in which names first appear, and the names behind the numbers."""
    unique, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse], unique[order]


def latest_once(users: Ids, items: Ids, times: Ids) -> tuple[Rows, list[str]]:
    """Pairs with their time in place of a label; of a repeated pair the first line stays."""
    rows, notes = once(users, items)
    if not notes:
        return Rows(users, items, times), notes
    width = int(items.max(initial=0)) + 1
    _, first = np.unique(users * width + items, return_index=True)
    return Rows(rows.users, rows.items, times[np.sort(first)]), notes


def held_out_negatives(seen: Interactions, users: Ids, rng: np.random.Generator) -> Ids:
    """(U, 99) items that a user never rated, without repetition; -1 where there are not so many."""
    index = seen.index_of(users)
    space = seen.open_items(index)
    ranks = np.full((len(users), TEST_NEGATIVES), ABSENT, np.int64)
    for row, size in enumerate(space):
        count = min(TEST_NEGATIVES, int(size))
        ranks[row, :count] = rng.choice(int(size), count, replace=False)
    found = seen.nth_open(np.repeat(index, TEST_NEGATIVES), np.maximum(ranks, 0).ravel()).reshape(ranks.shape)
    return np.where(ranks == ABSENT, ABSENT, found)
