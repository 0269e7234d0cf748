"""What went wrong on a `tls://` endpoint, in one line for people: what it was, and what to do.

Which end notices what: a certificate is judged by the other end; its owner gets to know by an alert.
"""

from __future__ import annotations

import ssl

from flps.errors import FlpsError


class TlsTrouble(FlpsError):
    """A conversation that cannot be had or go on; the message is one line with advice."""


class TlsMismatch(TlsTrouble):
    """The ends do not fit: another attempt will not go better until somebody changes something."""


REVOKED = "the other side's certificate is refused: it is revoked; its owner needs a new one"
_PASSING = (3, 9, 11, 12)  # verdicts that another list of revoked certificates, or time, may change
# What is wrong with the certificate that the other end showed (X509_V_ERR_*).
_VERDICTS = {
    3: "there is no revocation list of the authority that signed it; add that list to `crl`",
    7: "its authority has the name of one in `ca`, but another key; compare `ca` with what the other side uses",
    9: "it is not valid yet; look at the clocks of both hosts, or wait",
    10: "it has expired; its owner needs a new one (or look at this host's clock)",
    11: "the revocation list is not valid yet; look at this host's clock",
    12: "the revocation list has expired; fetch a new one into `crl`",
    18: "it is signed by itself, by no authority in `ca`; it needs one of an authority that both ends believe",
    19: "its authority is not in `ca`; compare `ca` with what the other side uses",
    20: "its authority is not in `ca`; compare `ca` with what the other side uses, or it sends no intermediate ones",
    21: "its authority is not in `ca`; compare `ca` with what the other side uses",
    23: "it is revoked; its owner needs a new one",
    26: "it was not made for this end of a connection; its extended key usage must say client and server",
    62: "it has another name; set `peer_name` to a name in it, or dial the host that it names",
    64: "it does not name this address; set `peer_name` to a name in it, or dial the host that it names",
}
# What the other end, or OpenSSL here, says; by the library's name of the reason.
_REASONS = {
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the authority of our certificate; compare the `ca` files",
    "TLSV1_ALERT_DECRYPT_ERROR": "the other side knows our authority by another key; compare the `ca` files",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says our certificate is expired or not valid yet; renew it",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the other side says that our certificate is revoked; ask for a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side refuses our certificate: another name than it expects, or not valid",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side refuses our certificate; its log says why",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side refuses our certificate: its extended key usage",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side demands a certificate and we have shown none",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other side refused (no certificate shown, or no cipher in common)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side wants another version of TLS; compare `minimum_version`",
    "UNSUPPORTED_PROTOCOL": "the other side speaks an older TLS than `minimum_version` allows",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side showed no certificate; it must have one (`certificate`)",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS; use a tls:// endpoint at both ends",
    "HTTP_REQUEST": "the other side speaks HTTP; use a tls:// endpoint at both ends",
}
NO_TLS = "the other side does not speak TLS; use a tls:// endpoint at both ends"
NO_FLPS = "the other side speaks TLS, but is no tls:// endpoint of this version of flps"
HUNG_UP = "the other side hung up before it was ready; its log may say why"


def explain(error: ssl.SSLError) -> TlsTrouble:
    """An error of the library with its line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        verdict = _VERDICTS.get(error.verify_code, error.verify_message)
        kind = TlsTrouble if error.verify_code in _PASSING else TlsMismatch
        return kind(f"the other side's certificate is refused: {verdict}")
    if isinstance(error, ssl.SSLEOFError):
        return TlsTrouble(HUNG_UP)
    reason = (error.reason or "").upper().replace(" ", "_")
    if reason in _REASONS:
        return TlsMismatch(_REASONS[reason])
    return TlsTrouble(f"TLS failed: {error.reason or error}")
