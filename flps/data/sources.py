"""Where a client's samples come from: the `reader_type` of the yaml.

columnar       our own: the mapped columns beside the csv, or the csv where they are missing or older
QueueDataset   one subprocess per file (`pipe_command`, the csv on its stdin, the yaml as last argument), which writes
               MultiSlot text `1 <user> 1 <item> 1 <label>`; without a pipe command as columnar
RecDataset     the class of that name in the module `train_reader_path`, iterated
DataLoader     the same class under torch's DataLoader

Law: all four give the same samples in the same order, so training does not depend on how a file was read.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from flps.data.batch import Rows
from flps.data.columns import read_columns
from flps.data.shards import columnar_of, csv_of
from flps.data.text import CHUNK_BYTES, read_numbers, read_samples, refuse_bad_values, sample_complaint
from flps.errors import ConfigError, DataError, ResourceError
from flps.scripts import load_script

ReaderType = Literal["columnar", "QueueDataset", "DataLoader", "RecDataset"]
CHUNK_SAMPLES = 1 << 14
KILLED_S = 10.0  # what is killed is gone in no time, unless it hangs in the kernel


@dataclass(frozen=True)
class Reader:
    """How files are read; relative paths and the pipe command start in the folder of the yaml."""

    kind: ReaderType = "columnar"
    pipe_command: str = ""
    reader_path: str = ""  # module with a class RecDataset, importlib format
    config_path: str = ""  # the yaml; last argument of the pipe command
    config_dir: str = ""  # its folder; "" means the folder of config_path, or the working folder
    config: Mapping[str, Any] = field(default_factory=dict)  # what RecDataset gets as its second argument
    batch_size: int = 512  # of the DataLoader
    silence_s: float = 60.0  # the longest time a pipe command may write nothing while we wait for it

    @property
    def folder(self) -> Path:
        """Where the yaml lies."""
        return Path(self.config_dir or (Path(self.config_path).parent if self.config_path else ".")).absolute()

    @property
    def is_native(self) -> bool:
        """Whether flps reads the files itself, so that samples can stay where they are mapped."""
        return self.kind == "columnar" or (self.kind == "QueueDataset" and not self.pipe_command)

    def rows(self, shards: list[list[Path]]) -> Iterator[Rows]:
        """The samples of some shards, file after file, in chunks.

        Raises:
            ConfigError: the reader is not there, or its command failed.
            DataError: a file holds something else than samples, with file and line.
        """
        if self.is_native:
            for files in shards:
                yield from native_rows(files)
            return
        paths = [text_of(files, self.kind) for files in shards]
        if self.kind == "QueueDataset":
            for path in paths:
                yield from self.piped_rows(path)
        else:
            yield from self.dataset_rows(paths)

    def dataset_rows(self, paths: list[Path]) -> Iterator[Rows]:
        """The samples of the user's RecDataset, with or without torch's DataLoader around it."""
        dataset = load_rec_dataset(self.reader_path, self.folder)([str(path) for path in paths], self.config)
        if self.kind == "DataLoader":
            return loader_rows(dataset, self.batch_size)
        return iterated_rows(dataset)

    def piped_rows(self, path: Path) -> Iterator[Rows]:
        """What the pipe command makes of one file."""
        arguments = pipe_arguments(self.pipe_command, self.config_path)
        return multislot_rows(
            pipe_chunks(arguments, path, self.folder, self.silence_s), f"{self.pipe_command!r} on {path}"
        )


def native_rows(files: list[Path]) -> Iterator[Rows]:
    """One shard, mapped or parsed."""
    columnar = columnar_of(files)
    if columnar is None:
        yield from read_samples(text_of(files, "columnar"))
        return
    arrays = read_columns(columnar).arrays
    if not {"user", "item"} <= arrays.keys():
        raise DataError(f"{columnar}: expected columns user and item, found {', '.join(arrays)}")
    users, items = arrays["user"], arrays["item"]
    yield Rows(users, items, arrays.get("label", np.ones(len(users), np.float32)))


def text_of(files: list[Path], kind: str) -> Path:
    """The csv of a shard, which every reader but ours needs."""
    path = csv_of(files)
    if path is None:
        raise DataError(f"{files[0]}: reader_type {kind} reads csv files, and this shard has only its columnar form")
    return path


def pipe_arguments(command: str, config_path: str) -> list[str]:
    """The command under a shell, the yaml as its last argument; `python` is the interpreter that runs us."""
    first, _, rest = command.strip().partition(" ")
    if first in ("python", "python3"):
        command = f"{shlex.quote(sys.executable)} {rest}"
    return ["/bin/sh", "-c", f"{command} {shlex.quote(os.path.abspath(config_path)) if config_path else ''}".strip()]


def pipe_chunks(arguments: list[str], path: Path, folder: Path, silence_s: float) -> Iterator[bytes]:
    """Run a command with a file on its stdin; its stdout in pieces as they come.

    The pipe holds a command back that is faster than we are, so memory stays bounded.

    Raises:
        ConfigError: it cannot be started, was silent for too long, or ended with another status than 0.
    """
    with path.open("rb") as source, tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(  # without `with`, whose end would wait for ever
            arguments, cwd=folder, stdin=source, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True
        )
        assert child.stdout is not None
        try:
            yield from until_end(child.stdout, arguments[-1], path, silence_s)
            status = child.wait(timeout=silence_s)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"pipe_command {arguments[-1]!r} on {path}: closed stdout but did not end") from error
        finally:
            child.stdout.close()
            end_group(child)
        if status != 0:
            last = last_lines(complaints)
            raise ConfigError(
                f"pipe_command {arguments[-1]!r} on {path} ended with status {status}; its stderr ends:\n{last}"
            )


def until_end(stream: IO[bytes], command: str, path: Path, silence_s: float) -> Iterator[bytes]:
    """Pieces of a pipe until its end, each waited for no longer than the deadline."""
    poll = select.poll()
    poll.register(stream, select.POLLIN | select.POLLHUP)
    while True:
        if not poll.poll(silence_s * 1000):
            raise ConfigError(f"pipe_command {command!r} on {path}: wrote nothing for {silence_s:g} s; stopped")
        piece = os.read(stream.fileno(), CHUNK_BYTES)
        if not piece:
            return
        yield piece


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a command behind, whatever it started. Raises ResourceError when it cannot be killed."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(timeout=KILLED_S)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"process {child.pid} ({child.args!r}) does not go, even after SIGKILL") from error


def last_lines(complaints: IO[bytes], count: int = 5) -> str:
    """The end of what a command wrote to stderr."""
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - 4096))
    return "\n".join(complaints.read().decode("utf-8", "replace").splitlines()[-count:]) or "(nothing)"


def multislot_rows(pieces: Iterable[bytes], where: str) -> Iterator[Rows]:
    """Samples from MultiSlot text in pieces of any size."""
    rest, line = b"", 1
    for text in grouped(pieces, CHUNK_BYTES):
        whole, newline, rest = (rest + text).rpartition(b"\n")
        if newline:
            yield from parse_multislot(whole + newline, where, line)
            line += whole.count(b"\n") + 1
    if rest.strip():
        yield from parse_multislot(rest, where, line)


def grouped(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Pieces put together until they have a size that is worth a call of the parser."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(held)
            held, length = [], 0
    if held:
        yield b"".join(held)


def parse_multislot(text: bytes, where: str, line: int) -> Iterator[Rows]:
    """Whole lines `1 <user> 1 <item> 1 <label>` as samples.

    Raises:
        DataError: a line that is something else, by its number in the command's output.
    """
    types = [np.int64, np.int64, np.int64, np.int64, np.int64, np.float32]
    try:
        for one, users, other, items, third, labels in read_numbers(io.BytesIO(text), r"\s+", types):
            refuse_bad_values(users, items, labels)
            if not ((one == 1) & (other == 1) & (third == 1)).all():
                raise ValueError("a slot with another count than 1")
            yield Rows(users, items, labels)
    except ValueError as error:
        for number, wrong in enumerate(text.splitlines(), line):
            fields = wrong.decode("utf-8", "replace").split()
            if fields and (fields[::2] != ["1"] * 3 or sample_complaint(",".join(fields[1::2]))):
                shown = wrong[:80].decode("utf-8", "replace")
                raise DataError(
                    f"{where}: line {number} of its output: expected `1 <user> 1 <item> 1 <label>`, found {shown!r}"
                ) from error
        raise DataError(f"{where}: output cannot be read: {error}") from error


def load_rec_dataset(reader_path: str, folder: Path) -> Any:
    """The class RecDataset of a module found beside the yaml, else on sys.path.

    Raises:
        ConfigError: no such module, or no such class in it.
    """
    if not reader_path:
        raise ConfigError(
            "train_reader_path: reader_type DataLoader and RecDataset need the module that holds the class RecDataset"
        )
    name = reader_path.removesuffix(".py")
    beside = folder / (name.replace(".", "/") + ".py")
    try:
        module = load_script(beside) if beside.is_file() else importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"train_reader_path: no module {name!r} in {folder} nor on sys.path ({error})") from error
    try:
        return module.RecDataset
    except AttributeError as error:
        raise ConfigError(f"train_reader_path: {module.__file__} has no class RecDataset(file_list, config)") from error


def iterated_rows(dataset: Iterable[Any]) -> Iterator[Rows]:
    """Samples of an iterable of (user, item, label), each a number or an array of one."""
    samples = iter(dataset)
    while chunk := list(itertools.islice(samples, CHUNK_SAMPLES)):
        try:
            table = np.asarray(chunk).reshape(len(chunk), 3)
        except ValueError as error:
            raise DataError(
                f"RecDataset: expected samples (user, item, label), found e.g. {chunk[0]!r} ({error})"
            ) from error
        yield checked(table[:, 0], table[:, 1], table[:, 2])


def loader_rows(dataset: Any, batch_size: int) -> Iterator[Rows]:
    """The same through torch's DataLoader, which stacks a batch's fields."""
    from torch.utils.data import DataLoader

    for fields in DataLoader(dataset, batch_size=batch_size):
        if len(fields) != 3:
            raise DataError(f"RecDataset: expected samples (user, item, label), found {len(fields)} fields")
        yield checked(*(np.asarray(column).reshape(-1) for column in fields))


def checked(users: Any, items: Any, labels: Any) -> Rows:
    """Columns as samples, refused where a csv line would be."""
    rows = Rows(users.astype(np.int64), items.astype(np.int64), labels.astype(np.float32))
    try:
        refuse_bad_values(*rows)
    except ValueError as error:
        raise DataError(f"RecDataset: {error} among its samples") from error
    return rows


def timed(batches: Iterator[Any], log: Any, what: str) -> Iterator[Any]:
    """`dataset_debug`: pass batches on and log how the time was divided between reading and training."""
    reading = training = 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        given = time.perf_counter()
        reading += given - asked
        if batch is None:
            break
        yield batch
        training += time.perf_counter() - given
    log.info(
        "%s: reader %.3f s, train %.3f s, %.0f %% reading",
        what,
        reading,
        training,
        100 * reading / max(reading + training, 1e-9),
    )
