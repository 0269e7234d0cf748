"""Ratings that look like ML-1M, made from a seed: so that everything runs on a machine that has no data.

Model. Item i has popularity w_i ~ (rank + 30)^-1.1 and a vector v_i, user u a vector z_u, both N(0, 1) in LATENT
dimensions. User u rates n_u items, drawn without repetition with weights w_i exp(STRENGTH z_u . v_i / sqrt(LATENT));
n_u is log-normal, at least 20. Stars are five steps of the noisy taste score. Zip codes have ML-1M's shares of first
digits. Measured at the default shape: popularity ranks HR@10 0.503, NDCG@10 0.284; NeuMF with 8 factors in one process
0.755 / 0.534 after one epoch and 0.766 / 0.548 after three (batch 1024, Adam 0.001, 4 fresh negatives).
The structure is real and known, but it is not MovieLens: quality is judged on ML-1M, not here.

Law: the same arguments give the same bytes; `ensure` may run twice at once, and a reader never sees half a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Ids
from flps.data.evaluation import ABSENT
from flps.data.generate import Division, generate
from flps.data.ratings import Split, leave_latest_out
from flps.data.text import write_lines
from flps.errors import ConfigError

VERSION = 1  # goes up when the same arguments would give other bytes
LATENT = 4
STRENGTH = 2.0
ZIP_SHARES = (662, 662, 441, 386, 607, 659, 430, 419, 306, 1468)  # ML-1M's users by first digit
FEWEST_RATINGS = 20
FIRST_SECOND = 956_703_932
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "Western")
USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Shape:
    """How much is generated."""

    users: int = 6040
    items: int = 3706
    ratings: int = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be: users have at least 20 ratings and leave at least half of the items unrated."""
        most = self.items // 2
        if self.users < 1 or self.items < 2 * FEWEST_RATINGS:
            raise ConfigError(
                f"--users {self.users} --items {self.items}: expected at least 1 and {2 * FEWEST_RATINGS}"
            )
        if not FEWEST_RATINGS * self.users <= self.ratings <= most * self.users:
            limits = f"{FEWEST_RATINGS} to {most} a user, {FEWEST_RATINGS * self.users} to {most * self.users}"
            raise ConfigError(f"--ratings {self.ratings}: expected {limits}")


def ratings_per_user(shape: Shape, rng: np.random.Generator) -> Ids:
    """(users,) log-normal counts within [20, items / 2] that sum to about `shape.ratings`."""
    raw = rng.lognormal(0.0, 1.0, shape.users)
    low, high = 0.0, float(shape.items)
    for _ in range(60):
        scale = (low + high) / 2
        counts = np.clip(FEWEST_RATINGS + scale * raw, FEWEST_RATINGS, shape.items // 2).astype(np.int64)
        low, high = (scale, high) if counts.sum() < shape.ratings else (low, scale)
    return counts


def popularity(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """(items,) long-tailed weights in random order, mean 1."""
    weights = (np.arange(shape.items) + 30.0) ** -1.1
    rng.shuffle(weights)
    scaled: NDArray[np.float64] = weights / weights.mean()
    return scaled


def rated(shape: Shape) -> Iterator[tuple[Ids, Ids, Ids]]:
    """(user, item, stars) of a few hundred users at a time, each user's items in the order in which they were rated.

    The weighted draw without repetition takes the n smallest of E_i / weight_i, E_i ~ Exp(1) (Efraimidis and Spirakis).
    """
    rng = np.random.default_rng([shape.seed, 21])
    counts = ratings_per_user(shape, rng)
    weights = popularity(shape, rng).astype(np.float32)
    item_vectors = rng.standard_normal((shape.items, LATENT), np.float32)
    user_vectors = rng.standard_normal((shape.users, LATENT), np.float32)
    for lo in range(0, shape.users, USERS_AT_ONCE):
        taste = user_vectors[lo : lo + USERS_AT_ONCE] @ item_vectors.T / np.float32(np.sqrt(LATENT))
        keys = rng.standard_exponential(taste.shape, np.float32) / (weights * np.exp(STRENGTH * taste))
        own = counts[lo : lo + len(taste)]
        order = np.argsort(keys, axis=1)[:, : int(own.max())]
        chosen = np.arange(order.shape[1]) < own[:, None]
        users = np.repeat(np.arange(lo, lo + len(taste)), own)
        items = order[chosen]
        noisy = taste[users - lo, items] + 0.7 * rng.standard_normal(len(items), np.float32)
        stars = 1 + np.searchsorted(np.array([-1.2, -0.5, 0.3, 1.2]), noisy)
        mixed = np.lexsort((rng.random(len(users)), users))
        yield users, items[mixed], stars[mixed]


def zip_codes(shape: Shape) -> list[str]:
    """(users,) five digits; the first ones have ML-1M's shares, exactly so at ML-1M's number of users."""
    rng = np.random.default_rng([shape.seed, 22])
    wanted = np.array(ZIP_SHARES) * shape.users / sum(ZIP_SHARES)
    counts = wanted.astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: shape.users - counts.sum()]] += 1
    first = rng.permutation(np.repeat(np.arange(10), counts))
    return [f"{number:05d}" for number in first * 10_000 + rng.integers(0, 10_000, shape.users)]


