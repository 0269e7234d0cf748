"""Checkpoints of a run: what every role remembers at one moment, so that the whole federation goes on from there.

    <checkpoint_path>/<epoch>-<step>/       steps of the epoch that are done; 3-0: three epochs are
        manifest.json                       written last, by the coordinator, when every role has written its part
        shared-<server>-of-<n>.safetensors  a server's tables with their rules' state
        private-<worker>-of-<n>.safetensors what a worker remembers; on the client's own disk
        <each of them>.json                 what the file beside it is: sha256, tables, the role's small state

Law 1: a folder without a manifest is no checkpoint; what a role reads back is checked against its sha256.
Law 2: parts of one checkpoint carry one identity, so that parts of different ones are not put together.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from flps.checkpoint.record import MANIFEST, read_record, write_record
from flps.config.types import Config
from flps.errors import DataError, ResourceError
from flps.message import REASON_MAX, Cut, Wrote
from flps.table import TableSpec

log = logging.getLogger(__name__)
FORMAT = 1
Done: TypeAlias = Callable[[str | ResourceError], None]  # gets the sha256 of what was written, or what went wrong
Begin: TypeAlias = Callable[[Path, Done], None]
_FOLDER = re.compile(r"([0-9]{1,9})-([0-9]{1,12})")
_PART = re.compile(r"(shared|private)-([0-9]{1,6})-of-([0-9]{1,6})\.safetensors")
_FREE = (
    *("epochs", "save_interval", "save_checkpoint_interval", "keep_checkpoint_max", "checkpoint_path"),
    *("model_save_path", "warmup_model_path", "durability", "journal_bytes_max", "with_coordinator"),
    *("print_interval", "use_auc", "use_gpu", "thread_num", "dataset_debug", "train_data_dir", "test_data_dir"),
    *("infer_reader_type", "infer_reader_path", "infer_batch_size", "infer_load_path"),
    *("infer_start_epoch", "infer_end_epoch", "need_dump", "dump_fields_path", "dump_fields", "dump_param"),
)  # keys of the runner that may change when a run goes on


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What every record of a checkpoint says; `opening` writes it."""

    format: int
    checkpoint: str  # identity, the same in all records
    epoch: int
    step: int


class Part(_Record, frozen=True, kw_only=True):
    """What one role wrote."""

    file: str
    sha256: str
    tables: tuple[TableSpec, ...]  # as this role holds them
    state: msgspec.Raw  # what else the role remembers; its own type reads it


class Complete(_Record, frozen=True, kw_only=True):
    """The manifest: what a checkpoint consists of, and what a run must be like to go on from it."""

    run: str
    workers: int  # of the job
    servers: int
    files: dict[str, str]  # name -> sha256
    settings: dict[str, Any]  # by dotted key: what may not change


def opening(cut: Cut) -> dict[str, Any]:
    """What every record of this checkpoint begins with."""
    return {"format": FORMAT, "checkpoint": cut.checkpoint, "epoch": cut.epoch, "step": cut.step}


def part_name(kind: str, rank: int, count: int) -> str:
    """The file of one role: `shared` for a server, `private` for a worker."""
    return f"{kind}-{rank}-of-{count}.safetensors"


