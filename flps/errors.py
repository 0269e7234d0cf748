"""What can go wrong, and the exit code that says so.

FlpsError            1  ours: a fault of this program
|- ConfigError       2  the user's: a file, key or flag is not as it must be
|  `- DataError      2  the user's: a data file is not as it must be
|- PrivacyError      1  something private was about to leave its owner
|- ProtocolError     1  the peer's: what it sent breaks the protocol
|- Refused           1  the peer's answer: it did not accept this one request
|- PeerLost          4  nobody's: a peer was silent for longer than a deadline
|- PartyRestarted    4  a party of a split job was started again: go back to the last common checkpoint
|- RoleFailed        4  a role ended with an error and the job was stopped
|- NeverCameUp       5  a role did not report itself in time
`- ResourceError     6  port, disk or permission
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_WITH_LOSSES = 3
EXIT_INTERRUPTED = 130


class FlpsError(Exception):
    """Root of every error that flps raises on purpose."""

    exit_code = 1


class ConfigError(FlpsError):
    """The user's configuration or command line is wrong; the message says where and what was expected."""

    exit_code = 2


class DataError(ConfigError):
    """A data file is wrong; the message names file and line."""


class PrivacyError(FlpsError):
    """A private tensor was handed to code that would have sent or published it."""


class ProtocolError(FlpsError):
    """A peer sent something that the protocol does not allow."""


class Refused(FlpsError):
    """A peer refused this one request and said why; the connection goes on."""


class PeerLost(FlpsError):
    """A peer did not answer within the deadline; the message names who was waited for, and how long."""

    exit_code = 4


class PartyRestarted(FlpsError):
    """A party of a split job was started again, or goes back because another was: load a checkpoint and agree again.

    What had been sent and not been received is gone on both sides.
    """

    exit_code = 4


class RoleFailed(FlpsError):
    """A role ended with an error, so the job was stopped."""

    exit_code = 4


class NeverCameUp(FlpsError):
    """A role did not report itself before the start deadline."""

    exit_code = 5


class ResourceError(FlpsError):
    """A port is taken, a disk is full or a permission is missing."""

    exit_code = 6
