"""From ratings to a folder of shards: what the command gen_heter_data does.

    <folder>/fl_train_data/0.csv 0.flps 1.csv ...    <folder>/fl_test_data/0.csv 0.flps ...
    <folder>/heterogeneity.json .png                 <folder>/item_map.tsv (only where items were numbered anew)

Law: shards are written beside and renamed; the columnar twin is written last, so it is never older than its csv.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flps.data.batch import Ids, Rows
from flps.data.card import card_lines, describe, save_card
from flps.data.columns import compact, write_columns
from flps.data.divide import divide
from flps.data.evaluation import ABSENT
from flps.data.interactions import Interactions
from flps.data.ratings import Split, read_split
from flps.data.text import write_samples
from flps.data.train import Negatives
from flps.errors import ConfigError

TRAIN, TEST = "fl_train_data", "fl_test_data"
NEGATIVES_STREAM = 13


@dataclass(frozen=True)
class Division:
    """How a data set is divided; the fields are the flags of gen_heter_data."""

    train: Path
    test: Path | None = None
    out: Path = Path()
    file_nums: int = 10
    users_dat: Path | None = None
    num_neg: int = 4
    seed: int = 0
    by: str = "zipcode"
    negatives: Negatives = "fresh"
    alpha: float = 0.5
    num_items: int = 0
    picture: bool = True

    @property
    def folder(self) -> Path:
        """Where both folders go; an `out` that ends in fl_train_data names the one for training, as in the original."""
        return self.out.parent if self.out.name == TRAIN else self.out


def generate(division: Division) -> tuple[dict[str, Any], list[str]]:
    """Read, divide, write; the card and the lines to print.

    Raises:
        ConfigError, DataError: what is wrong with the flags or the files.
    """
    if division.num_neg < 0:
        raise ConfigError(f"--num_neg {division.num_neg}: expected 0 or more")
    split = read_split(division.train, division.test, division.seed, division.num_items)
    users_dat = division.users_dat or beside(division.train, "users.dat")
    rows, test_rows = divide(
        split, division.by, division.file_nums, users_dat=users_dat, alpha=division.alpha, seed=division.seed
    )
    return write_division(split, rows, test_rows, division)


def beside(train: Path, name: str) -> Path | None:
    """A file in the folder of the ratings, if it is there."""
    path = (train if train.is_dir() else train.parent) / name
    return path if path.is_file() else None


def write_division(split: Split, rows: Ids, test_rows: Ids, division: Division) -> tuple[dict[str, Any], list[str]]:
    """All shards, the card and what there is to say about them."""
    notes = list(split.notes)
    train, owners = split.train, rows
    has_negatives = bool((train.labels <= 0).any())
    if has_negatives and division.negatives == "fresh":
        kept = train.labels > 0
        notes.append(f"{int((~kept).sum())} negatives of the file are left out: workers draw new ones each epoch")
        train, owners = train.take(kept), rows[kept]
    elif has_negatives:
        notes.append("the file brings its own negatives; they are kept and --num_neg is not used")
    drawing = division.num_neg and division.negatives == "fixed" and not has_negatives
    full = Interactions.build(train.users, train.items, split.num_items) if drawing else None
    if not len(split.test_users):
        notes.append("no test items were found: HR and NDCG cannot be measured; name them by --full_test_data_path")
    stale_removed(division)
    described = []
    for client in range(division.file_nums):
        part = train.take(owners == client)
        shard = fixed_negatives(part, full, division, client) if full else part
        write_train(division, client, shard, split)
        test = np.flatnonzero(test_rows == client)
        write_test(division, client, split.test_users[test], split.test_items[test], split)
        described.append(counted(part, shard, len(test), split, division))
    counts, samples, users, tested = (np.array(column) for column in zip(*described, strict=True))
    card = {**labels_of(division, split), **describe(counts, samples, users, tested)}
    if len(split.item_names):
        names = "".join(f"{item}\t{name}\n" for item, name in enumerate(split.item_names.tolist()))
        (division.folder / "item_map.tsv").write_text(names)
    return card, report(card, notes, save_card(card, division.folder, division.picture))


def labels_of(division: Division, split: Split) -> dict[str, Any]:
    """What a card says about the whole."""
    return {
        "by": division.by,
        "seed": division.seed,
        "alpha": division.alpha,
        "negatives": division.negatives,
        "num_neg": division.num_neg,
        "num_users": split.num_users,
        "num_items": split.num_items,
    }


def counted(part: Rows, shard: Rows, tested: int, split: Split, division: Division) -> tuple[Ids, int, int, int]:
    """Positives per item, samples of an epoch, users and test users of one client."""
    positive = part.labels > 0
    counts = np.bincount(part.items[positive], minlength=split.num_items)
    samples = len(shard.users)
    if division.negatives == "fresh":
        mine = Interactions.build(part.users, part.items, split.num_items)
        draws = mine.open_items(mine.index_of(part.users)) > 0
        samples += division.num_neg * int(draws.sum())
    return counts, samples, len(np.unique(part.users)), tested


def fixed_negatives(part: Rows, full: Interactions, division: Division, client: int) -> Rows:
    """Every positive followed by its negatives, drawn from what the user has on no client."""
    rng = np.random.default_rng([division.seed, NEGATIVES_STREAM, client])
    drawn = full.draw(rng, full.index_of(part.users), division.num_neg)
    items = np.concatenate([part.items[:, None], drawn], axis=1)
    labels = np.zeros(items.shape, np.float32)
    labels[:, 0] = 1
    kept = items >= 0
    return Rows(np.broadcast_to(part.users[:, None], items.shape)[kept], items[kept], labels[kept])


def stale_removed(division: Division) -> None:
    """Make both folders; shards of an earlier division with more clients would be read as this one's, so they go."""
    for name in (TRAIN, TEST):
        folder = division.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            stem, _, end = path.name.partition(".")
            if stem.isdigit() and end in ("csv", "flps") and int(stem) >= division.file_nums:
                path.unlink()


