"""Lines that look like Criteo's, made from a seed: so that split training runs on a machine that has no data.

Model. Number column c is floor(exp(N(m_c, s_c))) and missing with probability q_c; its effect on a click is
a_c * (log(1 + x) - m_c), none where missing. Category column c has K_c categories, category k with probability
~ (k + 2)^-1.1, and is missing with probability p_c; each category has an effect that is drawn once from N(0, t). The
logit is the sum of all effects, less what makes a click rate of about a quarter. Signal is planted on both sides of the
usual division: the leader's columns carry about as much of it as the follower's, so neither does well alone.
The rows do not drift in time. The structure is real and known, but it is not Criteo: quality is judged there, not here.

Law: the same arguments give the same bytes, and a shorter set is the beginning of a longer one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_parties import CARD, LEADER_AND_FOLLOWER, Party, check_division
from flps.data.criteo_text import Layout
from flps.errors import ConfigError

VERSION = 1  # goes up when the same arguments would give other bytes
CHUNK_ROWS = 1 << 12
LARGEST_CARDINALITY = 20_000
CLICK_LOGIT = -1.35
NUMBER_EFFECT = 0.22
CATEGORY_EFFECT = 0.28
Text = NDArray[np.uint8]  # (N, W) ASCII, zero bytes where nothing stands
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Shape:
    """How much is generated."""

    rows: int = 100_000
    seed: int = 0
    dense_dim: int = 13
    slot_dim: int = 26

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.rows < 2 or self.dense_dim < 0 or self.slot_dim < 0 or self.dense_dim + self.slot_dim < 1:
            raise ConfigError(f"{self}: expected at least 2 rows and a column")


class World:
    """What is drawn once: the columns and their effects."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng([shape.seed, 41])
        self.means = rng.uniform(0.5, 4.0, shape.dense_dim)
        self.spreads = rng.uniform(0.8, 1.6, shape.dense_dim)
        self.numbers_missing = rng.uniform(0.0, 0.4, shape.dense_dim)
        signs = rng.choice([-1.0, 1.0], shape.dense_dim)
        self.slopes = signs * NUMBER_EFFECT * rng.uniform(0.5, 1.5, shape.dense_dim)
        self.sizes = np.exp(rng.uniform(np.log(4), np.log(LARGEST_CARDINALITY), shape.slot_dim)).astype(np.int64)
        self.slots_missing = np.where(rng.random(shape.slot_dim) < 0.3, rng.uniform(0, 0.5, shape.slot_dim), 0.0)
        self.shares = [np.cumsum((np.arange(size) + 2.0) ** -1.1) for size in self.sizes]
        self.effects = [CATEGORY_EFFECT * rng.standard_normal(size) for size in self.sizes]
        self.names = [hex_names(rng.integers(0, 2**32, size, dtype=np.uint64)) for size in self.sizes]


def hex_names(numbers: NDArray[np.uint64]) -> Text:
    """(N, 8) ASCII of eight hexadecimal digits each."""
    shifts = np.arange(28, -1, -4, dtype=np.uint64)
    return HEX[((numbers[:, None] >> shifts) & np.uint64(15)).astype(np.int64)]


def write_raw(file: BinaryIO, shape: Shape) -> None:
    """The lines: label, numbers, categories, between tabs; nothing where missing."""
    for chunk in chunks(World(shape), shape):
        file.write(chunk)


def chunks(world: World, shape: Shape) -> Iterator[bytes]:
    """The lines of CHUNK_ROWS rows at a time; the last chunk is drawn whole and cut."""
    for number, start in enumerate(range(0, shape.rows, CHUNK_ROWS)):
        rng = np.random.default_rng([shape.seed, 42, number])
        logits = np.full(CHUNK_ROWS, CLICK_LOGIT)
        columns = [number_column(world, column, rng) for column in range(shape.dense_dim)]
        columns += [category_column(world, slot, rng) for slot in range(shape.slot_dim)]
        for _, effect in columns:
            logits += effect
        clicked = rng.random(CHUNK_ROWS) < 1 / (1 + np.exp(-logits))
        texts = [(48 + clicked[:, None]).astype(np.uint8), *(text for text, _ in columns)]
        yield joined([text[: shape.rows - start] for text in texts])


def number_column(world: World, column: int, rng: np.random.Generator) -> tuple[Text, NDArray[np.float64]]:
    """A number column of a chunk: its text, and its effect on the logit."""
    drawn = rng.normal(world.means[column], world.spreads[column], CHUNK_ROWS)
    values = np.exp(np.minimum(drawn, 13.0)).astype(np.int64)
    present = rng.random(CHUNK_ROWS) >= world.numbers_missing[column]
    effect = world.slopes[column] * (np.log1p(values) - world.means[column])
    return blanked(decimal(values), present), effect * present


