"""`flrun`: from a command line to a federation that runs, and to the exit code that says how it ended."""

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
from typing import TYPE_CHECKING

from flps.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_WITH_LOSSES, ConfigError, FlpsError, ResourceError
from flps.launch.arguments import Arguments, parse, with_environment
from flps.launch.signals import signals_interrupt

if TYPE_CHECKING:
    from rich.console import Console

    from flps.config.types import Config
    from flps.launch.board import Board
    from flps.launch.plan import Plan
    from flps.launch.resume import Start
    from flps.launch.supervise import Crew
    from flps.launch.watch import Verdict

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
        arguments, notes = with_environment(parse(argv), environment)
        with signals_interrupt():
            return _launch(arguments, environment, notes, target)
    except FlpsError as error:
        print(f"flrun: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"flrun: {error}", file=sys.stderr)
        return ResourceError.exit_code
    except KeyboardInterrupt:
        print("flrun: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _launch(arguments: Arguments, environment: Mapping[str, str], notes: Sequence[str], target: str | None) -> int:
    from flps.launch.plan import describe
    from flps.launch.resume import tidy

    if arguments.dry_run:
        plan, _ = _resumed(arguments, _plan(arguments, _config(arguments), environment))
        print(describe(plan), *(f"note      {note}" for note in notes), sep="\n")
        return 0
    with _roles_parent(arguments, target):
        config = _config(arguments)
        plan, start = _resumed(arguments, _plan(arguments, config, environment))
        if start is not None and start.is_end(config.runner.epochs):
            print(f"this run is done: {start}; to go on, raise its epochs: -o runner.epochs={start.epoch + 1}")
            return EXIT_DONE
        if start is not None:
            tidy(start)
        with _prepared(arguments, plan, environment) as ready:
            return _watch(arguments, ready, [*notes, *ready.notes], target)


@contextlib.contextmanager
def _roles_parent(arguments: Arguments, target: str | None) -> Iterator[None]:
    """The process that forks the roles imports torch while the config is read and the data is looked at."""
    if arguments.in_process:
        yield
        return
    from flps.launch.spawn import ROLE_TARGET, preloaded_parent

    with preloaded_parent(target or ROLE_TARGET):
        yield


def _config(arguments: Arguments) -> Config:
    from flps.config import load
    from flps.models.catalog import schemas

    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    if arguments.pure_bf16:
        overrides.append("runner.pure_bf16=true")
    if not Path(arguments.config_yaml).is_file():
        raise ConfigError(f"-m {arguments.config_yaml}: there is no such file")
    return load(arguments.config_yaml, overrides, schemas())


def _plan(arguments: Arguments, config: Config, environment: Mapping[str, str]) -> Plan:
    from flps.launch.hosts import is_mine
    from flps.launch.logs import run_name
    from flps.launch.plan import Surroundings, make_plan
    from flps.launch.prepare import private_root, trainer_script

    token = secrets.token_hex(8)
    return make_plan(
        trainer_script(arguments),
        config,
        Surroundings(
            config_path=Path(arguments.config_yaml).absolute(),
            run_dir=Path(arguments.log_dir).expanduser().absolute() / run_name(datetime.now()),
            private_dir=private_root(environment) / f"flps-{token}",
            key_dir=Path(arguments.key_dir or Path.home() / ".flps" / "keys").expanduser().absolute(),
            token=token,
            is_mine=is_mine,
        ),
    )


def _resumed(arguments: Arguments, plan: Plan) -> tuple[Plan, Start | None]:
    """The plan of a run that goes on, and from where; a run that begins anew must not write among old checkpoints."""
    import msgspec

    from flps.launch.resume import expect_no_earlier_run, find

    if arguments.resume is None:
        expect_no_earlier_run(plan.job)
        return plan, None
    start = find(arguments.resume, Path(plan.job.run_dir).parent, plan.local, plan.job)
    job = msgspec.structs.replace(plan.job, resume_from=str(start.folder), checkpoint=start.checkpoint)
    return dataclasses.replace(plan, job=job, notes=(*plan.notes, f"goes on from {start}")), start


@contextlib.contextmanager
def _prepared(arguments: Arguments, plan: Plan, environment: Mapping[str, str]) -> Iterator[Plan]:
    """Make all that the roles need; the plan with what came out of it. The private folder goes with the block."""
    import msgspec

    from flps.launch import logs, prepare
    from flps.launch.hosts import check_ports

    check_ports(plan.binds)
    prepare.check_keys(plan)
    config = prepare.with_embedded(plan.job.config, plan.job.workers, environment, say=print)
    run_dir = logs.make_run_dir(Path(plan.job.run_dir))
    job = msgspec.structs.replace(plan.job, config=config, run_dir=str(run_dir))
    prepare.write_job(job, Path(arguments.config_yaml).read_bytes())
    names = [logs.log_name(role.role, role.rank) for role in plan.local]
    names += ["roles.json", "metrics.jsonl"]
    kept = logs.link_newest(run_dir, names, whole_job=plan.whole_job)
    notes = [f"{run_dir.parent / name} is a file, not a link: it stays and does not show this run" for name in kept]
    with prepare.private_dir(plan.private_dir):
        prepare.make_run_keys(plan)
        yield dataclasses.replace(plan, job=job, notes=(*plan.notes, *notes))


def _watch(arguments: Arguments, plan: Plan, notes: Sequence[str], target: str | None) -> int:
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
    _say_end(console, plan, board, verdict, time.monotonic() - began)
    return verdict.exit_code


def _crew(arguments: Arguments, plan: Plan, target: str | None) -> Crew:
    from flps.launch.spawn import ROLE_TARGET, Processes

    if not arguments.in_process:
        return Processes(plan.job, str(plan.private_dir or ""), target or ROLE_TARGET)
    from flps.launch.threads import Threads, log_to_terminal

    log_to_terminal()
    return Threads(plan.job, target or ROLE_TARGET)


def _say_start(console: Console, plan: Plan, notes: Sequence[str]) -> None:
    counts = {role: sum(one.role == role for one in plan.local) for role in ("worker", "server", "coordinator")}
    what = ", ".join(f"{count} {role}{'s' * (count > 1)}" for role, count in counts.items() if count)
    _say(console, f"run {plan.job.run_id}: {what} start here, links are guarded by {plan.job.security}")
    for note in notes:
        _say(console, f"note: {note}")
    if plan.job.security == "plain":
        _say(console, "warning: --insecure: links are neither encrypted nor authenticated")


def _say_end(console: Console, plan: Plan, board: Board, verdict: Verdict, wall_s: float) -> None:
    from flps.launch.live import result_table
    from flps.launch.logs import last_lines, log_name

    run_dir = Path(plan.job.run_dir)
    if verdict.culprit is not None:
        log_file = run_dir / log_name(verdict.culprit.role, verdict.culprit.rank)
        _say(console, f"the end of {log_file}:")
        for line in last_lines(log_file):
            _say(console, f"  | {line}")
    if verdict.exit_code in (EXIT_DONE, EXIT_WITH_LOSSES):
        places = {"model": str(run_dir / plan.job.config.runner.model_save_path), "logs": str(run_dir)}
        k, unranked = plan.job.config.evaluation.k, _why_unranked(plan, board)
        console.print(result_table(board, k=k, wall_s=wall_s, places=places, unranked=unranked))
    if verdict.exit_code != EXIT_DONE:
        print(f"flrun: {verdict.reason} (exit code {verdict.exit_code}; logs in {run_dir})", file=sys.stderr)


def _why_unranked(plan: Plan, board: Board) -> str:
    """Why there is no HR and NDCG; empty when there is."""
    if board.evaluation.get("users"):
        return ""
    if not plan.job.config.runner.test_data_dir:
        return "not measured: runner.test_data_dir is not given"
    return "not measured: the files of runner.test_data_dir hold no test users" if board.evaluation else ""


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
