"""What the user sees of a run: one live table in a terminal, plain lines elsewhere, and the result at the end.

Law 1: a show is fed with events only; it never looks at a process or a log file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from flps.launch.board import Board, Event, Row, number

QUIET_S = 30.0  # without a line for this long the plain show says how far the job is


class PlainShow:
    """A line per event that is worth one, for pipes, log files and tests."""

    def __init__(self, console: Console, board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._board, self._clock = console, board, clock
        self._last_line = clock()

    def __enter__(self) -> PlainShow:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to undo."""

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        self._board.apply(event)
        text = line(event)
        if not text and event.get("event") == "tick" and self._clock() - self._last_line > QUIET_S:
            text = self._how_far()
        if text:
            self._last_line = self._clock()
            stamp = time.strftime("%H:%M:%S", time.localtime(number(event, "time") if "time" in event else None))
            self._console.print(f"{stamp} {text}", markup=False, highlight=False, soft_wrap=True)

    def _how_far(self) -> str:
        share = self._board.share_done
        return f"{share:.0%} done, {rate(self._board.samples_per_s)} samples/s" if math.isfinite(share) else ""


class LiveShow:
    """One table, a row per role, drawn anew a few times a second."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveShow:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.update(roles_table(self._board), refresh=True)
        self._live.__exit__(None, None, None)

    def __call__(self, event: Event) -> None:
        """Take in one event; a tick draws."""
        self._board.apply(event)
        kind = event.get("event")
        if kind == "tick":
            self._live.update(roles_table(self._board), refresh=True)
        elif kind in ("epoch", "eval", "lost", "restarted", "fault", "checkpoint") and (text := line(event)):
            self._console.print(text, markup=False, highlight=False)


def terminal() -> Console:
    """Where a run is shown: the terminal, or plain text of a fixed width where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160, color_system=None)


def line(event: Event) -> str:
    """An event as one line; empty for those that are not worth one."""
    name = f"{event.get('role')}.{event.get('rank')}"
    kind = event.get("event")
    if kind == "ready":
        return f"{name} is ready"
    if kind == "epoch":
        return (
            f"epoch {event.get('epoch')}: loss {figure(event, 'loss')}, AUC {figure(event, 'auc')}, "
            f"{rate(number(event, 'samples_per_s'))} samples/s"
        )
    if kind == "eval":
        return f"evaluation after epoch {event.get('epoch')}: " + _evaluation(event)
    if kind == "restarted":
        return f"{name} {event.get('reason')} and was started again; {event.get('left')} restarts are left"
    if kind == "checkpoint" and event.get("failure"):
        return f"checkpoint {event.get('epoch')}-{event.get('step')} was given up: {event['failure']}"
    if kind == "lost":
        return f"{event.get('lost_role')}.{event.get('lost_rank')} is lost: {event.get('reason')}"
    if kind == "fault":
        return f"{name}: fault on purpose: {event.get('fault')}" if "messages" not in event else ""
    if kind == "refused":
        return f"{name} had a push refused: {event.get('reason')} ({event.get('rejected_pushes')} so far)"
    if kind == "end":
        return f"{name} ends: {event.get('result')}"
    if kind == "exited" and event.get("code"):
        code = int(event["code"])
        return f"{name} was killed by signal {-code}" if code < 0 else f"{name} failed with exit code {code}"
    return ""


def _evaluation(event: Event) -> str:
    if "log_loss" in event:  # a split job
        return f"AUC {figure(event, 'auc')}, log loss {figure(event, 'log_loss')}"
    parts = [f"{label} {figure(event, key)}" for key, label in (("hr", "HR"), ("ndcg", "NDCG"), ("auc", "AUC"))]
    if event.get("hr_full") is not None:
        parts.append(f"full ranking HR {figure(event, 'hr_full')} NDCG {figure(event, 'ndcg_full')}")
    return ", ".join([*parts, warm(event)])


