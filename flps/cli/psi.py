"""`flps psi`: find the rows that both parties have, without telling each other the others, and order them alike."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flps.cli.tls_flags import add_tls, tls_files
from flps.errors import ConfigError

if TYPE_CHECKING:
    from flps.config.tls import TlsFiles
    from flps.psi.ids import Ids
    from flps.psi.protocol import Alignment, Terms

# Heavy modules are imported where they are needed: `flps --help` answers at once.

EPILOG = """\
At the leader, which listens, and at the follower, which dials; either may start first:
    flps psi --role leader   --id_column id --input bank.csv --output bank.aligned.csv --address 10.0.0.1:7700
    flps psi --role follower --id_column id --input shop.csv --output shop.aligned.csv --address 10.0.0.1:7700
What each party learns, and what not, is in docs/psi.md.
"""


def add_psi(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    text = "find the rows that two parties both have, without telling each other the others"
    parser = commands.add_parser(
        "psi", help=text, description=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--role", choices=("leader", "follower"), required=True, help="one party is each")
    parser.add_argument("--id_column", "--id-column", required=True, help="the column that names a row")
    parser.add_argument(
        "--input", required=True,
        help="a file .csv (also .gz, .xz) or .parquet, a database as sqlite:///file.db, or env:NAME for its URL",
    )  # fmt: skip
    parser.add_argument("--table", help="with a database: the table or view that holds the rows")
    parser.add_argument("--delimiter", default=",", help="of a csv; default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="the aligned rows: a file .csv or .parquet")
    parser.add_argument("--address", required=True, help="host:port, or ipc:///folder/name, where the leader listens")
    parser.add_argument("--reveal", choices=("both", "leader"), default="both", help="who learns which ids both have")
    parser.add_argument(
        "--cover", type=float, default=1.0,
        help="leader, with --reveal leader: share of the follower's other rows asked for; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--duplicates", choices=("refuse", "first"), default="refuse", help="ids that come again")
    parser.add_argument("--empty", choices=("refuse", "drop"), default="refuse", help="rows without an id")
    parser.add_argument("--cores", type=int, help="processes that compute; default: every core of this machine")
    parser.add_argument(
        "--timeout_s",
        "--timeout-s",
        type=float,
        default=120.0,
        help="longest silence of the peer; default: %(default)s",
    )
    parser.add_argument(
        "--start_timeout_s", "--start-timeout-s", type=float, default=900.0,
        help="longest wait for the peer to come up; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--key_dir", "--key-dir", type=Path, help="CURVE keys of TCP links, made by `flps keys make`")
    parser.add_argument("--insecure", action="store_true", help="TCP without encryption; for trials only")
    add_tls(parser)
    parser.set_defaults(act=psi)


def psi(arguments: argparse.Namespace) -> int:
    """Align this party's rows with the peer's and write them."""
    from flps.psi.aligned import check_output, write_aligned
    from flps.psi.curve import check_installed
    from flps.psi.ids import read_ids
    from flps.psi.protocol import Terms
    from flps.psi.sources import open_source

    check_installed()
    check_output(arguments.output)
    tls = tls_files(arguments)
    if tls is not None and arguments.insecure:
        raise ConfigError("--insecure and certificates contradict each other; leave one out")
    terms = Terms(arguments.role, arguments.reveal, arguments.cover)
    source = open_source(arguments.input, arguments.id_column, arguments.table, arguments.delimiter)
    ids = read_ids(source.ids(), source.name, arguments.duplicates, arguments.empty)
    print(f"{source.name}: {len(ids.points)} ids{_dropped(ids)}", flush=True)
    began = time.monotonic()
    alignment = _align(arguments, terms, ids, tls)
    wall_s = time.monotonic() - began
    card = write_aligned(arguments.output, source, ids, alignment, arguments.role, arguments.reveal)
    known = "" if card.matched is None else f"{card.matched} ids matched; "
    print(f"{known}{card.rows} rows in {arguments.output}, digest {card.digest}, aligned in {wall_s:.1f} s")
    return 0


def _align(arguments: argparse.Namespace, terms: Terms, ids: Ids, tls: TlsFiles | None) -> Alignment:
    from flps.config.types import Network
    from flps.psi.link import open_link
    from flps.psi.protocol import Side
    from flps.psi.run import cores_here, run, workers
    from flps.split.parties import ServerConfig, seats_of, terms_of
    from flps.transport.sockets import Carrier

    if arguments.timeout_s <= 0 or arguments.start_timeout_s <= 0:
        raise ConfigError("--timeout_s and --start_timeout_s are more than 0 seconds")
    other = "follower" if arguments.role == "leader" else "leader"
    network = Network(start_timeout_s=arguments.start_timeout_s)
    configs = [ServerConfig(name, arguments.address) for name in (arguments.role, other)]
    seats = seats_of(configs[0], configs[1:], arguments.role, 0, tls is not None)
    carrier = Carrier(
        terms_of(seats, network, arguments.key_dir, arguments.insecure, tls), seats.own, time.time_ns() // 1000
    )
    cores = cores_here() if arguments.cores is None else arguments.cores
    with workers(cores) as executor, open_link(carrier, seats, network) as link:
        side = Side(terms, ids.points)
        return run(side, link, executor, cores, arguments.timeout_s, arguments.start_timeout_s)


def _dropped(ids: Ids) -> str:
    words = [f"{ids.empty} rows without an id dropped"] if ids.empty else []
    words += [f"{ids.repeated} rows with an id that came before dropped"] if ids.repeated else []
    return f"; {', '.join(words)}" if words else ""
