"""`flps keys`: make the keys of TCP links, and say what each key may speak as."""

from __future__ import annotations

import argparse
from pathlib import Path

from flps.errors import ConfigError

DEFAULT_KEY_DIR = Path("~/.flps/keys")
ROLES = ("server", "worker", "coordinator", "leader", "follower")

# Heavy modules are imported where they are needed: `flps --help` answers at once.


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command with its own sub-commands."""
    keys = commands.add_parser("keys", help="make the CURVE keys of TCP links, and say what each may speak as")
    acts = keys.add_subparsers(title="commands", required=True, metavar="COMMAND")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--key_dir", "--key-dir", type=Path, default=DEFAULT_KEY_DIR, help="default: %(default)s")

    make = acts.add_parser("make", parents=[folder], help="make key pairs; keys that are there are kept")
    make.add_argument("--role", choices=ROLES, action="append", help="only this role's pair (may be given again)")
    make.add_argument("--name", help="with one --role: also write NAME.public, to be sent to who runs the servers")
    make.set_defaults(act=keys_make)

    show = acts.add_parser("show", parents=[folder], help="print fingerprints, and what each key may speak as")
    show.add_argument("file", nargs="?", type=Path, help="only the fingerprint of the public key in this file")
    show.set_defaults(act=keys_show)

    allow = acts.add_parser("allow", parents=[folder], help="let the key in FILE speak as a role, and as a rank of it")
    allow.add_argument("file", type=Path, metavar="FILE", help="a public key, for example hospital-3.public")
    allow.add_argument("--role", choices=ROLES, required=True)
    allow.add_argument("--rank", default="*", help="a rank, or several as 3,4; left out: every rank")
    allow.add_argument("--name", help="what to call the key; left out: the file's name")
    allow.set_defaults(act=keys_allow)

    revoke = acts.add_parser("revoke", parents=[folder], help="let a key speak no more; also in jobs that run")
    revoke.add_argument("who", metavar="NAME", help="the key's name, its fingerprint, or a role whose own key is meant")
    revoke.set_defaults(act=keys_revoke)


def keys_make(arguments: argparse.Namespace) -> int:
    """Make a key folder and print where it is, the fingerprints, and who needs which file."""
    from flps.transport.security import make_keys, public_key, write_exclusively

    folder, roles = _folder(arguments), arguments.role or list(ROLES)
    if arguments.name is not None and (len(roles) != 1 or arguments.name in ROLES):
        raise ConfigError("--name is of one owner's key: give one --role with it, and a name that is not a role's")
    if arguments.name is not None:
        from flps.transport.access import check_name

        check_name(arguments.name, "--name")
    prints = make_keys(folder, roles)
    print(f"keys in {folder}")
    for role, print_ in prints.items():
        print(f"  {role:<12} {print_}")
    if arguments.name is None:
        print("every host needs all *.public files; a role's .secret file goes only to the hosts that run that role")
        return 0
    path = folder / f"{arguments.name}.public"
    write_exclusively(path, public_key(folder, roles[0]) + b"\n", 0o644)
    print(f"send {path} to who runs the servers, who says `flps keys allow {path.name} --role {roles[0]}`;")
    print("compare the fingerprint by another way, such as the telephone. The .secret file stays here.")
    return 0


def keys_show(arguments: argparse.Namespace) -> int:
    """Print the fingerprint of one file, or of everything in a key folder."""
    from flps.transport.access import ranks_text, read_list
    from flps.transport.security import fingerprint, public_key, read_public

    if arguments.file is not None:
        print(fingerprint(read_public(arguments.file)))
        return 0
    folder = _folder(arguments)
    if not folder.is_dir():
        raise ConfigError(f"no key folder {folder}; `flps keys make --key_dir {folder}` makes one")
    entries = read_list(folder)
    revoked = {entry.key for entry in entries if entry.verdict == "revoke"}
    own = {role: public_key(folder, role) for role in ROLES if (folder / f"{role}.public").exists()}
    if not own and not entries:
        raise ConfigError(f"no keys in {folder}; `flps keys make --key_dir {folder}` makes them")
    for role, key in own.items():
        print(f"  {role:<12} {fingerprint(key)}{'  revoked' if key in revoked else ''}")
    for entry in entries:
        verdict = "may speak as" if entry.verdict == "allow" else "revoked; was"
        print(f"  {entry.name:<12} {fingerprint(entry.key)}  {verdict} {entry.role} {ranks_text(entry.ranks)}")
    return 0


def keys_allow(arguments: argparse.Namespace) -> int:
    """Put a key on the list."""
    from flps.transport.access import allow, ranks_text, read_ranks
    from flps.transport.security import fingerprint, read_public

    key, name = read_public(arguments.file), arguments.name or arguments.file.stem
    entry = allow(_folder(arguments), key, name, arguments.role, read_ranks(arguments.rank))
    print(f"{name} {fingerprint(key)} may speak as {entry.role} {ranks_text(entry.ranks)}")
    return 0


def keys_revoke(arguments: argparse.Namespace) -> int:
    """Take a key off for good."""
    from flps.transport.access import revoke
    from flps.transport.security import fingerprint

    for entry in revoke(_folder(arguments), arguments.who):
        print(f"{entry.name} {fingerprint(entry.key)} is revoked; jobs that run heed it within a second")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.key_dir
    return folder.expanduser().absolute()