def warm(event: Event) -> str:
    """`private rows warm 6040/6040`."""
    return f"private rows warm {event.get('warm', '-')}/{event.get('users', '-')}"


def roles_table(board: Board) -> Table:
    """The live table: a row per role."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("role", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("epoch", "samples/s", "loss", "AUC", "in", "out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("progress", width=16)
    table.add_column("left", justify="right", no_wrap=True)
    for row in board.rows.values():
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[Any, ...]:
    share = row.share_done
    return (
        row.name,
        row.state,
        f"{row.epoch}/{row.epochs}" if row.epochs else "",
        rate(row.samples_per_s),
        _plain(row.loss),
        _plain(row.auc),
        size(row.bytes_in),
        size(row.bytes_out),
        ProgressBar(total=1.0, completed=share, width=16) if math.isfinite(share) else "",
        span(row.left_s),
    )


def result_table(board: Board, *, k: int, wall_s: float, places: dict[str, str], unranked: str = "") -> Table:
    """The result of a run: quality of its last evaluation, speed, and where things are.

    k: the cut-off of the ranking. wall_s: seconds from start to end. places: label -> path.
    unranked: why no ranking was measured; it stands in the place of its figures.
    """
    table = Table(title="result", box=box.SIMPLE_HEAD, show_header=bool(board.evaluation), title_justify="left")
    for heading in ("", "sampled", "full ranking"):
        table.add_column(heading, overflow="fold")
    final = board.evaluation
    if unranked:
        table.add_row("ranking", unranked, "")
    elif final:
        table.add_row(f"HR@{k}", figure(final, "hr"), figure(final, "hr_full"))
        table.add_row(f"NDCG@{k}", figure(final, "ndcg"), figure(final, "ndcg_full"))
    if final:
        table.add_row("AUC", figure(final, "auc"), "")
        table.add_row("users", warm(final), "")
    elif board.epoch:
        table.add_row("loss", figure(board.epoch, "loss"), "")
        table.add_row("AUC", figure(board.epoch, "auc"), "")
    if math.isfinite(board.samples_per_s):
        table.add_row("samples/s", rate(board.samples_per_s), "")
    table.add_row("wall time", span(wall_s), "")
    if board.refusals:
        table.add_row("refused pushes", str(board.refusals), "")
    for label, path in places.items():
        table.add_row(label, path, "")
    return table


def split_result_table(board: Board, *, wall_s: float, places: dict[str, str]) -> Table:
    """The result of a split run: quality on held-out rows, speed, and where things are.

    wall_s: seconds from start to end. places: label -> path.
    """
    table = Table(title="result", box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column("")
    table.add_column("", overflow="fold")
    final = board.evaluation
    if final:
        table.add_row("AUC", figure(final, "auc"))
        table.add_row("log loss", figure(final, "log_loss"))
    if board.epoch:
        table.add_row("training loss", figure(board.epoch, "loss"))
    if math.isfinite(board.samples_per_s):
        table.add_row("samples/s", rate(board.samples_per_s))
    for row in board.rows.values():
        if row.bytes_in or row.bytes_out:
            table.add_row(f"{row.name} received, sent", f"{size(row.bytes_in)}, {size(row.bytes_out)}")
    table.add_row("wall time", span(wall_s))
    for label, path in places.items():
        table.add_row(label, path)
    return table


def figure(event: Event, name: str) -> str:
    """A field with four decimals; `-` when it is not known."""
    return _plain(number(event, name)) or "-"


def _plain(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def rate(value: float) -> str:
    """`123,456`, or nothing while unknown."""
    return f"{value:,.0f}" if math.isfinite(value) else ""


def size(count: int) -> str:
    """Bytes for reading: `12.3 MB`; nothing for none."""
    if not count:
        return ""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def span(seconds: float) -> str:
    """`1:02:03`, `2:03` or `7.5 s`; nothing while unknown."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
