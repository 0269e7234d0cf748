"""What the terminal shows for the events of a run."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from flps.launch.board import Board
from flps.launch.live import (
    LiveShow,
    PlainShow,
    line,
    rate,
    result_table,
    roles_table,
    size,
    span,
    split_result_table,
)
from flps.launch.plan import Role

ROLES = (Role("server", 0, "h"), Role("worker", 0, "h"), Role("worker", 1, "h"))
PROGRESS = {
    "time": 110.0, "role": "worker", "rank": 0, "event": "progress", "state": "training", "epoch": 1, "epochs": 4,
    "step": 5, "steps": 10, "samples": 5120, "samples_per_s": 1234.5, "loss": 0.25, "auc": 0.75,
    "bytes_in": 2_500_000, "bytes_out": 900,
}  # fmt: skip
EVAL = {
    "time": 200.0, "role": "coordinator", "rank": 0, "event": "eval", "epoch": 20, "hr": 0.6712, "ndcg": 0.4011,
    "hr_full": 0.2, "ndcg_full": None, "auc": 0.91, "warm": 6040, "users": 6040,
}  # fmt: skip


def drawn(thing: object) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_row_follows_its_role() -> None:
    board = Board.of(ROLES)
    row = board.rows["worker.0"]
    assert row.state == "starting"
    board.apply({"event": "ready", "role": "worker", "rank": 0, "time": 99.0})
    assert row.state == "ready"
    board.apply(PROGRESS | {"time": 100.0, "step": 0})
    board.apply(PROGRESS)
    assert (row.state, row.epoch, row.loss, row.auc) == ("training", 1, 0.25, 0.75)
    assert row.share_done == (1 + 0.5) / 4
    assert row.left_s == pytest.approx(10 * (1 - 0.375) / 0.375)
    board.apply({"event": "exited", "role": "worker", "rank": 0, "code": -9})
    assert row.state == "killed (9)"


def test_a_restart_is_told() -> None:
    board = Board.of(ROLES)
    event = {"event": "restarted", "role": "server", "rank": 0, "incarnation": 2, "reason": "was killed by SIGKILL",
             "left": 1, "time": 99.0}  # fmt: skip
    board.apply(event)
    assert board.rows["server.0"].state == "restarted"
    assert line(event) == "server.0 was killed by SIGKILL and was started again; 1 restarts are left"
    board.apply({"event": "ready", "role": "server", "rank": 0, "time": 100.0})
    assert board.rows["server.0"].state == "ready"


def test_what_a_role_leaves_out_stays() -> None:
    board = Board.of(ROLES)
    board.apply(PROGRESS)
    board.apply({"time": 120.0, "role": "worker", "rank": 0, "event": "progress", "state": "done", "bytes_out": 1000})
    row = board.rows["worker.0"]
    assert (row.state, row.loss, row.epochs, row.bytes_in, row.bytes_out) == ("done", 0.25, 4, 2_500_000, 1000)


def test_the_bar_grows() -> None:
    def bar(step: int) -> str:
        board = Board.of(ROLES)
        board.apply(PROGRESS | {"epoch": 0, "epochs": 1, "step": step})
        console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="truecolor")
        console.print(roles_table(board))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert len({bar(step) for step in (0, 3, 6, 10)}) == 4


def test_unknown_events_and_missing_fields_do_no_harm() -> None:
    board = Board.of(ROLES)
    for event in (
        {},
        {"event": "new_kind", "role": "worker", "rank": 0},
        {"event": "progress", "role": "worker", "rank": 99},
        {"event": "progress", "role": "worker", "rank": 0, "loss": None, "auc": "high", "step": None},
        {"event": "lost"},
    ):
        board.apply(event)
        line(event)
    assert math.isnan(board.rows["worker.0"].loss)
    assert math.isnan(board.rows["worker.0"].share_done)
    assert "worker.0" in drawn(roles_table(board))


def test_speed_is_the_mean_of_epochs_or_what_workers_say_now() -> None:
    board = Board.of(ROLES)
    assert math.isnan(board.samples_per_s)
    board.apply(PROGRESS)
    board.apply(PROGRESS | {"rank": 1, "samples_per_s": 765.5})
    assert board.samples_per_s == 2000
    board.apply({"event": "epoch", "role": "coordinator", "rank": 0, "epoch": 0, "samples_per_s": 1000})
    board.apply({"event": "epoch", "role": "coordinator", "rank": 0, "epoch": 1, "samples_per_s": 3000})
    assert board.samples_per_s == 2000


def test_the_table_has_all_columns() -> None:
    board = Board.of(ROLES)
    board.apply(PROGRESS)
    text = drawn(roles_table(board))
    for word in ("worker.0", "training", "1/4", "1,234", "0.2500", "0.7500", "2.5 MB", "900 B", "server.0", "starting"):
        assert word in text, word


def test_the_result_table() -> None:
    board = Board.of(ROLES)
    board.apply(EVAL | {"epoch": 10, "hr": 0.5, "ndcg_full": 0.1})
    board.apply(EVAL)
    board.apply({"event": "refused", "role": "worker", "rank": 1, "reason": "NaN"})
    text = drawn(result_table(board, k=10, wall_s=123.4, places={"model": "/log/run-1/output_model"}))
    rows = [row.split() for row in text.splitlines()]
    assert ["HR@10", "0.6712", "0.2000"] in rows
    assert ["NDCG@10", "0.4011", "0.1000"] in rows  # the full ranking's latest value
    for words in ("private rows warm 6040/6040", "2:03", "/log/run-1/output_model", "refused pushes"):
        assert words in text, words


@pytest.mark.parametrize("events", [[], [EVAL | {"hr": None, "ndcg": None, "users": 0, "warm": 0}]])
def test_the_result_says_why_nothing_was_ranked(events: list[dict[str, object]]) -> None:
    board = Board.of(ROLES)
    for event in events:
        board.apply(event)
    text = drawn(result_table(board, k=10, wall_s=1.0, places={}, unranked="not measured: no test users"))
    assert "not measured: no test users" in text
    assert "HR@10" not in text


def test_without_an_evaluation_the_last_epoch_is_shown() -> None:
    board = Board.of(ROLES)
    board.apply({"event": "epoch", "role": "server", "rank": 0, "epoch": 1, "loss": 0.5, "auc": 0.6})
    text = drawn(result_table(board, k=10, wall_s=1.0, places={}))
    assert "HR@10" not in text
    assert ["AUC", "0.6000"] in [row.split() for row in text.splitlines()]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "ready", "role": "worker", "rank": 3}, "worker.3 is ready"),
        (
            {"event": "epoch", "epoch": 2, "loss": 0.5, "auc": None, "samples_per_s": 12345.6},
            "epoch 2: loss 0.5000, AUC -, 12,346 samples/s",
        ),
        (
            EVAL | {"hr_full": None},
            "evaluation after epoch 20: HR 0.6712, NDCG 0.4011, AUC 0.9100, private rows warm 6040/6040",
        ),
        (
            {"event": "lost", "lost_role": "worker", "lost_rank": 4, "reason": "silent for 10 s"},
            "worker.4 is lost: silent for 10 s",
        ),
        (
            {"event": "checkpoint", "epoch": 3, "step": 200, "failure": "server:0 could not write its part"},
            "checkpoint 3-200 was given up: server:0 could not write its part",
        ),
        ({"event": "checkpoint", "epoch": 3, "step": 200, "folder": "checkpoint/3-200"}, ""),
        (
            {"event": "refused", "role": "worker", "rank": 1, "reason": "NaN in item_embedding", "rejected_pushes": 2},
            "worker.1 had a push refused: NaN in item_embedding (2 so far)",
        ),
        ({"event": "end", "role": "server", "rank": 0, "result": "done"}, "server.0 ends: done"),
        ({"event": "exited", "role": "worker", "rank": 0, "code": -9}, "worker.0 was killed by signal 9"),
        ({"event": "exited", "role": "worker", "rank": 0, "code": 2}, "worker.0 failed with exit code 2"),
        ({"event": "exited", "role": "worker", "rank": 0, "code": 0}, ""),
        (PROGRESS, ""),
        ({"event": "tick"}, ""),
    ],
)
def test_lines(event: dict[str, object], text: str) -> None:
    assert line(event) == text


def test_the_plain_show_says_how_far_a_quiet_job_is() -> None:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    now = [1000.0]
    with PlainShow(console, Board.of(ROLES), clock=lambda: now[0]) as show:
        show(PROGRESS)
        show({"event": "tick"})
        now[0] += 31
        show({"event": "tick"})
        show({"event": "tick"})
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("38% done, 1,234 samples/s")


def test_brackets_of_a_message_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    with PlainShow(console, Board.of(ROLES)) as show:
        show({"event": "lost", "lost_role": "worker", "lost_rank": 1, "reason": "got [/red] and [bold]"})
    assert isinstance(console.file, io.StringIO)
    assert "got [/red] and [bold]" in console.file.getvalue()


def test_the_live_show_draws_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with LiveShow(console, Board.of(ROLES)) as show:
        show(PROGRESS)
        show({"event": "tick"})
        show(EVAL)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "training" in text
    assert "evaluation after epoch 20" in text


def test_numbers_for_reading() -> None:
    assert [size(0), size(999), size(1500), size(2_000_000), size(3_400_000_000)] == [
        "", "999 B", "1.5 kB", "2.0 MB", "3.4 GB"
    ]  # fmt: skip
    assert [span(math.nan), span(7.51), span(60), span(3723)] == ["", "7.5 s", "1:00", "1:02:03"]
    assert [rate(math.nan), rate(math.inf), rate(1234567.8)] == ["", "", "1,234,568"]


def test_what_a_split_run_shows() -> None:
    board = Board.of((Role("leader", 0, "h"), Role("follower", 0, "h")))
    progress = PROGRESS | {"role": "leader"}
    epoch = {
        "event": "epoch",
        "role": "leader",
        "rank": 0,
        "epoch": 0,
        "loss": 0.5,
        "auc": 0.6,
        "samples_per_s": 1234.0,
    }
    held_out = {"event": "eval", "role": "leader", "rank": 0, "epoch": 1, "auc": 0.7512, "log_loss": 0.4321}
    for event in (progress, epoch, held_out):
        board.apply(event)
    assert line(held_out) == "evaluation after epoch 1: AUC 0.7512, log loss 0.4321"
    shown = drawn(split_result_table(board, wall_s=7.5, places={"logs": "/log"}))
    for row in ("AUC .* 0.7512", "log loss .* 0.4321", "training loss .* 0.5000", "samples/s .* 1,234",
                "leader.0 received, sent .* 2.5 MB, 900 B", "wall time .* 7.5 s", "logs .* /log"):  # fmt: skip
        assert re.search(row, shown), shown
    assert "follower.0" not in shown
