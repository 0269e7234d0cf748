"""What the user asks `flrun` for: the command line and the PADDLE_* environment as one typed value.

Law 1: nothing here reads the system; argv and environment are arguments.
Law 2: a flag nobody knows is an error that names the nearest one; the command line wins over the environment, and the
notes say which value came from where.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from flps.errors import ConfigError
from flps.launch.kind import ROLES_OF, SETTINGS, taken

EXAMPLES = """\
examples:
  flrun -m configs/ncf.yaml --worker_num=10 --coordinator_num=1
      ten workers, one server and a coordinator on this machine, over unix sockets
  flrun -m configs/ncf.yaml --worker_num=10 -o runner.epochs=3 -o runner.sync_mode=sync
      the same job with two keys of the yaml changed
  flrun trainer.py -m configs/ncf.yaml --worker_num=2
      workers run your own subclass of FLClient
  flrun --servers=10.0.0.1:8000 --coordinators=10.0.0.1:8001 --workers=10.0.0.2:0,10.0.0.3:0 -m configs/ncf.yaml
      the same command on each of the three hosts; each starts the roles that are its own
  flrun --servers=10.0.0.1:8000 --coordinators=10.0.0.1:8001 --worker_num=2 --role worker --rank 1 -m configs/ncf.yaml
      one role alone, for instance in its own container
  flrun -m configs/ncf.yaml --worker_num=2 --in_process
      all roles as threads of one process, so that a breakpoint works
  flrun -m configs/ncf.yaml --worker_num=10 --resume
      go on from the newest checkpoint of the newest run; see runner.save_checkpoint_interval
  flrun -m configs/wide_deep/job.yaml -o preset=small --batch_size=512
      a split job: leader and followers on this machine; the keys of its hyper_parameters are flags
  flrun -m configs/wide_deep/job.yaml --leader=10.0.0.1:10087 --role follower
      one party of a split job on its own host; it dials the leader, who was started with --role leader
  flrun -m configs/wide_deep/job.yaml --predict=log/run-20260131-120000/output_model
      the scores that trained nets give for the held-out rows; --evaluate measures them
  flrun -m configs/vertical_fl_ps.yaml --worker_num=2 --heter_worker_num=2
      two pairs of workers; of each row one has the sparse slots, the other the dense columns and the label
  flrun -m configs/ncf.yaml --worker_num=10 --dry_run
      print what would be started, and start nothing

exit codes: 0 done, 1 internal error, 2 bad config or usage, 3 finished with losses, 4 a role failed,
            5 a role never came up, 6 port, disk or permission, 130 interrupted
