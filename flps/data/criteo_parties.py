"""Columns divided among parties, and a party's rows in batches.

Names of a batch, as the original's yaml files have them: the leader (party 0) gives `id_hldr`, `wt_hldr` and `label`,
the first follower `id_hldr0` and `wt_hldr0`, the second `id_hldr1` and `wt_hldr1`, ... All have `row_ids`: no net takes
them, they tell noise on labels which row it is for.

Law 1: order depends on (seed, epoch, number of rows) only, so parties with the same rows see the same batches without
a word between them; whether they have the same rows, `digest` says.
Law 2: the position in the data is (epoch, step): whoever starts there reads on as if never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.errors import ConfigError, DataError

CARD = "criteo.json"
PARTS = ("train", "test")
SHUFFLE = 31  # the place of the shuffle among all that is drawn from one seed
Arrays = dict[str, NDArray[Any]]


class Party(NamedTuple):
    """A party and its columns of all; the first of a division is the leader, who has the labels."""

    name: str
    columns: tuple[int, ...]


LEADER_AND_FOLLOWER = (
    Party("leader", (*range(7), *range(13, 26))),
    Party("follower", (*range(7, 13), *range(26, 39))),
)


def parse_party(text: str) -> Party:
    """`leader:0-6,13-25` as a party.

    Raises:
        ConfigError: it is written otherwise.
    """
    name, _, columns = text.partition(":")
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in columns.split(",")]
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in PARTS or not all(ranges):
        raise ConfigError(f"--parties {text!r}: expected a name and its columns, as in leader:0-6,13-25")
    chosen: list[int] = []
    for found in ranges:
        assert found
        chosen += range(int(found[1]), int(found[2] or found[1]) + 1)
    return Party(name, tuple(chosen))


def even_division(fields: int, parties: int) -> tuple[Party, ...]:
    """Columns in contiguous blocks to the leader and `parties` - 1 followers, the remainder to the first."""
    cuts = np.array_split(np.arange(fields), parties)
    names = ["leader", *(f"follower{n}" if parties > 2 else "follower" for n in range(1, parties))]
    return tuple(Party(name, tuple(cut.tolist())) for name, cut in zip(names, cuts, strict=True))


def check_division(parties: Sequence[Party], fields: int) -> None:
    """Refuse two parties of one name, a column that does not exist, and a column that two parties have.

    Columns that nobody has are nobody's.
    """
    names = [party.name for party in parties]
    if len(set(names)) < len(names):
        raise ConfigError(f"--parties: each needs a name of its own, found {', '.join(names)}")
    owner: dict[int, str] = {}
    for party in parties:
        if not party.columns:
            raise ConfigError(f"--parties: {party.name} has no column")
        for column in party.columns:
            if not 0 <= column < fields:
                raise ConfigError(f"--parties: {party.name} has column {column}; expected 0 to {fields - 1}")
            if column in owner:
                raise ConfigError(f"--parties: column {column} belongs to {owner[column]} and to {party.name}")
            owner[column] = party.name


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder.

    Raises:
        DataError: there is none, or it is no card.
    """
    try:
        card = json.loads((folder / CARD).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {CARD} in it; datasets/criteo.py and datasets/criteo_like.py make it") from error
    except ValueError as error:
        raise DataError(f"{folder / CARD}: no json ({error}); make the folder anew") from error
    if not isinstance(card, dict) or not {"ids", "rows", "columns"} <= card.keys():
        raise DataError(f"{folder / CARD}: expected a card with ids, rows and columns; make the folder anew")
    return card


def batch_names(party: int) -> tuple[str, str]:
    """What a party calls its ids and weights; 0 is the leader."""
    return ("id_hldr", "wt_hldr") if party == 0 else (f"id_hldr{party - 1}", f"wt_hldr{party - 1}")


class PartyRows:
    """The rows of one party, mapped, not read."""

    def __init__(
        self,
        arrays: Arrays,
        party: int,
        ids: int,
        columns: Sequence[int] | NDArray[Any] | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        """arrays: feat_ids (R, F), feat_vals (R, F), row_ids (R,) and, or not, label (R,).

        ids: every id is below. columns: of the F, which are this party's; None: all. positions: of the R, which rows,
        in which order; None: all as they stand.
        """
        self.arrays, self.party, self.ids = arrays, party, ids
        self.columns = None if columns is None else np.asarray(columns)
        self.positions = positions

    @classmethod
    def open(cls, folder: str | Path, part: str = "train", party: int = 0, parties: Sequence[Party] = ()) -> PartyRows:
        """Rows of a folder that `prepare` wrote.

        folder: a party's own, or the whole: then party number `party` of `parties` (default: those of the card, else
        leader and follower) gets its columns of the whole, and the label if it is the leader. That simulates a
        division on one machine, as the original's example does.

        Raises:
            DataError: no such folder, part or party, or an array that is not as the card says.
        """
        folder = Path(folder)
        card = read_card(folder)
        if part not in PARTS:
            raise DataError(f"{folder}: no part {part!r}; expected {' or '.join(PARTS)}")
        arrays = map_arrays(folder / part, card["rows"][part], len(card["columns"]))
        if "party" in card:
            return cls(arrays, int(card["number"]), card["ids"])
        written = [Party(each["name"], tuple(each["columns"])) for each in card.get("parties", ())]
        division = list(parties) or written or list(LEADER_AND_FOLLOWER)
        check_division(division, len(card["columns"]))
        if not 0 <= party < len(division):
            raise DataError(f"{folder}: no party {party}; there are {len(division)}, from 0")
        if party:
            arrays.pop("label", None)
        return cls(arrays, party, card["ids"], division[party].columns)

    def __len__(self) -> int:
        return len(self.arrays["row_ids"]) if self.positions is None else len(self.positions)

    @property
    def field_size(self) -> int:
        """Columns of this party."""
        return int(self.arrays["feat_ids"].shape[1]) if self.columns is None else len(self.columns)

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """(R,) by which parties align their rows."""
        row_ids: NDArray[np.int64] = self.arrays["row_ids"]
        return row_ids if self.positions is None else row_ids[self.positions]

    def digest(self) -> str:
        """Of the row ids in their order: equal at all parties if, and only if, their rows are aligned."""
        return hashlib.sha256(self.row_ids.astype("<i8").tobytes()).hexdigest()

    def aligned(self, row_ids: NDArray[Any]) -> PartyRows:
        """These rows, in this order.

        Raises:
            DataError: an id that is not here, or is here twice.
        """
        own = self.arrays["row_ids"]
        order = np.argsort(own, kind="stable")
        in_order = own[order]
        if (in_order[1:] == in_order[:-1]).any():
            raise DataError("row ids that occur twice cannot be aligned; make them unique first")
        place = np.minimum(np.searchsorted(in_order, row_ids), max(len(own) - 1, 0))
        missing = in_order[place] != row_ids if len(own) else np.ones(len(row_ids), bool)
        if missing.any():
            first = np.asarray(row_ids)[missing][0]
            raise DataError(f"{int(missing.sum())} of {len(row_ids)} row ids are not among ours, the first is {first}")
        return PartyRows(self.arrays, self.party, self.ids, self.columns, order[place].astype(np.int64))

    def steps(self, batch_size: int, drop_remainder: bool = True) -> int:
        """Batches of an epoch."""
        return len(self) // batch_size if drop_remainder else -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        epoch: int = 0,
        first_step: int = 0,
        seed: int | None = None,
        drop_remainder: bool = True,
    ) -> Iterator[Arrays]:
        """Batches {ids (B, F) int32, weights (B, F) float32, leader: label (B, 1) float32, row_ids (B,) int64} of an
        epoch, from a step on.

        seed: of the shuffle; None keeps the order of the rows. drop_remainder: leave a last batch out that is not full.
        """
        order = self.order(epoch, seed)
        for step in range(first_step, self.steps(batch_size, drop_remainder)):
            yield self.take(order[step * batch_size : (step + 1) * batch_size])

    def order(self, epoch: int, seed: int | None) -> NDArray[np.int64]:
        """(R,) positions in the arrays, in the order of an epoch."""
        mine = np.arange(len(self)) if self.positions is None else self.positions
        if seed is None:
            return mine
        shuffled = mine.copy()
        np.random.default_rng([seed, SHUFFLE, epoch]).shuffle(shuffled)
        return shuffled

    def take(self, positions: NDArray[np.int64]) -> Arrays:
        """The rows at some positions in the arrays, by the names of a batch."""
        ids, weights = batch_names(self.party)
        batch = {
            name: self.arrays[array][positions] if self.columns is None
            else self.arrays[array][positions[:, None], self.columns]
            for name, array in ((ids, "feat_ids"), (weights, "feat_vals"))
        }  # fmt: skip
        if "label" in self.arrays:
            batch["label"] = self.arrays["label"][positions][:, None]
        batch["row_ids"] = self.arrays["row_ids"][positions]
        return batch


def map_arrays(folder: Path, rows: int, columns: int) -> Arrays:
    """The arrays of a part, mapped.

    Raises:
        DataError: one is missing, damaged, or of another shape or type than the card says.
    """
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "feat_ids": ("<i4", (rows, columns)),
        "feat_vals": ("<f4", (rows, columns)),
        "row_ids": ("<i8", (rows,)),
        "label": ("<f4", (rows,)),
    }
    arrays: Arrays = {}
    for name, (dtype, shape) in expected.items():
        path = folder / f"{name}.npy"
        if name == "label" and not path.is_file():
            continue
        try:
            array = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be mapped ({error}); make the folder anew") from error
        if array.dtype.str != dtype or array.shape != shape:
            raise DataError(f"{path}: expected {dtype} {shape}, found {array.dtype.str} {array.shape}")
        arrays[name] = array
    return arrays