def category_column(world: World, slot: int, rng: np.random.Generator) -> tuple[Text, NDArray[np.float64]]:
    """A category column of a chunk: its text, and its effect on the logit."""
    shares = world.shares[slot]
    chosen = np.searchsorted(shares, rng.random(CHUNK_ROWS) * shares[-1])
    present = rng.random(CHUNK_ROWS) >= world.slots_missing[slot]
    return blanked(world.names[slot][chosen], present), world.effects[slot][chosen] * present


def decimal(numbers: NDArray[np.int64]) -> Text:
    """(N, W) ASCII digits, right-aligned; leading places are zero bytes."""
    width = len(str(int(numbers.max(initial=0))))
    powers = 10 ** np.arange(width - 1, -1, -1)
    digits = (48 + numbers[:, None] // powers % 10).astype(np.uint8)
    digits[:, :-1][numbers[:, None] < powers[:-1]] = 0
    return digits


def blanked(text: Text, present: NDArray[np.bool_]) -> Text:
    """The same text with nothing where it is missing."""
    return text * present[:, None].astype(np.uint8)


def joined(columns: list[Text]) -> bytes:
    """Columns of text as lines; zero bytes are left out."""
    rows = len(columns[0])
    parts: list[Text] = []
    for number, column in enumerate(columns, 1):
        end = b"\n" if number == len(columns) else b"\t"
        parts += [column, np.full((rows, 1), end[0], np.uint8)]
    text = np.concatenate(parts, axis=1)
    lines: bytes = text[text != 0].tobytes()
    return lines


def ensure(
    cache_dir: str | Path,
    shape: Shape | None = None,
    threshold: int = 10,
    parties: tuple[Party, ...] | None = None,
) -> Path:
    """The folder of prepared columns of a shape, made once for these arguments.

    parties: None is leader and follower, at the shape of Criteo. Two callers at the same time both get a whole folder.

    Raises:
        ConfigError: a shape or division that cannot be.
    """
    shape = shape or Shape()
    if parties is None:
        parties = LEADER_AND_FOLLOWER if (shape.dense_dim, shape.slot_dim) == (13, 26) else ()
    recipe = Recipe(Layout(shape.dense_dim, shape.slot_dim), threshold)
    wanted: dict[str, Any] = {"version": VERSION, "threshold": threshold, **asdict(shape), "parties": parties}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache_dir) / f"criteo_like-{shape.rows}-{digest}"
    if (folder / CARD).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        raw = Path(beside) / "train.tsv"
        with raw.open("wb") as file:
            write_raw(file, shape)
        make_once(raw, folder, recipe, parties, shape.rows)
    return folder


def make_once(raw: Path, folder: Path, recipe: Recipe, parties: tuple[Party, ...], rows: int) -> None:
    """Prepare the folder, unless another caller was first."""
    try:
        prepare(raw, folder, recipe, parties, rows)
    except ConfigError:
        if not (folder / CARD).is_file():
            raise


def write_tables(
    folder: Path, shape: Shape, both_share: float = 0.8, parties: tuple[Party, ...] = LEADER_AND_FOLLOWER
) -> list[Path]:
    """A csv for each party, FOLDER/NAME.csv, with the column `id`, the party's columns and, at the first one, `label`.

    both_share: of the rows all parties have; each other row has one of them. The first party's table is in the order of
    the rows, the others' are shuffled. Raises ConfigError for a share or a division that cannot be.
    """
    if not 0 <= both_share <= 1:
        raise ConfigError(f"--both_share {both_share:g}: expected from 0 to 1")
    check_division(parties, shape.dense_dim + shape.slot_dim)
    rng = np.random.default_rng([shape.seed, 43])
    owner = np.where(rng.random(shape.rows) < both_share, -1, rng.integers(len(parties), size=shape.rows))
    names = [f"{rng.integers(2**32):08x}{row:08x}" for row in range(shape.rows)]
    lines = [line.split("\t") for chunk in chunks(World(shape), shape) for line in chunk.decode().splitlines()]
    written = []
    for number, party in enumerate(parties):
        rows = np.flatnonzero((owner == -1) | (owner == number))
        columns = [0] * (number == 0) + [1 + column for column in party.columns]
        titles = (
            ["label"] + [f"I{n + 1}" for n in range(shape.dense_dim)] + [f"C{n + 1}" for n in range(shape.slot_dim)]
        )
        table = [",".join(["id", *(titles[column] for column in columns)])]
        for row in rows if number == 0 else rng.permutation(rows):
            table.append(",".join([names[row], *(lines[row][column] for column in columns)]))
        written.append(folder / f"{party.name}.csv")
        written[-1].write_text("\n".join(table) + "\n")
    return written
