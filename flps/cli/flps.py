"""`flps`: what a user does besides starting a job. One function per sub-command; each returns an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flps.cli.eval import add_eval
from flps.errors import ConfigError, FlpsError

DEFAULT_KEY_DIR = Path("~/.flps/keys")

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
    _add_keys(commands)
    return parser


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = commands.add_parser("keys", help="make or show the CURVE keys of TCP links")
    acts = keys.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, act, text in (
        ("make", keys_make, "make a key pair for each role; keys that are there are kept"),
        ("show", keys_show, "print the fingerprint of each role's key"),
    ):
        parser = acts.add_parser(name, help=text, description=text)
        parser.add_argument("--key_dir", "--key-dir", type=Path, default=DEFAULT_KEY_DIR, help="default: %(default)s")
        parser.set_defaults(act=act)


def keys_make(arguments: argparse.Namespace) -> int:
    """Make a key folder and print where it is, the fingerprints, and who needs which file."""
    from flps.transport.security import make_keys

    folder = _folder(arguments)
    prints = make_keys(folder)
    print(f"keys in {folder}")
    _print_fingerprints(prints)
    print("every host needs all *.public files; a role's .secret file goes only to the hosts that run that role")
    return 0


def keys_show(arguments: argparse.Namespace) -> int:
    """Print the fingerprints of a key folder."""
    from flps.transport.security import ROLES, fingerprint, public_key

    folder = _folder(arguments)
    if not folder.is_dir():
        raise ConfigError(f"no key folder {folder}; `flps keys make --key_dir {folder}` makes one")
    _print_fingerprints({role: fingerprint(public_key(folder, role)) for role in ROLES})
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.key_dir
    return folder.expanduser().absolute()


def _print_fingerprints(prints: dict[str, str]) -> None:
    for role, print_ in prints.items():
        print(f"  {role:<12} {print_}")


if __name__ == "__main__":
    main()