def write_ml_1m(folder: Path, shape: Shape) -> None:
    """ratings.dat, users.dat and movies.dat in ML-1M's formats; ids start at 1."""
    rng = np.random.default_rng([shape.seed, 23])
    ends = [b"::", b"::", b"::", b"\n"]
    with (folder / "ratings.dat").open("wb") as file:
        for users, items, stars in rated(shape):
            write_lines(file, [users + 1, items + 1, stars, seconds(users, rng)], ends)
    write_people_and_films(folder, shape, rng)


def seconds(users: Ids, rng: np.random.Generator) -> Ids:
    """(N,) times that rise within each of the sorted users, from a start of the user's own."""
    first = np.flatnonzero(np.append(True, np.diff(users) != 0))
    counts = np.diff(np.append(first, len(users)))
    elapsed = np.cumsum(rng.integers(1, 600, len(users)))
    starts = rng.integers(0, 80_000_000, len(first)) - elapsed[first]
    return FIRST_SECOND + elapsed + np.repeat(starts, counts)


def write_people_and_films(folder: Path, shape: Shape, rng: np.random.Generator) -> None:
    """users.dat and movies.dat; only the zip codes carry meaning."""
    ages, genders = np.array([1, 18, 25, 35, 45, 50, 56]), np.array(["F", "M"])
    people = zip(
        genders[rng.integers(0, 2, shape.users)],
        ages[rng.integers(0, 7, shape.users)],
        rng.integers(0, 21, shape.users),
        zip_codes(shape),
        strict=True,
    )
    lines = [f"{n}::{gender}::{age}::{work}::{code}\n" for n, (gender, age, work, code) in enumerate(people, 1)]
    (folder / "users.dat").write_text("".join(lines))
    years, kinds = rng.integers(1920, 2001, shape.items), rng.integers(0, len(GENRES), shape.items)
    films = [f"{n}::Film {n} ({y})::{GENRES[k]}\n" for n, (y, k) in enumerate(zip(years, kinds, strict=True), 1)]
    (folder / "movies.dat").write_text("".join(films))


def write_ncf(folder: Path, split: Split) -> None:
    """ml-1m.train.rating, ml-1m.test.rating, ml-1m.test.negative and item_map.tsv as the NCF paper divides ML-1M."""
    unknown = np.full(len(split.train.users), 1)
    with (folder / "ml-1m.train.rating").open("wb") as file:
        write_lines(file, [split.train.users, split.train.items, unknown, unknown], [b"\t", b"\t", b"\t", b"\n"])
    with (folder / "ml-1m.test.rating").open("wb") as file:
        ones = np.ones(len(split.test_users), np.int64)
        write_lines(file, [split.test_users, split.test_items[:, 0], ones, ones], [b"\t", b"\t", b"\t", b"\n"])
    lines = [
        f"({user},{items[0]})\t" + "\t".join(str(item) for item in items[1:] if item != ABSENT) + "\n"
        for user, items in zip(split.test_users.tolist(), split.test_items.tolist(), strict=True)
    ]
    (folder / "ml-1m.test.negative").write_text("".join(lines))
    names = "".join(f"{item}\t{name}\n" for item, name in enumerate(split.item_names.tolist()))
    (folder / "item_map.tsv").write_text(names)


def write_all(folder: Path, shape: Shape) -> Split:
    """ML-1M's three files and the NCF split of them; the split."""
    folder.mkdir(parents=True, exist_ok=True)
    write_ml_1m(folder, shape)
    split = leave_latest_out(folder / "ratings.dat", shape.seed, shape.items)
    write_ncf(folder, split)
    return split


def ensure(
    cache_dir: str | Path, clients: int = 10, shape: Shape | None = None, by: str = "zipcode", **division: Any
) -> Path:
    """The folder with fl_train_data and fl_test_data for some clients, made once for these arguments.

    `division`: further fields of flps.data.generate.Division (num_neg, negatives, alpha). Two callers at the same time
    both get a whole folder: each makes its own beside, and the second to rename throws its own away.

    Raises:
        ConfigError: a shape or division that cannot be.
    """
    shape = shape or Shape()
    wanted = {"version": VERSION, "clients": clients, "by": by, **asdict(shape), **division}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache_dir) / f"movielens_like-{clients}-{by}-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_all(beside, shape)
        wish = Division(beside / "ratings.dat", out=beside, file_nums=clients, by=by, seed=shape.seed, picture=False)
        generate(replace(wish, num_items=shape.items, **division))
        (beside / "made_from.json").write_text(json.dumps(wanted, indent=1) + "\n")
        beside.chmod(0o755)
        rename_once(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def rename_once(beside: Path, folder: Path) -> None:
    """Give the folder its name, unless another caller was first."""
    try:
        os.rename(beside, folder)
    except OSError:
        if not folder.is_dir():
            raise
