"""Ctrl-C and its kin in the launcher: before roles run they raise, while roles run they ring a bell.

Law 1: a handler set here is taken back when its block ends; outside the main thread nothing is set at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so that what was begun is undone on the way out."""
    with _handled_by(signal.default_int_handler):
        yield


@contextlib.contextmanager
def signal_bell() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that becomes readable when a signal arrives, and the growing list of those that came."""
    caught: list[int] = []
    bell_r, bell_w = os.pipe()
    os.set_blocking(bell_w, False)

    def ring(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        with contextlib.suppress(BlockingIOError):
            os.write(bell_w, b".")

    try:
        with _handled_by(ring):
            yield bell_r, caught
    finally:
        os.close(bell_r)
        os.close(bell_w)
