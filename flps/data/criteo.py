"""Raw Criteo lines to columns that are mapped into memory, whole and divided among parties.

    FOLDER/criteo.json                 the card: columns, split, what was learned, parties, digests of the row ids
    FOLDER/{train,test}/label.npy      (R,) float32, 0 or 1
                        feat_ids.npy   (R, F) int32
                        feat_vals.npy  (R, F) float32
                        row_ids.npy    (R,) int64, the line in the raw file, from 0: by it parties align their rows
    FOLDER/PARTY/...                   the same with this party's columns only; label.npy only for the first party

Where no one may have all columns, each party prepares its own file, its rows aligned with the others' beforehand
(`Recipe.own`, `Layout.has_id`, `Layout.has_label`): lines of one number are then one row, and ids are the party's own.

Law 1: what decides on ids and weights is learned of the training rows alone; test rows leave no trace in the training.
Law 2: memory is bounded: three passes over the file, a block of lines at a time (the first only counts lines).
Law 3: a folder that exists is whole: it is written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from flps.data.criteo_ids import Features, Statistics, Vocabulary
from flps.data.criteo_parties import CARD, PARTS, Party, check_division
from flps.data.criteo_text import CRITEO, Layout, Lines, count_lines, read_lines
from flps.errors import ConfigError, DataError

VERSION = 1
ORIGINALS_SEED = 2020
ORIGINALS_BLOCK = 1000  # lines that the original writes, and divides, as one sample
ORIGINALS_TEST_SHARE = 0.1

Told = Callable[[str, int, int], None]  # what is done, lines of it so far, lines in all (0: not known)


@dataclass(frozen=True)
class Recipe:
    """How raw lines become rows."""

    layout: Layout = CRITEO
    threshold: int = 100
    skip_id_convert: bool = False
    split: Literal["time", "random"] = "time"
    train_share: float = 6 / 7  # of the lines, the first ones; `random` always takes the original's 0.9
    block_lines: int = ORIGINALS_BLOCK  # `random` gives blocks of so many lines as a whole to either side
    own: int | None = None  # the raw file is one party's own, aligned with the others': its number, 0 the leader

    def __post_init__(self) -> None:
        """Refuse what leaves no row to one side."""
        if self.threshold < 0:
            raise ConfigError(f"--threshold {self.threshold}: expected at least 0")
        if not 0 < self.train_share <= 1:
            raise ConfigError(f"--train_share {self.train_share}: expected above 0, at most 1")
        if self.block_lines < 1:
            raise ConfigError(f"--block_lines {self.block_lines}: expected at least 1")
        if self.own is not None and self.own < 0:
            raise ConfigError(f"--own {self.own}: expected 0 for the leader, 1, 2, ... for followers")
        if not self.layout.has_label and not self.own:
            raise ConfigError("--no_label: only a follower's own file has no label; say which with --own 1")


def quiet(phase: str, done: int, lines: int) -> None:
    """Tell nobody."""


def test_mask(recipe: Recipe, lines: int) -> NDArray[np.bool_]:
    """(lines,) which lines are for testing.

    time: what comes after the first `train_share`. random: line i with the last line of its block among the first
    tenth of a shuffle of all line numbers with numpy's legacy generator and seed 2020, as the original does it; lines
    behind the last whole block, which the original loses, are for training.
    """
    mask = np.zeros(lines, np.bool_)
    if recipe.split == "time":
        mask[round(lines * recipe.train_share) :] = True
        return mask
    order = np.arange(lines, dtype=np.int32 if lines < 2**31 else np.int64)
    np.random.RandomState(ORIGINALS_SEED).shuffle(order)
    chosen = np.zeros(lines, np.bool_)
    chosen[order[: int(lines * ORIGINALS_TEST_SHARE)]] = True
    blocks = lines // recipe.block_lines
    last = np.arange(1, blocks + 1) * recipe.block_lines - 1
    mask[: blocks * recipe.block_lines] = np.repeat(chosen[last], recipe.block_lines)
    return mask


def prepare(
    raw: Path,
    out: Path,
    recipe: Recipe | None = None,
    parties: Sequence[Party] = (),
    line_count: int | None = None,
    told: Told = quiet,
) -> dict[str, Any]:
    """Write the columns of a raw file into the new folder `out`; the card that was written with them.

    line_count: how many lines the file has, which saves the pass that counts them.

    Raises:
        ConfigError: `out` exists, or a division that cannot be.
        DataError: a wrong line, by file and number; another number of lines than `line_count`; no training row.
    """
    recipe = recipe or Recipe()
    check_division(parties, recipe.layout.fields)
    if parties and recipe.own is not None:
        raise ConfigError("--own and --parties: a party's own file is not divided again")
    if out.exists():
        raise ConfigError(f"{out}: exists already; remove it, or name another folder with --output")
    if line_count is None:
        told("count lines", 0, 0)
        line_count = count_lines(raw, header=recipe.layout.header)
    mask = test_mask(recipe, line_count)
    if mask.all():
        raise DataError(f"{raw}: {line_count} lines leave none to train on")
    with whole_folder(out) as folder:
        statistics = Statistics(recipe.layout)
        for lines in told_lines(raw, recipe, line_count, "learn ids", told):
            statistics.learn(lines, ~mask[lines.first : lines.first + len(lines.labels)])
        vocabulary = statistics.vocabulary(recipe.threshold, recipe.skip_id_convert)
        rows = {"train": int((~mask).sum()), "test": int(mask.sum())}
        with Writer(folder, parties, recipe.layout, rows) as writer:
            for lines in told_lines(raw, recipe, line_count, "write rows", told):
                is_test = mask[lines.first : lines.first + len(lines.labels)]
                writer.write(vocabulary.convert(lines), is_test, lines.first)
        return write_cards(folder, recipe, parties, vocabulary, writer)


def told_lines(raw: Path, recipe: Recipe, line_count: int, phase: str, told: Told) -> Iterator[Lines]:
    """The file's lines, each block told of; DataError when they are not as many as was said."""
    done = 0
    told(phase, done, line_count)
    for lines in read_lines(raw, recipe.layout):
        done += len(lines.labels)
        if done > line_count:
            break
        yield lines
        told(phase, done, line_count)
    if done != line_count:
        more = "more than" if done > line_count else f"{done} lines, not"
        raise DataError(f"{raw}: {more} the {line_count} of --train_line_count; give their true number or leave it out")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, unless something goes wrong or another was first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield beside
        beside.chmod(0o755)
        try:
            os.rename(beside, out)
        except OSError:
            if not (out / CARD).is_file():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


