"""What must exist before a role starts: the run's folder, a private folder for sockets and keys, the default data.

Law 1: whatever this cannot make is a ResourceError that says what and where.
Law 2: the private folder is of mode 700, is short enough for a unix socket, and goes when the run ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flps.config.split_job import SplitJob
from flps.config.types import EMBEDDED, EMBEDDED_PAIRED, Config
from flps.errors import ConfigError, ResourceError
from flps.launch.arguments import Arguments
from flps.launch.kind import ROLES_OF
from flps.launch.plan import AnyJob, Plan

SOCKET_PATH_MAX = 100  # the kernel takes 107 bytes; zmq adds nothing, we leave a margin


def private_root(environment: Mapping[str, str]) -> Path:
    """Where private folders go: $XDG_RUNTIME_DIR when it is ours to write, else the folder of temporary files."""
    given = environment.get("XDG_RUNTIME_DIR", "")
    if given and len(given) < SOCKET_PATH_MAX // 2 and os.path.isdir(given) and os.access(given, os.W_OK | os.X_OK):
        return Path(given)
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) < SOCKET_PATH_MAX // 2 else Path("/tmp")


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Where generated data is kept between runs: $FLPS_CACHE_DIR, else ~/.cache/flps."""
    return Path(environment.get("FLPS_CACHE_DIR") or Path.home() / ".cache" / "flps").expanduser().absolute()


def trainer_script(arguments: Arguments) -> Arguments:
    """The arguments with the absolute path of the user's trainer script, when there is one.

    Raises ConfigError when there is no such file.
    """
    if arguments.trainer is None:
        return arguments
    path = Path(arguments.trainer).expanduser().absolute()
    if not path.is_file():
        hint = "; the original's trainer is built in: leave it out" if path.name == "static_fl_trainer.py" else ""
        raise ConfigError(f"trainer script {arguments.trainer}: there is no such file{hint}")
    return dataclasses.replace(arguments, trainer=str(path))


