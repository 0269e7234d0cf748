"""How a role ends, and what it is made of."""

from __future__ import annotations

import errno
import io
import logging
import os
from pathlib import Path

import pytest

from flps.errors import ConfigError, FlpsError, PeerLost, ResourceError
from flps.launch.child import EXIT_STOPPED, LogStream, Stopped, outcome, resolve


def raises(error: BaseException) -> int:
    def act() -> None:
        raise error

    return outcome(act)


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (ZeroDivisionError("x"), 1, True),
        (FlpsError("x"), 1, True),
        (PeerLost("x"), 4, True),
        (ConfigError("x"), 2, False),
        (ResourceError("x"), 6, False),
        (SystemExit(None), 0, False),
        (SystemExit(7), 7, False),
        (SystemExit("sorry"), 1, False),
        (Stopped(), EXIT_STOPPED, False),
    ],
)
def test_every_end_has_its_code(
    error: BaseException, code: int, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert raises(error) == code
    assert ("Traceback" in caplog.text) is traceback


def test_a_good_end_is_0() -> None:
    assert outcome(lambda: None) == 0


def test_no_handler_of_a_role_keeps_a_stop() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_target_is_found_by_module_or_by_file(tmp_path: Path) -> None:
    assert resolve("flps.launch.child:outcome") is outcome
    script = tmp_path / "my_role.py"
    script.write_text("def role(job, role, rank):\n    pass\n")
    assert resolve(f"{script}:role").__name__ == "role"


@pytest.mark.parametrize("target", ["flps.launch.child:nothing", "/no/such/file.py:role"])
def test_a_target_that_is_not_there(target: str) -> None:
    with pytest.raises(ConfigError, match=r"nothing|No such file"):
        resolve(target)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_is_no_internal_error(number: int, caplog: pytest.LogCaptureFixture) -> None:
    def write() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    assert outcome(write) == 6
    assert f"the disk refuses: [Errno {number}]" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_log_that_cannot_be_written_ends_the_role_once() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    handler = LogStream(Full())
    logger = logging.Logger("full")
    logger.addHandler(handler)
    with pytest.raises(ResourceError, match="cannot write the log: No space left on device"):
        logger.info("first")
    logger.info("second")
