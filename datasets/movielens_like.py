"""Generate ratings in ML-1M's formats, for machines without data; what it draws stands in flps/data/movielens_like.py.

python datasets/movielens_like.py FOLDER [--users 6040 --items 3706 --ratings 1000000 --seed 0]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flps.data.movielens_like import Shape, write_all
from flps.errors import FlpsError


def main() -> int:
    """Write the files and say how many ratings there are."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    for name, default in (("users", 6040), ("items", 3706), ("ratings", 1_000_000), ("seed", 0)):
        flags.add_argument(f"--{name}", type=int, default=default)
    chosen = flags.parse_args()
    try:
        split = write_all(chosen.folder, Shape(chosen.users, chosen.items, chosen.ratings, chosen.seed))
    except FlpsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    held = len(split.test_users)
    print(f"{chosen.folder}: {len(split.train.users) + held} ratings of {chosen.users} users, {held} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