"""

# Flags of the original launcher that change nothing here: taken with a note that says why.
HARMLESS = {
    "backend": "there are no collective backends here",
    "start_port": "roles of one machine meet at unix sockets, others at the ports of the lists",
    "http_port": "there is no rendezvous over http",
    "gloo_port": "there is no gloo; membership lives with the coordinator or server 0",
    "with_gloo": "there is no gloo; membership lives with the coordinator or server 0",
    "log_overwrite": "each run has a log folder of its own",
    "nnodes": "the lists say which hosts take part",
    "heter_devices": "roles compute on the CPU",
}

# Flags of the original launcher that ask for something which does not exist here.
NOT_HERE = {
    "nproc_per_node": "it belongs to collective training; the number of workers is --worker_num",
    "ips": "it belongs to collective training; hosts are given by --servers, --workers, --coordinators",
    "master": "there is no master; hosts are given by --servers, --workers, --coordinators",
    "devices": "roles compute on the CPU",
    "gpus": "roles compute on the CPU",
    "elastic_level": "a job has the workers that it started with; who is lost does not come back",
    "elastic_timeout": "a job has the workers that it started with; see network.lease_s for lost ones",
    "elastic_server": "a job has the workers that it started with",
    "elastic_pre_hook": "a job has the workers that it started with",
    "np": "a job has the workers that it started with; their number is --worker_num",
    "scale": "a job has the workers that it started with",
    "force": "a job has the workers that it started with",
}


@dataclass(frozen=True)
class Arguments:
    """One call of flrun; None means that nothing was said."""

    config_yaml: str = ""
    trainer: str | None = None
    worker_num: int | None = None
    server_num: int | None = None
    coordinator_num: int | None = None
    servers: tuple[str, ...] | None = None
    workers: tuple[str, ...] | None = None
    coordinators: tuple[str, ...] | None = None
    heter_worker_num: int | None = None  # those of a vertical job that have the labels
    heter_workers: tuple[str, ...] | None = None
    log_dir: str = "log"
    overrides: tuple[str, ...] = ()
    role: str | None = None
    rank: int | None = None
    host: str | None = None
    port: int | None = None
    run_id: str | None = None
    key_dir: str | None = None
    insecure: bool = False
    in_process: bool = False
    dry_run: bool = False
    resume: str | None = None  # a folder; "": the newest checkpoint
    max_restarts: int | None = None
    faults: str = ""
    seed: int | None = None
    pure_bf16: bool = False
    notes: tuple[str, ...] = ()  # what must be said about the command line
    leader: str | None = None  # host:port; split jobs
    evaluate: str | None = None  # a folder of trained nets; split jobs
    predict: str | None = None  # a folder of trained nets; split jobs
    settings: tuple[str, ...] = ()  # `key=value` of a split job's hyper_parameters


def parse(argv: Sequence[str]) -> Arguments:
    """The command line as Arguments; `--worker-num` and `--worker_num` are the same flag.

    Raises ConfigError for an unknown flag (naming the nearest known one) or a value that cannot be read.
    `--help` prints and leaves by SystemExit(0), as usual.
    """
    parser = _parser()
    words, settings = taken([_underscored(word) for word in argv])
    known, rest = parser.parse_known_args(_with_resume(words))
    for word in rest:
        if word.startswith("-"):
            raise ConfigError(_unknown_flag(word, parser))
    if len(rest) > 1:
        raise ConfigError(f"flrun takes one trainer script, got {len(rest)}: {', '.join(rest)}")
    if known.run_mode not in (None, "ps"):
        raise ConfigError(f"--run_mode={known.run_mode}: this launcher starts parameter servers, the only mode is ps")
    names = {field.name for field in dataclasses.fields(Arguments)} - {
        "trainer",
        "overrides",
        "port",
        "notes",
        "settings",
    }
    values = {name: value for name, value in vars(known).items() if name in names and value is not None}
    notes = _notes_of(known)
    trainer = rest[0] if rest else None
    return Arguments(trainer=trainer, overrides=tuple(known.overrides), notes=notes, settings=settings, **values)


def with_environment(arguments: Arguments, environment: Mapping[str, str]) -> tuple[Arguments, tuple[str, ...]]:
    """Fill what the command line left open from PADDLE_*, TRAINING_ROLE and POD_IP; all notes with one per value taken.

    A list on the command line also outranks a count in the environment.
    Raises ConfigError for a variable that cannot be read.
    """
    wanted: dict[str, tuple[str, Callable[[str], object]]] = {
        "servers": ("PADDLE_PSERVERS_IP_PORT_LIST", _word_list),
        "workers": ("PADDLE_TRAINER_ENDPOINTS", _word_list),
        "coordinators": ("PADDLE_COORDINATOR_ENDPOINTS", _word_list),
        "heter_workers": ("PADDLE_ALL_HETER_TRAINER_IP_PORT_LIST", _word_list),
        "worker_num": ("PADDLE_TRAINERS_NUM", int),
        "role": ("TRAINING_ROLE", _training_role),
        "rank": ("PADDLE_TRAINER_ID", int),
        "host": ("POD_IP", str),
        "port": ("PADDLE_PORT", int),
    }
    found: dict[str, object] = {}
    notes = list(arguments.notes)
    for name, (variable, read) in wanted.items():
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            value = read(text)
        except ValueError as error:
            raise ConfigError(f"environment {variable}={text!r}: {error}") from error
        if _already_said(arguments, name):
            notes.append(f"{variable}={text} of the environment is not used: the command line says otherwise")
        else:
            found[name] = value
            notes.append(f"{name} comes from the environment: {variable}={text}")
    return dataclasses.replace(arguments, **found), tuple(notes)  # type: ignore[arg-type]


def _notes_of(known: argparse.Namespace) -> tuple[str, ...]:
    """One note per flag that is taken and unused."""
    given = vars(known)
    if given["nnodes"] not in (None, "1"):
        raise ConfigError(
            f"--nnodes={given['nnodes']}: hosts are not counted but named; give --servers, --workers, --coordinators"
        )
    return tuple(f"--{name} is accepted and unused: {why}" for name, why in HARMLESS.items() if given[name] is not None)


def _already_said(arguments: Arguments, name: str) -> bool:
    if name == "worker_num" and arguments.workers is not None:
        return True
    return getattr(arguments, name) is not None


def _training_role(text: str) -> str:
    names = {
        "PSERVER": "server",
        "TRAINER": "worker",
        "HETER_TRAINER": "heter_worker",
        "COORDINATOR": "coordinator",
    }
    if text.upper() not in names:
        raise ValueError(f"expected one of {', '.join(names)}")
    return names[text.upper()]


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _word_list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace(";", ",").split(",") if word.strip())


def _underscored(word: str) -> str:
    """`--worker-num=3` as `--worker_num=3`; values are left alone."""
    if not word.startswith("--") or word == "--":
        return word
    flag, equals, value = word[2:].partition("=")
    return "--" + flag.replace("-", "_") + equals + value


def _with_resume(words: Sequence[str]) -> list[str]:
    """`--resume FOLDER` as `--resume=FOLDER`, and `--resume` alone as `--resume=`: a trainer script is no folder.

    The original's `--resume=True` is `--resume`, its `--resume=False` is nothing.
    """
    whole: list[str] = []
    for word in words:
        is_folder = not word.startswith("-") and not word.endswith(".py")
        if whole and whole[-1] == "--resume" and is_folder:
            whole[-1] = f"--resume={word}"
        else:
            whole.append(word)
    whole = [word for word in whole if word.lower() != "--resume=false"]
    return ["--resume=" if word.lower() in ("--resume", "--resume=true") else word for word in whole]


def _unknown_flag(word: str, parser: argparse.ArgumentParser) -> str:
    flag = word.partition("=")[0]
    if flag.lstrip("-") in NOT_HERE:
        return f"{flag}: {NOT_HERE[flag.lstrip('-')]}"
    known = [option for action in parser._actions for option in action.option_strings]
    known += [f"--{key}" for key in SETTINGS]
    nearest = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
    return f"unknown flag {flag}" + (f"; did you mean {nearest[0]}?" if nearest else "; see flrun --help")


class _Parser(argparse.ArgumentParser):
    """argparse that reports through the error tree."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see flrun --help")


