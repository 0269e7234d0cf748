"""Who is who among the parties of a split job, where they meet, and how their links are kept from others.

Law 1: the leader listens, followers dial; so a follower behind a router takes part, and its own address is not used.
Law 2: a link is private: a unix socket in a private folder, CURVE over TCP, or TLS; plain TCP only where `insecure` is
said.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from flps.config.job import Security, Terms
from flps.config.tls import TlsFiles
from flps.config.types import Network
from flps.errors import ConfigError, ResourceError
from flps.membership import Member
from flps.transport.security import make_keys

log = logging.getLogger(__name__)
Role: TypeAlias = Literal["leader", "follower"]
LEADER = Member("leader", 0)
RUN = "split"  # of parties that are started one by one: they have no launcher who draws a run's id
SIDES = {"leader": "server", "follower": "client"}  # the original's words for the two ends of TLS
DEFAULT_KEY_DIR = Path("~/.flps/keys")
_NUMBER = re.compile(r"(\d{1,6})$")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", re.ASCII)
_SCHEMES = ("tcp", "tls", "ipc", "loopback")
_NEAR = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class ServerConfig:
    """A party's name and address.

    server_name: what messages for it are addressed to. server_address: `host:port`, or an endpoint: `tcp://host:port`,
    `tls://host:port`, `ipc:///private/folder/name`, `loopback://name` (threads of one process).
    """

    server_name: str
    server_address: str

    def __post_init__(self) -> None:
        for key in ("server_name", "server_address"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"ServerConfig: {key} must be a text that is not empty, got {value!r}")
        scheme, is_endpoint, rest = self.server_address.partition("://")
        is_right = scheme in _SCHEMES and bool(rest) if is_endpoint else bool(_ADDRESS.fullmatch(scheme))
        if not is_right or (scheme in ("tcp", "tls") and is_endpoint and not _ADDRESS.fullmatch(rest)):
            raise ConfigError(
                f"{self.server_name}: {self.server_address!r} is no address; expected host:port, or an endpoint with "
                f"one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
            )


@dataclass(frozen=True)
class SSLConfig:
    """Certificates in the original's words and order: the leader is its server, a follower its client.

    server_password, client_password: of the key in the own file; better None, with the password in the variable
    FLPS_SERVER_PASSWORD (FLPS_CLIENT_PASSWORD) or in a file of mode 600 that FLPS_SERVER_PASSWORD_FILE names.
    server_cert_path, client_cert_path: PKCS#12 or PEM with certificate and key; the own one is needed.
    ca_cert_path, crl_path: the authorities that are believed, and their revocation lists.
    cipher_list: accepted and not used: TLS 1.2 or later, with the suites that this host's OpenSSL allows.
    cert_expire_warning_time_in_day: from how many days before its end on the own certificate is warned about.
    peer_name, speakers: as in `TlsFiles`; the original looks at nobody's name, here each certificate's is checked.
    """

    server_password: str | None = field(default=None, repr=False)
    client_password: str | None = field(default=None, repr=False)
    server_cert_path: str | None = None
    client_cert_path: str | None = None
    ca_cert_path: str | None = None
    crl_path: str | None = None
    cipher_list: str | None = None
    cert_expire_warning_time_in_day: int = 90
    peer_name: str = field(default="", kw_only=True)
    speakers: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def files(self, role: str) -> TlsFiles:
        """The files of that party. Raises ConfigError for a path that is missing, and for two passwords."""
        side = SIDES[role]
        paths = {f"{side}_cert_path": getattr(self, f"{side}_cert_path"), "ca_cert_path": self.ca_cert_path}
        missing = [name for name, path in paths.items() if not path]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: is missing; the {role} shows the {side}'s certificate")
        variable = f"FLPS_{side.upper()}_PASSWORD"
        is_said = self.password(role) is not None
        has_variable, file = variable in os.environ, os.environ.get(f"{variable}_FILE", "")
        if not is_said and has_variable and file:
            raise ConfigError(f"{variable} and {variable}_FILE are both set; keep one")
        return TlsFiles(
            ca=str(self.ca_cert_path),
            certificate=str(paths[f"{side}_cert_path"]),
            password_variable=variable if has_variable and not is_said else "",
            password_file="" if is_said else file,
            crl=self.crl_path or "",
            peer_name=self.peer_name,
            speakers=dict(self.speakers),
            expiry_warning_days=self.cert_expire_warning_time_in_day,
        )

    def password(self, role: str) -> bytes | None:
        """What the script itself says; it is warned about where it is used."""
        said = self.server_password if SIDES[role] == "server" else self.client_password
        return said.encode() if said else None


class Seats(NamedTuple):
    """The parties, as this one sees them."""

    own: Member
    others: Mapping[Member, str]  # -> name
    endpoint: str  # where the leader listens


def seats_of(
    own: ServerConfig, remotes: Sequence[ServerConfig], role: Role | None, rank: int | None, use_tls: bool
) -> Seats:
    """Which party this is. Raises ConfigError where the names leave that open.

    role: None: the one with several remotes, or with "leader" in its name, leads. rank: a follower's; None: the number
    at the end of its name, else 0. The leader counts its followers in the same way when each name ends with another
    number, else in the order of its list.
    """
    names = [own.server_name, *(remote.server_name for remote in remotes)]
    if not remotes or len(set(names)) < len(names):
        raise ConfigError(f"the parties of a job want different names, at least two of them; got {', '.join(names)}")
    role = role or _role_of(own, remotes)
    if role == "leader":
        ranks = _ranks_of(names[1:])
        others = {Member("follower", n): name for n, name in zip(ranks, names[1:], strict=True)}
        return Seats(LEADER, others, _endpoint(own, use_tls))
    if len(remotes) > 1:
        raise ConfigError(f"{own.server_name} is a follower and talks to its leader only, got {', '.join(names[1:])}")
    place = _ranks_of(names[:1])[0] if rank is None else rank
    return Seats(Member("follower", place), {LEADER: names[1]}, _endpoint(remotes[0], use_tls))


def terms_of(
    seats: Seats, network: Network, key_dir: Path | None, insecure: bool, tls: TlsFiles | None = None
) -> Terms:
    """On what terms parties talk that were started without a launcher.

    key_dir: None: over TCP on one machine keys that all processes of this user share, else `~/.flps/keys`. tls:
    certificates, for a tls:// endpoint; relative paths start at the working folder.

    Raises:
        ConfigError: a key is missing, a folder can be entered by others, or certificates and endpoint do not fit.
    """
    scheme, _, rest = seats.endpoint.partition("://")
    if (scheme == "tls") != (tls is not None):
        raise ConfigError(
            f"{seats.endpoint}: enable_ssl (or a tls:// address) and certificates (ssl_config: TlsFiles) go together; "
            "without them links over TCP are guarded by CURVE, see `flps keys`"
        )
    security: Security = "plain"
    keys = ""
    if scheme == "ipc":
        security = "unix"
        _check_private(Path(rest).parent)
    elif scheme == "loopback":
        security = "loopback"
    elif scheme == "tls":
        security = "tls"
    elif scheme == "tcp" and insecure:
        log.warning("%s: plain TCP, since insecure was asked for: whoever is on the way can read everything", rest)
    elif scheme == "tcp":
        security, keys = "curve", str(_key_folder(seats, rest.rpartition(":")[0], key_dir))
    ranks = [member.rank for member in (seats.own, *seats.others) if member.role == "follower"]
    counts = {"leader": 1, "follower": max(ranks) + 1}
    folder = str(Path.cwd())
    return Terms(run_id=RUN, security=security, network=network, seats=counts, key_dir=keys, tls=tls, config_dir=folder)


def own_certificates(said: TlsFiles | SSLConfig | None, role: str) -> tuple[TlsFiles | None, bytes | None]:
    """A party's certificates, and the password that a script says itself, which is warned about."""
    if not isinstance(said, SSLConfig):
        return said, None
    password = said.password(role)
    if password is not None:
        log.warning(
            "SSLConfig: who can read a script can read the password in it; put it into the variable "
            "FLPS_SERVER_PASSWORD (at the leader; FLPS_CLIENT_PASSWORD at a follower) and write None instead"
        )
    return said.files(role), password


