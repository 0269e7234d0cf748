"""The command gen_heter_data: ratings -> one training and one test set per client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flps.data.divide import WAYS
from flps.data.generate import Division, generate
from flps.errors import FlpsError, ResourceError


def parser() -> argparse.ArgumentParser:
    """The flags; the original's keep their names."""
    flags = argparse.ArgumentParser(prog="gen_heter_data", description=__doc__)
    flags.add_argument(
        "--full_train_data_path",
        type=Path,
        required=True,
        help="ratings.dat, *.train.rating[.gz|.xz], a csv, or a folder",
    )
    flags.add_argument(
        "--full_test_data_path", type=Path, help="*.test.negative[.gz|.xz] or a csv; default: found beside the ratings"
    )
    flags.add_argument(
        "--splitted_data_path",
        type=Path,
        default=Path(),
        help="where fl_train_data and fl_test_data are made (default: here)",
    )
    flags.add_argument("--file_nums", type=int, default=10, help="clients (default: 10)")
    flags.add_argument("--users_dat", type=Path, help="zip codes of the users; default: users.dat beside the ratings")
    flags.add_argument("--num_neg", type=int, default=4, help="negatives for one positive (default: 4)")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--by", choices=WAYS, default="zipcode", help="what makes the clients differ (default: zipcode)")
    flags.add_argument(
        "--negatives",
        choices=("fresh", "fixed"),
        default="fresh",
        help="drawn by workers each epoch, or written to the files",
    )
    flags.add_argument(
        "--alpha", type=float, default=0.5, help="Dirichlet parameter of quantity and dirichlet (default: 0.5)"
    )
    flags.add_argument(
        "--num_items", type=int, default=0, help="items that negatives are drawn from; default: as the files say"
    )
    flags.add_argument("--no_png", action="store_true", help="write the heterogeneity card as json only")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    flags = parser().parse_args(arguments)
    division = Division(
        train=flags.full_train_data_path,
        test=flags.full_test_data_path,
        out=flags.splitted_data_path,
        file_nums=flags.file_nums,
        users_dat=flags.users_dat,
        num_neg=flags.num_neg,
        seed=flags.seed,
        by=flags.by,
        negatives=flags.negatives,
        alpha=flags.alpha,
        num_items=flags.num_items,
        picture=not flags.no_png,
    )
    try:
        _, lines = generate(division)
    except FlpsError as error:
        print(f"gen_heter_data: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"gen_heter_data: {error}", file=sys.stderr)
        return ResourceError.exit_code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
