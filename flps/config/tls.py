"""Where a role finds its X.509 files, and whom it believes: the configuration of `tls://` endpoints.

Law 1: a password stands in a file or in an environment variable, never here and never on a command line.
Law 2: nothing here opens a file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Own certificate, whom to believe, and which certificate may speak as whom. Paths begin at the configuration."""

    ca: Annotated[str, Meta(description="Required. PEM file of the certificate authorities that are believed.")]
    certificate: Annotated[
        str,
        Meta(
            description="Required. Own certificate: PEM (what lies between it and the authority may follow it), or "
            "PKCS#12 with its key."
        ),
    ]
    key: Annotated[str, Meta(description="PEM file of the private key; empty: it stands in `certificate`.")] = ""
    password_file: Annotated[
        str, Meta(description="File of mode 600 whose first line is the key's (or the PKCS#12 file's) password.")
    ] = ""
    password_variable: Annotated[str, Meta(description="Environment variable that holds the password.")] = ""
    crl: Annotated[
        str,
        Meta(description="File of revocation lists, PEM or DER; they must be of the authorities that sign the peers."),
    ] = ""
    crl_checks_chain: Annotated[
        bool, Meta(description="Whether authorities in between are looked up in the lists, too.")
    ] = False
    peer_name: Annotated[
        str,
        Meta(description="Name in the certificate of whoever is dialled; empty: the host of the endpoint."),
    ] = ""
    speakers: Annotated[
        dict[str, str],
        Meta(
            description="Certificate name -> `role:rank`, `role:0,2` or `role:*`: what it may speak as. Empty: a "
            "certificate's name is `role` (rank 0) or `role-rank`."
        ),
    ] = {}
    expiry_warning_days: Annotated[
        int, Meta(ge=0, description="From how many days before its end on the own certificate is warned about.")
    ] = 30
    minimum_version: Annotated[Literal["1.2", "1.3"], Meta(description="Oldest version of TLS that is spoken.")] = "1.2"