def _role_of(own: ServerConfig, remotes: Sequence[ServerConfig]) -> Role:
    leads = "leader" in own.server_name.lower()
    if len(remotes) > 1 or (leads and "leader" not in remotes[0].server_name.lower()):
        return "leader"
    if not leads and "leader" in remotes[0].server_name.lower():
        return "follower"
    raise ConfigError(
        f"which of {own.server_name!r} and {remotes[0].server_name!r} leads cannot be seen from their names; "
        'say role="leader" at the party with the labels, role="follower" at the others'
    )


def _ranks_of(names: Sequence[str]) -> list[int]:
    numbers = [int(match[1]) for match in map(_NUMBER.search, names) if match]
    return numbers if len(set(numbers)) == len(names) else list(range(len(names)))


def _endpoint(config: ServerConfig, use_tls: bool) -> str:
    address = config.server_address
    if "://" not in address:
        address = f"{'tls' if use_tls else 'tcp'}://{address}"
    return address.replace("://localhost:", "://127.0.0.1:")  # zmq binds to numbers


def _key_folder(seats: Seats, host: str, key_dir: Path | None) -> Path:
    if key_dir is not None or host not in _NEAR:
        folder = (key_dir or DEFAULT_KEY_DIR).expanduser().absolute()
        role = seats.own.role
        other = "follower" if role == "leader" else "leader"
        wanted = [f"{role}.secret"] + ([f"{other}.public"] if role == "follower" else [])
        for name in wanted:
            if not (folder / name).exists():
                raise ConfigError(
                    f"{folder / name} is missing; `flps keys make --key_dir {folder} --role leader --role follower` "
                    "makes keys, the others' .public files are brought from their hosts. Without encryption: insecure"
                )
        return folder
    return _shared_keys()


def _shared_keys() -> Path:
    """Keys for links on this machine, made by the first process of this user that wants them."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"flps-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        _check_private(base)
        with (base / "keys.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make_keys(base / "keys", ["leader", "follower"])
    except OSError as error:
        raise ResourceError(f"cannot keep keys in {base}: {error.strerror}") from error
    return base / "keys"


def _check_private(folder: Path) -> None:
    """Raises ConfigError unless this user, and nobody else, can enter the folder."""
    try:
        status = folder.stat()
    except OSError as error:
        raise ConfigError(f"cannot look at {folder}: {error.strerror}; make it, with mode 700") from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"others can enter {folder}, where a party would listen; `chmod 700 {folder}`, or choose another"
        )