def write_train(division: Division, client: int, rows: Rows, split: Split) -> None:
    """N.csv as the original writes it but for the header, and N.flps."""
    folder = division.folder / TRAIN
    write_csv(folder / f"{client}.csv", rows)
    arrays = {"user": compact(rows.users), "item": compact(rows.items)}
    if (rows.labels != 1).any():
        arrays["label"] = rows.labels.astype(np.uint8)
    meta = {"client": client, "clients": division.file_nums, **labels_of(division, split)}
    write_columns(folder / f"{client}.flps", arrays, meta)


def write_test(division: Division, client: int, users: Ids, items: Ids, split: Split) -> None:
    """One line per user and item, the positive first."""
    folder = division.folder / TEST
    labels = np.zeros(items.shape, np.float32)
    labels[:, 0] = 1
    kept = items != ABSENT
    write_csv(
        folder / f"{client}.csv", Rows(np.broadcast_to(users[:, None], items.shape)[kept], items[kept], labels[kept])
    )
    meta = {"client": client, "clients": division.file_nums, **labels_of(division, split)}
    write_columns(folder / f"{client}.flps", {"users": compact(users), "items": compact(items)}, meta)


def write_csv(path: Path, rows: Rows) -> None:
    """`user,item,label` lines, beside and renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        write_samples(file, rows.users, rows.items, rows.labels)
    part.replace(path)


def report(card: dict[str, Any], notes: list[str], saved: str) -> list[str]:
    """What the command prints: a line per client with plain integers, the total, the card, the notes."""
    clients = card["clients"]
    lines = [f"client {c['client']} samples {c['samples']} users {c['users']}" for c in clients]
    total = f"total samples {sum(c['samples'] for c in clients)} users {sum(c['users'] for c in clients)}"
    empty = [str(c["client"]) for c in clients if not c["samples"]]
    if empty:
        notes = [*notes, f"empty shards: clients {', '.join(empty)} have no samples"]
    return [*lines, total, *card_lines(card), *(f"note: {note}" for note in notes), saved]
