"""Raw Criteo lines as columns of ids and weights, divided among parties; how it is done stands in flps/data/criteo.py.

Fetch the Kaggle display advertising data (research use, no redistribution), unpack train.txt, then
    python datasets/criteo.py --data_path=./data/ --dense_dim=13 --slot_dim=26 --threshold=100 \\
        --train_line_count=45840617 --skip_id_convert=0
--data_path is a file (tab or comma between columns; plain, .gz, .xz), or the folder of train.txt or of
origin_data/train.txt.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flps.data.criteo import ORIGINALS_BLOCK, Recipe, Told, prepare
from flps.data.criteo_parties import LEADER_AND_FOLLOWER, Party, parse_party
from flps.data.criteo_text import Layout, find_raw
from flps.errors import FlpsError


def flags() -> argparse.ArgumentParser:
    """The seed's flags, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_path", type=Path, default=Path("./data/"), help="raw file or its folder")
    add("--dense_dim", type=int, default=13, help="columns of numbers")
    add("--slot_dim", type=int, default=26, help="columns of categories")
    add("--threshold", type=int, default=100, help="a category that occurs more often has an id of its own")
    add("--train_line_count", type=int, help="lines of the file; left out: they are counted")
    add("--skip_id_convert", type=int, choices=(0, 1), default=0, help="1: categories are integers, their own ids")
    add("--output", type=Path, help="the new folder (default: columns, beside the raw file)")
    add("--split", choices=("time", "random"), default="time", help="random: the original's tenth for testing")
    add("--train_share", type=Fraction, default=Fraction(6, 7), help="time: the first share trains, e.g. 6/7 or 0.9")
    add("--block_lines", type=int, default=ORIGINALS_BLOCK, help="random: lines that stay together")
    add("--own", type=int, metavar="NUMBER", help="the file is one party's own, its rows aligned with the others': 0 "
        "the leader, 1 the first follower, ...")  # fmt: skip
    add("--id_column", action="store_true", help="lines begin with an id, which is passed over")
    add("--no_label", action="store_true", help="lines have no label: a follower's own file")
    add("--header", action="store_true", help="the first line names the columns")
    add("--parties", nargs="*", metavar="NAME:COLUMNS", help="leader:0-6,13-25 follower:7-12,26-38 is the default; "
        "the first has the labels; nothing behind the flag: no division")  # fmt: skip
    return parser


def division(wanted: list[str] | None, recipe: Recipe) -> tuple[Party, ...]:
    """The parties that were asked for."""
    if wanted is None:
        return LEADER_AND_FOLLOWER if recipe.layout.fields == 39 and recipe.own is None else ()
    return tuple(parse_party(text) for text in wanted)


def bar(progress: Progress) -> Told:
    """A line of the bar for each pass."""
    tasks = {}

    def told(phase: str, done: int, lines: int) -> None:
        if phase not in tasks:
            tasks[phase] = progress.add_task(phase, total=lines or None)
        progress.update(tasks[phase], completed=done)

    return told


def clicks(card: dict[str, Any], part: str) -> str:
    """How many of a part's rows were clicked, where there are labels."""
    return f" ({card['labels'][part][1]} clicks)" if card["labels"] else ""


def main() -> int:
    """Write the folder and say what is in it."""
    chosen = flags().parse_args()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        raw = find_raw(chosen.data_path)
        out = chosen.output or raw.parent / "columns"
        layout = Layout(chosen.dense_dim, chosen.slot_dim, not chosen.no_label, chosen.id_column, chosen.header)
        recipe = Recipe(
            layout, chosen.threshold, bool(chosen.skip_id_convert),
            chosen.split, float(chosen.train_share), chosen.block_lines, chosen.own,
        )  # fmt: skip
        parties = division(chosen.parties, recipe)
        with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
            card = prepare(raw, out, recipe, parties, chosen.train_line_count, bar(progress))
    except FlpsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{out}: " + ", ".join(f"{count} rows to {part}{clicks(card, part)}" for part, count in card["rows"].items()))
    shares = ", ".join(f"{party.name} {len(party.columns)} columns" for party in parties)
    print(f"{card['ids']} ids; parties: {shares or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
