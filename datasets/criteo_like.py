"""Generate lines of Criteo's form, for machines without data; what it draws stands in flps/data/criteo_like.py.

python datasets/criteo_like.py FOLDER [--rows 100000 --seed 0] writes FOLDER/train.tsv, which datasets/criteo.py reads.
With --csv it writes FOLDER/leader.csv and FOLDER/follower.csv instead, tables of two parties that share part of their
ids, which configs/wide_deep/psi.yaml reads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flps.data.criteo_like import Shape, write_raw, write_tables
from flps.errors import FlpsError


def main() -> int:
    """Write the file and say what comes next."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    for name, default in (("rows", 100_000), ("seed", 0), ("dense_dim", 13), ("slot_dim", 26)):
        flags.add_argument(f"--{name}", type=int, default=default)
    flags.add_argument("--csv", action="store_true", help="a table for each of two parties")
    flags.add_argument("--both_share", type=float, default=0.8, help="with --csv: of the rows both have")
    chosen = flags.parse_args()
    try:
        shape = Shape(chosen.rows, chosen.seed, chosen.dense_dim, chosen.slot_dim)
        chosen.folder.mkdir(parents=True, exist_ok=True)
        if chosen.csv:
            tables = write_tables(chosen.folder, shape, chosen.both_share)
            print(f"{' and '.join(map(str, tables))}; next: flrun -m configs/wide_deep/psi.yaml, which reads them")
            return 0
    except FlpsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    raw = chosen.folder / "train.tsv"
    with raw.open("wb") as file:
        write_raw(file, shape)
    print(f"{raw}: {shape.rows} rows; next: python datasets/criteo.py --data_path {chosen.folder} --threshold 10")
    return 0


if __name__ == "__main__":
    sys.exit(main())