class Writer:
    """The arrays of a folder while rows are appended; every row has to come before it is closed."""

    def __init__(self, folder: Path, parties: Sequence[Party], layout: Layout, rows: dict[str, int]) -> None:
        self.rows = rows
        self.done = dict.fromkeys(PARTS, 0)
        self.digests = {part: hashlib.sha256() for part in PARTS}
        self.labels = {part: {0: 0, 1: 0} for part in PARTS}
        self.largest_id = 0
        everything = (Party("", tuple(range(layout.fields))), layout.has_label)
        self.places = [
            (party, part, open_arrays(folder / party.name / part, rows[part], len(party.columns), has_label))
            for party, has_label in [everything, *((party, n == 0) for n, party in enumerate(parties))]
            for part in PARTS
        ]

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *ended_by: object) -> None:
        for _, _, files in self.places:
            for file in files.values():
                file.close()

    def write(self, features: Features, is_test: NDArray[np.bool_], first: int) -> None:
        """Append rows whose first line has the number `first` in the raw file."""
        for part, mine in (("train", ~is_test), ("test", is_test)):
            row_ids = np.flatnonzero(mine) + first
            columns: dict[str, NDArray[Any]] = {
                "label": features.labels[mine],
                "feat_ids": features.ids[mine],
                "feat_vals": features.values[mine],
                "row_ids": row_ids.astype("<i8"),
            }
            self.append(part, columns)
            self.digests[part].update(columns["row_ids"].tobytes())
            clicks = int(features.labels[mine].sum())
            self.labels[part][1] += clicks
            self.labels[part][0] += len(row_ids) - clicks
            self.done[part] += len(row_ids)
        self.largest_id = max(self.largest_id, int(features.ids.max(initial=0)))

    def append(self, part: str, columns: dict[str, NDArray[Any]]) -> None:
        """Put a part's rows into every party's arrays."""
        for party, own_part, files in self.places:
            if own_part == part:
                for name, file in files.items():
                    values = columns[name]
                    file.write((values[:, list(party.columns)] if values.ndim == 2 else values).tobytes())


def open_arrays(folder: Path, rows: int, columns: int, has_label: bool) -> dict[str, BinaryIO]:
    """New npy files for `rows` rows that are appended to: pages of a mapped array would stay in memory."""
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "feat_ids": ("<i4", (rows, columns)),
        "feat_vals": ("<f4", (rows, columns)),
        "row_ids": ("<i8", (rows,)),
    }
    if has_label:
        shapes["label"] = ("<f4", (rows,))
    files: dict[str, BinaryIO] = {}
    for name, (dtype, shape) in shapes.items():
        files[name] = (folder / f"{name}.npy").open("wb")
        write_array_header_1_0(files[name], {"descr": dtype, "fortran_order": False, "shape": shape})
    return files


def write_cards(
    folder: Path, recipe: Recipe, parties: Sequence[Party], vocabulary: Vocabulary, writer: Writer
) -> dict[str, Any]:
    """The card of the whole and of each party; the whole's. A party's tells nothing of the others' columns."""
    card: dict[str, Any] = {
        "version": VERSION,
        "dense_dim": recipe.layout.dense_dim,
        "slot_dim": recipe.layout.slot_dim,
        "threshold": recipe.threshold,
        "skip_id_convert": recipe.skip_id_convert,
        "split": recipe.split,
        "ids": max(vocabulary.size, writer.largest_id + 1),
        "rows": writer.rows,
        "row_digest": {part: digest.hexdigest() for part, digest in writer.digests.items()},
    }
    for number, party in enumerate(parties):
        own = {**card, "party": party.name, "number": number, "columns": list(party.columns)}
        write_card(folder / party.name, own)
    whole = {
        **card,
        "columns": list(range(recipe.layout.fields)),
        "maxima": vocabulary.maxima.tolist(),
        "labels": writer.labels if recipe.layout.has_label else None,
        "parties": [{"name": party.name, "columns": list(party.columns)} for party in parties],
    }
    if recipe.own is not None:
        whole |= {"party": f"party {recipe.own}", "number": recipe.own}
    write_card(folder, whole)
    return whole


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """The card as json."""
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
