"""Flags of the certificates of a `tls://` endpoint: where the files are, never what is secret in them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flps.errors import ConfigError

if TYPE_CHECKING:
    from flps.config.tls import TlsFiles

_FLAGS = {
    "ca": "PEM file of the authorities that are believed",
    "certificate": "own certificate: PEM, or PKCS#12 with its key",
    "key": "PEM file of the private key, where it is not in the certificate's file",
    "crl": "file of revocation lists, PEM or DER",
    "password_file": "file of mode 600 whose first line is the password of the key or the PKCS#12 file",
    "password_variable": "environment variable that holds the password",
    "peer_name": "name in the certificate of who is dialled; default: the host of the address",
}


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the flags; `--tls_certificate` asks for TLS."""
    group = parser.add_argument_group("TLS", "in the place of CURVE, between organisations; see docs/security.md")
    for name, text in _FLAGS.items():
        group.add_argument(f"--tls_{name}", f"--tls-{name.replace('_', '-')}", default="", help=text)
    group.add_argument(
        "--tls_speakers", "--tls-speakers", action="append", default=[], metavar="NAME=ROLE:RANK",
        help="which certificate may speak as whom, where its name does not say it; may be given again",
    )  # fmt: skip


def tls_files(arguments: argparse.Namespace) -> TlsFiles | None:
    """What the flags say, once the files have been read and tried; None without them. Raises ConfigError."""
    said = {name: value for name in _FLAGS if (value := getattr(arguments, f"tls_{name}"))}
    speakers = dict(text.rpartition("=")[::2] for text in arguments.tls_speakers)
    if not said and not speakers:
        return None
    missing = [name for name in ("ca", "certificate") if name not in said]
    if missing:
        raise ConfigError(f"TLS wants --tls_{' and --tls_'.join(missing)} too")
    if "" in speakers:
        raise ConfigError("--tls_speakers: expected NAME=ROLE:RANK, as in ml.shop.example=follower:0")
    from pathlib import Path

    from flps.config.tls import TlsFiles
    from flps.transport.sockets import read_identity

    files = TlsFiles(**said, speakers=speakers)
    read_identity(files, Path.cwd())
    return files