def folder_name(epoch: int, step: int) -> str:
    """The folder of a checkpoint at that position."""
    return f"{epoch}-{step}"


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting that must be the same when a run goes on, by its dotted key."""
    whole = msgspec.to_builtins(config)
    whole = msgspec.json.decode(msgspec.json.encode(whole))  # as the manifest gives it back
    fixed = {key: whole[key] for key in ("job", "model", "seed", "hyper_parameters", "table_parameters")}
    return fixed | {f"runner.{key}": value for key, value in whole["runner"].items() if key not in _FREE}


# --- writing ---------------------------------------------------------------------------------------------------------


class OwnParts:
    """One role's parts of the checkpoints of its run."""

    def __init__(self, folder: Path, file: str, tell: Callable[[Wrote], None]) -> None:
        """`folder`: the run's checkpoints on this host; `tell`: brings the news to the coordinator."""
        self._folder = folder
        self._file = file
        self._tell = tell

    def write(self, cut: Cut, tables: Sequence[TableSpec], state: msgspec.Struct, begin: Begin) -> None:
        """Write the part: `begin(path, done)` brings the tensors to the disk in its own time, then it is described.

        The coordinator is told how it went. What cannot be written is no error of this role: the run goes on.
        """

        def done(outcome: str | ResourceError) -> None:
            try:
                if isinstance(outcome, ResourceError):
                    raise outcome
                self._finish(cut, outcome, tables, state)
            except ResourceError as error:
                self._fail(cut, error)

        try:
            place = self._place(cut)
        except ResourceError as error:
            self._fail(cut, error)
        else:
            begin(place, done)

    def _place(self, cut: Cut) -> Path:
        """Where the part of this checkpoint goes; own parts of checkpoints that are not wanted any more are removed."""
        current = folder_name(cut.epoch, cut.step)
        try:
            for folder in positions(self._folder):
                if folder.name not in (*cut.kept, current):
                    self._remove(folder)
            place = self._folder / current
            place.mkdir(parents=True, exist_ok=True)
            self._record(place).unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot write a checkpoint into {self._folder}: {error.strerror}") from error
        return place / self._file

    def _finish(self, cut: Cut, sha256: str, tables: Sequence[TableSpec], state: msgspec.Struct) -> None:
        part = Part(
            **opening(cut),
            file=self._file,
            sha256=sha256,
            tables=tuple(tables),
            state=msgspec.Raw(msgspec.json.encode(state)),
        )
        write_record(self._record(self._folder / folder_name(cut.epoch, cut.step)), part)
        self._tell(Wrote(cut.checkpoint, self._file, sha256))

    def _fail(self, cut: Cut, error: Exception) -> None:
        log.error("checkpoint %s is not written: %s", folder_name(cut.epoch, cut.step), error)
        self._tell(Wrote(cut.checkpoint, self._file, "", str(error)[:REASON_MAX]))

    def _record(self, folder: Path) -> Path:
        return folder / f"{self._file}.json"

    def _remove(self, folder: Path) -> None:
        for path in folder.glob(f"{self._file}*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # parts of others are in it
            folder.rmdir()


def complete(folder: Path, manifest: Complete, keep: int) -> tuple[str, ...]:
    """Write the manifest of a checkpoint in the run's folder of checkpoints, and remove all but the newest `keep`
    complete ones there. Returns the names of those that are left, oldest first. Raises ResourceError.
    """
    place = folder / folder_name(manifest.epoch, manifest.step)
    try:
        place.mkdir(parents=True, exist_ok=True)  # no role that wrote into it need be of this host
    except OSError as error:
        raise ResourceError(f"cannot write into {place}: {error.strerror}") from error
    write_record(place / MANIFEST, manifest)
    kept = [path.name for path in completed(folder)][-keep:]
    for path in positions(folder):
        if path.name not in kept:
            remove(path)
    return tuple(kept)


def remove(folder: Path) -> None:
    """Remove a checkpoint; its manifest goes first, so that what is left of it is never taken for one."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


# --- reading ---------------------------------------------------------------------------------------------------------


def positions(folder: Path) -> list[Path]:
    """The folders of checkpoints, complete or not, by position."""
    try:
        found = [(match, path) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    except OSError:
        return []
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]


def is_position(folder: Path) -> bool:
    """Whether it is called like a checkpoint's folder."""
    return _FOLDER.fullmatch(folder.name) is not None


def completed(folder: Path) -> list[Path]:
    """The folders of complete checkpoints, by position."""
    return [path for path in positions(folder) if (path / MANIFEST).is_file()]


def read_complete(folder: Path) -> Complete:
    """The manifest of a checkpoint. Raises DataError when the folder is not one that this version reads."""
    path = folder / MANIFEST
    manifest = read_record(
        path, Complete, f"{folder} is no complete checkpoint: it has no {MANIFEST} (the run may have ended meanwhile)"
    )
    _expect_format(path, manifest.format)
    odd = [name for name in manifest.files if not _PART.fullmatch(name)]
    if odd:
        raise DataError(f"{path} names a file {odd[0]!r}, expected shared- or private-<rank>-of-<n>.safetensors")
    return manifest


def read_part(folder: Path, file: str, checkpoint: str = "") -> Part:
    """How a role described the part that it wrote. Raises DataError when it is missing or of another checkpoint than
    the one of that identity; without one any will do.
    """
    path = folder / f"{file}.json"
    part = read_record(path, Part, f"{path} is missing: the checkpoint {folder} has lost a part")
    _expect_format(path, part.format)
    if part.checkpoint != (checkpoint or part.checkpoint) or part.file != file:
        raise DataError(
            f"{path} belongs to checkpoint {part.checkpoint} ({part.file}), not to {checkpoint} ({file}): "
            "copy the parts of one checkpoint together"
        )
    if not (folder / file).is_file():
        raise DataError(f"{folder / file} is missing: the checkpoint {folder} has lost a part")
    return part


def state_of(folder: Path, part: Part, kind: type[Any]) -> Any:
    """The small state of a part, as its role's own type. Raises DataError."""
    try:
        return msgspec.json.decode(part.state, type=kind)
    except msgspec.MsgspecError as error:
        raise DataError(f"{folder / part.file}.json: cannot read the state: {error}") from error


def parts_here(folder: Path, kind: str) -> list[str]:
    """The parts of one kind that lie in a checkpoint's folder, by rank. Raises DataError unless they are 0 to n-1."""
    found = {path.name: match for path in folder.glob(f"{kind}-*") if (match := _PART.fullmatch(path.name))}
    counts = {int(match[3]) for match in found.values()}
    if len(counts) != 1 or sorted(int(match[2]) for match in found.values()) != list(range(*counts)):
        names = ", ".join(sorted(found)) or "none"
        raise DataError(f"{folder} must hold {kind}-0-of-n to {kind}-(n-1)-of-n.safetensors of one n, found: {names}")
    return sorted(found, key=lambda name: int(found[name][2]))


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two settings, one line each, by dotted key."""
    found: list[str] = []
    for key in _ordered([*saved, *now]):
        was, is_now = saved.get(key), now.get(key)
        if was and is_now and isinstance(was, dict) and isinstance(is_now, dict):
            found += [f"{key}.{line}" for line in differences(was, is_now)]
        elif was != is_now:
            found.append(f"{key} was {was!r}, is {is_now!r}")
    return found


def _ordered(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def _expect_format(path: Path, found: int) -> None:
    if found != FORMAT:
        raise DataError(f"{path} has format {found}, this version reads {FORMAT}")
