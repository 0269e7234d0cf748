"""`flps`: what a user does besides starting a job. One function per sub-command; each returns an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flps.cli.eval import add_eval
from flps.cli.keys import add_keys
from flps.cli.psi import add_psi
from flps.errors import FlpsError

# Heavy modules are imported where they are needed: `flps --help` answers at once.


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.act(arguments))
    except FlpsError as error:
        print(f"flps: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flps", description="Tools around a federation; flrun starts one.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_eval(commands)
    add_keys(commands)
    add_psi(commands)
    return parser


if __name__ == "__main__":
    main()
