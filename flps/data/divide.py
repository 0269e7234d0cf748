"""Who gets which samples: from a whole data set to one client per shard.

Law: in every way but `equal` a user is on one client only, so that private user rows make sense.
Law: a division is a function of the ratings, the arguments and the seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from flps.data.batch import Ids
from flps.data.ratings import Split
from flps.data.text import read_bytes
from flps.errors import ConfigError, DataError

By = Literal["zipcode", "user", "quantity", "dirichlet", "equal"]
WAYS: tuple[str, ...] = get_args(By)
DIVIDE_STREAM = 12
ZIP_PLACES = 5
TASTES = 10


def read_zip_codes(path: Path) -> dict[int, str]:
    """users.dat, `UserID::Gender::Age::Occupation::Zip` -> zip code by zero-based user.

    Raises:
        DataError: with file and line: wrong columns, a user twice, an empty zip code, no UTF-8.
    """
    zips: dict[int, str] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = line.decode("utf-8").split("::")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8 text: {line[:60]!r}") from error
        if len(fields) != 5 or not fields[0].isdigit() or fields[0] == "0":
            raise DataError(f"{path}:{number}: expected UserID::Gender::Age::Occupation::Zip, found {line[:60]!r}")
        user, code = int(fields[0]) - 1, fields[4].strip()
        if not code or not (code[0].isascii() and code[0].isalnum()):
            raise DataError(f"{path}:{number}: expected a zip code that begins with a digit or letter, found {code!r}")
        if user in zips:
            raise DataError(f"{path}:{number}: UserID {user + 1} stands here a second time")
        zips[user] = code
    return zips


def zip_number(code: str) -> int:
    """The first five places as a number, each by `zip_digit`, what is missing as 0."""
    places = [zip_digit(char) for char in code[:ZIP_PLACES].ljust(ZIP_PLACES, "0")]
    return int("".join(map(str, places)))


def zip_digit(char: str) -> int:
    """A digit is itself, a letter its place in the alphabet modulo 10 (a, k, u: 0), anything else 0."""
    if char.isascii() and char.isdigit():
        return int(char)
    return (ord(char.lower()) - ord("a")) % 10 if char.isascii() and char.isalpha() else 0


def by_zipcode(split: Split, clients: int, users_dat: Path) -> Ids:
    """(num_users,) client of each user: equal ranges of zip codes; ten clients are the ten first digits."""
    zips = read_zip_codes(users_dat)
    present = np.union1d(split.train.users, split.test_users)
    missing = [int(user) for user in present if int(user) not in zips]
    if missing:
        raise DataError(
            f"{users_dat}: no line for UserID {missing[0] + 1} ({len(missing)} users of the ratings have none)"
        )
    owner = np.zeros(split.num_users, np.int64)
    for user in present.tolist():
        owner[user] = zip_number(zips[user]) * clients // 10**ZIP_PLACES
    return owner


def by_user(split: Split, clients: int, rng: np.random.Generator) -> Ids:
    """(num_users,) users in random order, dealt in equal numbers."""
    owner = np.empty(split.num_users, np.int64)
    owner[rng.permutation(split.num_users)] = np.arange(split.num_users) * clients // max(split.num_users, 1)
    return owner


def by_quantity(split: Split, clients: int, alpha: float, rng: np.random.Generator) -> Ids:
    """(num_users,) clients of unequal size: shares ~ Dirichlet(alpha); smaller alpha, greater inequality."""
    shares = np.cumsum(rng.dirichlet(np.full(clients, alpha)))
    order = rng.permutation(split.num_users)
    counts = np.bincount(split.train.users, minlength=split.num_users)[order]
    middle = (np.cumsum(counts) - counts / 2) / max(int(counts.sum()), 1)
    owner = np.empty(split.num_users, np.int64)
    owner[order] = np.minimum(np.searchsorted(shares, middle), clients - 1)
    return owner


def by_dirichlet(split: Split, clients: int, alpha: float, rng: np.random.Generator) -> Ids:
    """(num_users,) users of one taste are spread over the clients by Dirichlet(alpha) (Hsu et al. 2019).

    Implicit feedback has one label only, so a user's taste takes the place of the label.
    """
    taste = tastes(split, int(rng.integers(2**31)))
    owner = np.empty(split.num_users, np.int64)
    for kind in range(TASTES):
        members = rng.permutation(np.flatnonzero(taste == kind))
        shares = np.cumsum(rng.dirichlet(np.full(clients, alpha)))
        place = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        owner[members] = np.minimum(np.searchsorted(shares, place), clients - 1)
    return owner


def tastes(split: Split, seed: int) -> Ids:
    """(num_users,) group of each user: k-means over the leading singular vectors of the user-item matrix.

    Counts are divided by the roots of the row and column sums first, so that groups tell taste from activity.
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]

    positive = split.train.labels > 0
    users, items = split.train.users[positive], split.train.items[positive]
    shape = (split.num_users, split.num_items)
    if min(shape) < 3 or split.num_users <= TASTES:
        return np.arange(split.num_users) % TASTES
    rows, columns = np.bincount(users, minlength=shape[0]), np.bincount(items, minlength=shape[1])
    weights = 1 / np.sqrt(rows[users] * columns[items])
    matrix = csr_matrix((weights, (users, items)), shape=shape)
    parts = TruncatedSVD(min(9, min(shape) - 1), random_state=seed).fit_transform(matrix)[:, 1:]
    norms = np.linalg.norm(parts, axis=1, keepdims=True)
    groups: Ids = KMeans(TASTES, n_init=1, random_state=seed).fit_predict(parts / np.maximum(norms, 1e-12))
    return groups.astype(np.int64)