@contextlib.contextmanager
def private_dir(folder: Path | None) -> Iterator[None]:
    """A folder of mode 700 that is there for the block; none when `folder` is None.

    Raises ResourceError when it exists already, cannot be made, or is too long for a unix socket.
    """
    if folder is None:
        yield
        return
    longest = len(str(folder / "coordinator-0"))
    if longest > SOCKET_PATH_MAX:
        raise ResourceError(f"{folder} is too long for a unix socket ({longest} of {SOCKET_PATH_MAX} characters)")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ResourceError(f"cannot make the private folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        remove_private_dir(folder)


def remove_private_dir(folder: str | Path) -> None:
    """Remove sockets and keys of a run; a folder that has gone already is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def check_keys(plan: Plan[AnyJob]) -> None:
    """See that the keys of the roles that start here are in their folder, when they are not made for the run.

    Raises ConfigError that names the missing files and `flps keys make`.
    """
    job = plan.job
    if job.security != "curve" or plan.makes_keys:
        return
    folder = Path(job.key_dir)
    here = _speaks_as(plan)
    wanted = [f"{role}.secret" for role in sorted(here)]
    wanted += [f"{role}.public" for role in _keys_of(job) if role in _dialled(plan, here) | _visitors(plan, here)]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"no CURVE keys: {', '.join(missing)} missing in {job.key_dir}. TCP between hosts is encrypted: make keys "
            f"once with `flps keys make --key_dir {job.key_dir}` and give each host those it needs, or say --insecure; "
            f"instead of {_owner(plan)}.public `flps keys allow` takes the key of each owner"
        )


def _keys_of(job: AnyJob) -> list[str]:
    """The roles by whose keys the job's roles speak."""
    kinds = ["split"] if isinstance(job, SplitJob) else ["federation"] + ["split"] * bool(job.pairs)
    return [role for kind in kinds for role in ROLES_OF[kind] if role != "heter_worker"]


def _speaks_as(plan: Plan[AnyJob]) -> set[str]:
    """As which roles those that start here speak: the workers of a pair are leader and follower to each other."""
    here = {role.role for role in plan.local}
    if isinstance(plan.job, SplitJob) or not plan.job.pairs:
        return here
    pair = {"worker": {"worker", "follower"}, "heter_worker": {"worker", "leader"}}
    return {name for role in here for name in pair.get(role, {role})}


def _dialled(plan: Plan[AnyJob], here: set[str]) -> set[str]:
    """Roles that those which start here dial: their public keys must be known."""
    host = "coordinator" if any(role.role == "coordinator" for role in plan.roles) else "server"
    dialled = ({"server", host} if "worker" in here else set()) | ({host} if "server" in here else set())
    return dialled | ({"leader"} if "follower" in here else set())


def _visitors(plan: Plan[AnyJob], here: set[str]) -> set[str]:
    """Roles that dial those which start here, and have no key of an owner's on the list."""
    expected = ({"worker"} if "server" in here else set()) | ({"worker", "server"} if "coordinator" in here else set())
    expected |= {"follower"} if "leader" in here else set()
    if not expected:
        return set()
    from flps.transport.access import read_list

    return expected - {entry.role for entry in read_list(Path(plan.job.key_dir)) if entry.verdict == "allow"}


def _owner(plan: Plan[AnyJob]) -> str:
    """The role in which an owner takes part."""
    return "follower" if isinstance(plan.job, SplitJob) else "worker"


def make_run_keys(plan: Plan[AnyJob]) -> None:
    """Make CURVE keys, when the plan says so: for this run only, or for all parties of this user on this machine."""
    if not plan.makes_keys:
        return
    from flps.transport.security import make_keys

    folder = Path(plan.job.key_dir)
    with shared_folder(folder.parent) if plan.private_dir is None else contextlib.nullcontext():
        make_keys(folder, _keys_of(plan.job))


@contextlib.contextmanager
def shared_folder(folder: Path) -> Iterator[None]:
    """A folder of mode 700 that stays, for one launcher at a time. Raises ResourceError when others can enter it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise ResourceError(f"others can enter {folder}, where keys are to lie; `chmod 700 {folder}`, or --key_dir")
        with (folder / "keys.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ResourceError(f"cannot keep keys in {folder}: {error.strerror}") from error


def with_embedded_pairs(
    config: Config, environment: Mapping[str, str], say: Callable[[str], None] = lambda text: None
) -> Config:
    """The config with a real folder in the place of `embedded:criteo_like`, whose rows are made when not cached."""
    if config.runner.train_data_dir != EMBEDDED_PAIRED:
        return config
    from flps.data.criteo_like import ensure

    cache = cache_dir(environment)
    say(f"the generated rows are looked up in {cache}; made when they are not there")
    try:
        folder = ensure(cache)
    except OSError as error:
        raise ResourceError(f"cannot make the default data in {cache}: {error.strerror}; set FLPS_CACHE_DIR") from error
    return msgspec.structs.replace(config, runner=msgspec.structs.replace(config.runner, train_data_dir=str(folder)))


def with_embedded(
    config: Config, workers: int, environment: Mapping[str, str], say: Callable[[str], None] = lambda text: None
) -> Config:
    """The config with real folders in the place of `embedded:movielens_like`, whose data is made when not cached.

    A test_data_dir that the user gave is kept. say: is told that it takes a moment, when it does.
    """
    runner = config.runner
    if runner.train_data_dir != EMBEDDED:
        return config
    from flps.data.movielens_like import ensure

    cache = cache_dir(environment)
    say(f"the generated default data for {workers} clients is looked up in {cache}; made when it is not there")
    negatives: dict[str, Any] = {} if runner.fresh_negatives else {"negatives": "fixed", "num_neg": runner.num_neg}
    try:
        folder = ensure(cache, clients=workers, **negatives)
    except OSError as error:
        raise ResourceError(f"cannot make the default data in {cache}: {error.strerror}; set FLPS_CACHE_DIR") from error
    test_dir = runner.test_data_dir or str(folder / "fl_test_data")
    runner = msgspec.structs.replace(runner, train_data_dir=str(folder / "fl_train_data"), test_data_dir=test_dir)
    return msgspec.structs.replace(config, runner=runner)


def write_job(job: AnyJob, config_text: bytes) -> None:
    """Put the yaml as it was and the job as it is run into the run's folder."""
    folder = Path(job.run_dir)
    try:
        (folder / "config.yaml").write_bytes(config_text)
        (folder / "job.json").write_bytes(msgspec.json.format(msgspec.json.encode(job), indent=2) + b"\n")
    except OSError as error:
        raise ResourceError(f"cannot write into {folder}: {error.strerror}") from error
