"""Samples and dense parameters as text, when a config asks for them, in the format of Paddle's dumps.

    <run folder>/<dump_fields_path>/epoch_<n>/part-<worker>-00000
    a sample:     <ins_id, empty>\\t<field>:1:<value>\\t...
    a parameter:  (<epoch>,<name>)<value> <value> ...

Law: off unless asked for, inside the run folder only, and no private field: the keys of a private table say whose
data this is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from flps.config.types import Config
from flps.data.batch import Batch
from flps.errors import ConfigError, ResourceError
from flps.worker.parameters import DenseParameter, Placed, SparseParameter

log = logging.getLogger(__name__)


class Dump:
    """Writes what the config asks for."""

    def __init__(self, folder: Path, rank: int, fields: tuple[str, ...], dense: dict[str, DenseParameter]) -> None:
        """`dense`: parameter name -> the tensor that holds it."""
        self._folder = folder
        self._name = f"part-{rank:03d}-00000"
        self._fields = fields
        self._dense = dense

    @classmethod
    def of(cls, config: Config, placed: list[Placed], run_dir: Path, rank: int) -> Dump:
        """What the config asks for, less what is private. Raises ConfigError for names that do not exist."""
        runner = config.runner
        name = Path(runner.dump_fields_path).name
        folder = run_dir / (name if name not in ("", "..") else "dump")
        if not runner.need_dump:
            return cls(folder, rank, (), {})
        sparse = [p for p in placed if isinstance(p.parameter, SparseParameter)]
        private = {
            p.parameter.embedding.feature
            for p in sparse
            if p.placement == "private" and isinstance(p.parameter, SparseParameter)
        }
        fields = tuple(_allowed(field, private) for field in _known(runner.dump_fields, Batch._fields, "dump_fields"))
        packs = {p.parameter: p.placement for p in placed if isinstance(p.parameter, DenseParameter)}
        homes = {name: (pack, placement) for pack, placement in packs.items() for name in pack.pack.names}
        secret = {name for name, (_, placement) in homes.items() if placement == "private"}
        names = [_allowed(name, secret) for name in _known(runner.dump_param, tuple(homes), "dump_param")]
        return cls(folder, rank, tuple(filter(None, fields)), {name: homes[name][0] for name in names if name})

    def passing(self, epoch: int, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, their samples written down on the way."""
        if not self._fields:
            yield from batches
            return
        with self._open(epoch, "w") as file:
            for batch in batches:
                columns = [
                    [f"\t{field}:1:{_text(value)}" for value in getattr(batch, field).tolist()]
                    for field in self._fields
                ]
                file.writelines("".join(line) + "\n" for line in zip(*columns, strict=True))
                yield batch

    def parameters(self, epoch: int) -> None:
        """Write down the dense parameters after an epoch."""
        if not self._dense:
            return
        with self._open(epoch, "a") as file:
            for name, parameter in self._dense.items():
                values = parameter.pack.split(parameter.pack.values())[name]
                file.write(f"({epoch},{name})" + " ".join(f"{value:g}" for value in np.ravel(values)) + "\n")

    def _open(self, epoch: int, mode: str) -> TextIO:
        folder = self._folder / f"epoch_{epoch}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / self._name).open(mode)  # type: ignore[return-value]  # a text mode
        except OSError as error:
            raise ResourceError(f"cannot dump into {folder}: {error.strerror}") from error


def _text(value: float) -> str:
    """A number in full: an id in seven digits is not rounded."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _known(names: tuple[str, ...], known: tuple[str, ...], key: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ConfigError(f"runner.{key}: there is no {name!r}, there are {', '.join(known)}")
    return names


def _allowed(name: str, private: set[str]) -> str:
    if name in private:
        log.warning("%s is private: it is not dumped", name)
        return ""
    return name