def equal_rows(split: Split, clients: int) -> Ids:
    """(N,) client of each training sample: contiguous blocks of positives of equal size, as the original cuts a file.

    A sample of label 0 follows the positive before it, so a positive and its negatives stay together.
    """
    number = np.maximum(np.cumsum(split.train.labels > 0) - 1, 0)
    total = int((split.train.labels > 0).sum())
    owner: Ids = number * clients // max(total, 1)
    return owner


def divide(
    split: Split, by: str, clients: int, *, users_dat: Path | None = None, alpha: float = 0.5, seed: int = 0
) -> tuple[Ids, Ids]:
    """Client of each training sample (N,) and of each test user (U,).

    Raises:
        ConfigError: an unknown way to divide, or one that lacks its argument.
        DataError: users.dat is wrong or does not know a user.
    """
    rng = np.random.default_rng([seed, DIVIDE_STREAM])
    if clients < 1:
        raise ConfigError(f"--file_nums {clients}: expected at least 1")
    if by not in WAYS:
        raise ConfigError(f"--by {by}: expected one of {', '.join(WAYS)}")
    if alpha <= 0:
        raise ConfigError(f"--alpha {alpha:g}: expected a number above 0")
    if by == "equal":
        rows = equal_rows(split, clients)
        return rows, main_owner(split.train.users, rows, clients, split)[split.test_users]
    if by == "zipcode":
        if users_dat is None:
            raise ConfigError("--by zipcode needs --users_dat (users.dat of ML-1M); there is none beside the ratings")
        owner = by_zipcode(split, clients, users_dat)
    elif by == "user":
        owner = by_user(split, clients, rng)
    else:
        owner = (by_quantity if by == "quantity" else by_dirichlet)(split, clients, alpha, rng)
    return owner[split.train.users], owner[split.test_users]


def main_owner(users: Ids, rows: Ids, clients: int, split: Split) -> Ids:
    """(num_users,) the client that holds most of a user's samples; of equals the first."""
    counts = np.zeros((split.num_users, clients), np.int32)
    np.add.at(counts, (users, rows), 1)
    owner: Ids = counts.argmax(axis=1)
    return owner
