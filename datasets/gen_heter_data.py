"""Ratings -> one training and one test set per client; by path what `gen_heter_data` is as a command.

python datasets/gen_heter_data.py --full_train_data_path ml-1m --splitted_data_path fl_data --by zipcode
"""

from __future__ import annotations

import sys

from flps.cli.gen_heter_data import main

if __name__ == "__main__":
    sys.exit(main())
