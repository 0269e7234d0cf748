"""A flood of warnings stays a few lines."""

from __future__ import annotations

import logging

import pytest

from flps.transport.calm import LINES, PERIOD_S, Calm


def test_a_flood_is_a_few_lines_and_their_number(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    calm = Calm(logging.getLogger("calm"), lambda: now)
    for number in range(1000):
        calm.warn("refused %d", number)
    assert [record.message for record in caplog.records] == [f"refused {number}" for number in range(LINES)]
    now = PERIOD_S
    calm.warn("refused again")
    assert [record.message for record in caplog.records][LINES:] == [
        f"{1000 - LINES} more warnings like these were kept out of the log",
        "refused again",
    ]


def test_what_is_rare_is_all_said(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    calm = Calm(logging.getLogger("calm"), lambda: now)
    for _ in range(5):
        now += PERIOD_S
        for _ in range(LINES):
            calm.warn("refused")
    assert len(caplog.records) == 5 * LINES
    assert {record.message for record in caplog.records} == {"refused"}
