"""MovieLens-1M as ten clients, by the first digit of the zip code: the division of the quick start.

Fetch ml-1m.zip from https://grouplens.org/datasets/movielens/1m/ (research use, no redistribution), unpack it, then
    python datasets/movielens.py ml-1m fl_data
Further flags are those of gen_heter_data.
"""

from __future__ import annotations

import sys

from flps.cli.gen_heter_data import main

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    ratings, folder, *flags = sys.argv[1:]
    sys.exit(main(["--full_train_data_path", ratings, "--splitted_data_path", folder, *flags]))
