"""A log that a flood of messages cannot fill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINES = 20
PERIOD_S = 10.0


class Calm:
    """Passes on at most LINES warnings in PERIOD_S seconds, and says how many it kept to itself."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._period_ends = 0.0
        self._said = 0

    def warn(self, text: str, *values: object) -> None:
        """Log a warning, unless too many have been logged just now."""
        now = self._clock()
        if now >= self._period_ends:
            kept = self._said - LINES
            if kept > 0:
                self._log.warning("%d more warnings like these were kept out of the log", kept)
            self._period_ends, self._said = now + PERIOD_S, 0
        self._said += 1
        if self._said <= LINES:
            self._log.warning(text, *values)