def _parser() -> argparse.ArgumentParser:
    # The trainer script is picked from what is left over: argparse before 3.13 loses an optional positional that
    # stands behind flags.
    parser = _Parser(
        prog="flrun",
        usage="flrun [trainer.py] -m CONFIG.yaml [flags]",
        description="Start one job and watch it to the end: a federation's servers, workers and coordinator, or the "
        "leader and followers of a split job.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=None,
    )
    _add_job_flags(parser.add_argument_group("job"))
    _add_role_flags(parser.add_argument_group("roles"))
    _add_way_flags(parser.add_argument_group("ways to run"))
    return parser


def _add_job_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-m", "--config_yaml", required=True, metavar="YAML", help="the job's configuration")
    group.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change one key; repeatable"
    )
    group.add_argument("--seed", type=int, metavar="N", help="same as -o seed=N")
    group.add_argument(
        "-bf16", "--pure_bf16", action="store_true", help="compute in bfloat16; same as -o runner.pure_bf16=true"
    )
    group.add_argument("--log_dir", metavar="DIR", help="where log files and run folders go (default: log)")


def _add_role_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--worker_num", "--trainer_num", type=int, metavar="N", help="number of workers (default: 1)")
    group.add_argument("--server_num", type=int, metavar="N", help="number of servers (default: 1)")
    group.add_argument("--coordinator_num", type=int, metavar="N", help="0 or 1 (default: runner.with_coordinator)")
    group.add_argument(
        "--heter_worker_num", type=int, metavar="N", help="vertical jobs: workers with the labels (default: worker_num)"
    )
    for kind, flags in (("servers", ["--servers"]), ("workers", ["--workers", "--trainers"])):
        group.add_argument(*flags, type=_word_list, metavar="HOST:PORT,...", help=f"where the {kind} run")
    group.add_argument(
        "--heter_workers",
        type=_word_list,
        metavar="HOST:PORT,...",
        help="vertical jobs: where those with labels listen",
    )
    group.add_argument("--coordinators", type=_word_list, metavar="HOST:PORT", help="where the coordinator runs")
    group.add_argument("--host", metavar="ADDRESS", help="which address of the lists is this host (default: POD_IP)")
    group.add_argument("--leader", metavar="HOST:PORT", help="split jobs: where the leader listens")
    group.add_argument(
        "--role",
        choices=[role for roles in ROLES_OF.values() for role in roles],
        help="start one role alone; needs the host lists, or --leader",
    )
    group.add_argument("--rank", type=int, metavar="N", help="which one of that role")


def _add_way_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max_restarts", "--max_restart", type=_not_negative, metavar="N",
        help="start a role that dies again, each up to N times (default: 0); servers and coordinator need "
        "runner.durability",
    )  # fmt: skip
    group.add_argument("--dry_run", action="store_true", help="print the plan and start nothing")
    group.add_argument(
        "--resume",
        metavar="FOLDER",
        help="go on from a checkpoint, or from the newest of a run; none named: of the newest run",
    )
    group.add_argument("--evaluate", metavar="FOLDER", help="split jobs: measure the trained nets of FOLDER")
    group.add_argument("--predict", metavar="FOLDER", help="split jobs: write the scores that the nets of FOLDER give")
    group.add_argument("--in_process", action="store_true", help="all roles as threads of this process")
    group.add_argument("--insecure", action="store_true", help="plain TCP: no encryption, no authentication")
    group.add_argument("--key_dir", metavar="DIR", help="CURVE keys of `flps keys make` (default: ~/.flps/keys)")
    group.add_argument("--run_id", "--job_id", metavar="WORD", help="stands in every message; the same on all hosts")
    group.add_argument(
        "--faults", metavar="TEXT", help="break things on purpose: 'kill=server:0@step120; drop=5%%; delay=50ms'"
    )
    group.add_argument("--run_mode", help="accepted for the original's sake; the only mode is ps")
    for name in HARMLESS:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS)
