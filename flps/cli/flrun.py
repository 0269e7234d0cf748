"""`flrun`: from a command line to a job that runs, and to the exit code that says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flps.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_WITH_LOSSES, FlpsError, ResourceError
from flps.launch.arguments import Arguments, parse
from flps.launch.signals import signals_interrupt

if TYPE_CHECKING:
    from rich.console import Console

    from flps.launch.board import Board
    from flps.launch.kinds import Kind
    from flps.launch.plan import Plan, Surroundings
    from flps.launch.supervise import Crew
    from flps.launch.watch import Verdict

    AnyPlan: TypeAlias = Plan[Any]

# Heavy modules are imported where they are needed: `flrun --help` answers at once.


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:], os.environ)
    threads = any(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if threads or multiprocessing.active_children():
        # A role's thread of --in_process, or a process, that did not end; the interpreter's end must not wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: Sequence[str], environment: Mapping[str, str], target: str | None = None) -> int:
    """Do what the command line says; the exit code.

    target: what a role runs, as `package.module:function` or `file.py:function`; None means flps's own roles.
    """
    try:
        arguments = parse(argv)
        with signals_interrupt():
            return _launch(arguments, environment, target)
    except FlpsError as error:
        print(f"flrun: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"flrun: {error}", file=sys.stderr)
        return ResourceError.exit_code
    except KeyboardInterrupt:
        print("flrun: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _launch(arguments: Arguments, environment: Mapping[str, str], target: str | None) -> int:
    from flps.launch.kinds import kind_asked
    from flps.launch.plan import describe

    kind = kind_asked(arguments)
    arguments, notes = kind.with_environment(arguments, environment)
    if arguments.dry_run:
        plan, _ = kind.plan(arguments, _around(arguments, environment))
        print(describe(plan), *(f"note      {note}" for note in notes), sep="\n")
        return 0
    target = target or kind.target
    with _roles_parent(arguments, target):
        plan, nothing_left = kind.plan(arguments, _around(arguments, environment))
        if nothing_left:
            print(nothing_left)
            return EXIT_DONE
        with _prepared(arguments, kind, plan, environment) as ready:
            return _watch(arguments, kind, ready, [*notes, *ready.notes], target)


@contextlib.contextmanager
def _roles_parent(arguments: Arguments, target: str) -> Iterator[None]:
    """The process that forks the roles imports torch while the config is read and the data is looked at."""
    if arguments.in_process:
        yield
        return
    from flps.launch.spawn import preloaded_parent

    with preloaded_parent(target):
        yield


def _around(arguments: Arguments, environment: Mapping[str, str]) -> Surroundings:
    from flps.launch.hosts import is_mine
    from flps.launch.logs import run_name
    from flps.launch.plan import Surroundings
    from flps.launch.prepare import private_root

    token = secrets.token_hex(8)
    return Surroundings(
        config_path=Path(arguments.config_yaml).absolute(),
        run_dir=Path(arguments.log_dir).expanduser().absolute() / run_name(datetime.now()),
        private_dir=private_root(environment) / f"flps-{token}",
        key_dir=Path(arguments.key_dir or Path.home() / ".flps" / "keys").expanduser().absolute(),
        token=token,
        is_mine=is_mine,
    )


@contextlib.contextmanager
def _prepared(arguments: Arguments, kind: Kind, plan: AnyPlan, environment: Mapping[str, str]) -> Iterator[AnyPlan]:
    """Make all that the roles need; the plan with what came out of it. The private folder goes with the block."""
    import msgspec

    from flps.launch import logs, prepare
    from flps.launch.hosts import check_ports

    check_ports(plan.binds)
    prepare.check_keys(plan)
    plan = kind.completed(plan, environment)
    run_dir = logs.make_run_dir(Path(plan.job.run_dir))
    job = msgspec.structs.replace(plan.job, run_dir=str(run_dir))
    prepare.write_job(job, Path(arguments.config_yaml).read_bytes())
    names = [logs.log_name(role.role, role.rank) for role in plan.local]
    names += ["roles.json", "metrics.jsonl"]
    kept = logs.link_newest(run_dir, names, whole_job=plan.whole_job)
    notes = [f"{run_dir.parent / name} is a file, not a link: it stays and does not show this run" for name in kept]
    with prepare.private_dir(plan.private_dir):
        prepare.make_run_keys(plan)
        yield dataclasses.replace(plan, job=job, notes=(*plan.notes, *notes))


def _watch(arguments: Arguments, kind: Kind, plan: AnyPlan, notes: Sequence[str], target: str) -> int:
    from flps.launch.board import Board
    from flps.launch.live import LiveShow, PlainShow, terminal
    from flps.launch.supervise import STOP_S, Supervisor

    console = terminal()
    board = Board.of(plan.local)
    _say_start(console, plan, notes)
    began = time.monotonic()
    is_live = console.is_terminal and not arguments.in_process
    with LiveShow(console, board) if is_live else PlainShow(console, board) as show:
        crew = _crew(arguments, plan, target)
        supervisor = Supervisor(
            plan, crew, show, stop_s=1.0 if arguments.in_process else STOP_S, max_restarts=arguments.max_restarts or 0
        )
        verdict = supervisor.run()
    for note in supervisor.watch.notes:
        _say(console, f"note: {note}")
    _say_end(console, kind, plan, board, verdict, time.monotonic() - began)
    return verdict.exit_code


def _crew(arguments: Arguments, plan: AnyPlan, target: str) -> Crew:
    from flps.launch.spawn import Processes

    if not arguments.in_process:
        return Processes(plan.job, str(plan.private_dir or ""), target)
    from flps.launch.threads import Threads, log_to_terminal

    log_to_terminal()
    return Threads(plan.job, target)


def _say_start(console: Console, plan: AnyPlan, notes: Sequence[str]) -> None:
    order = ("worker", "heter_worker", "server", "coordinator", "leader", "follower")
    counts = {role: sum(one.role == role for one in plan.local) for role in order}
    what = ", ".join(f"{count} {role}{'s' * (count > 1)}" for role, count in counts.items() if count)
    _say(console, f"run {plan.job.run_id}: {what} start here, links are guarded by {plan.job.security}")
    for note in notes:
        _say(console, f"note: {note}")
    if plan.job.security == "plain":
        _say(console, "warning: --insecure: links are neither encrypted nor authenticated")


def _say_end(console: Console, kind: Kind, plan: AnyPlan, board: Board, verdict: Verdict, wall_s: float) -> None:
    from flps.launch.logs import last_lines, log_name

    run_dir = Path(plan.job.run_dir)
    if verdict.culprit is not None:
        log_file = run_dir / log_name(verdict.culprit.role, verdict.culprit.rank)
        _say(console, f"the end of {log_file}:")
        for line in last_lines(log_file):
            _say(console, f"  | {line}")
    if verdict.exit_code in (EXIT_DONE, EXIT_WITH_LOSSES):
        console.print(kind.result(plan, board, wall_s))
    if verdict.exit_code != EXIT_DONE:
        print(f"flrun: {verdict.reason} (exit code {verdict.exit_code}; logs in {run_dir})", file=sys.stderr)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
