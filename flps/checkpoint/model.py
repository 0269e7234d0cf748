"""Saved models: a folder of table files with a manifest, and one standalone state dict.

    <epoch>/manifest.json                    format version, model, tables, files with sha256; written last
            shared-<server>-of-<n>.safetensors   a server's share of every shared table, rule state included
            private-<client>-of-<n>.safetensors  a client's private tables; on the client's own disk
            model.safetensors                    the shared part of the model, by parameter name

Law: a folder without a manifest is not a saved model; what a manifest names is checked against its sha256.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from flps.checkpoint.record import MANIFEST, read_record, write_record
from flps.errors import DataError, ResourceError
from flps.table import TableSpec
from flps.table.files import Parts, read_tensors, write_tensors

FORMAT = 1
EXPORT = "model.safetensors"
_SHARE = re.compile(r"(shared|private)-[0-9]+-of-[0-9]+\.safetensors")
Tables: TypeAlias = dict[str, list[Parts]]  # table -> its parts, one for each owner


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved model consists of."""

    format: int
    epoch: int
    model: str
    hyper_parameters: dict[str, Any]
    tables: tuple[TableSpec, ...]  # as the workers see them: a dense one whole
    dense: dict[str, dict[str, list[int]]]  # dense table -> parameter name -> shape, in order
    files: dict[str, str]  # name -> sha256
    workers: int = 0  # workers of the job
    clients: tuple[int, ...] = ()  # ranks of those that saved
    save_mode: str = "all"  # which rows of tables with an accessor


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a saved model. Raises ResourceError."""
    write_record(folder / MANIFEST, manifest)


def retract_manifest(folder: Path) -> None:
    """From here on the folder is not a saved model, until its manifest is written again. Raises ResourceError."""
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot save a model in {folder}: {error.strerror}") from error


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError when the folder is not a saved model that this version reads."""
    path = folder / MANIFEST
    missing = f"{folder} is not a saved model: it has no {MANIFEST} (saving may have been cut short)"
    manifest = read_record(path, Manifest, missing)
    if manifest.format != FORMAT:
        raise DataError(f"{path} has format {manifest.format}, this version reads {FORMAT}")
    odd = [name for name in manifest.files if name != EXPORT and not _SHARE.fullmatch(name)]
    if odd:
        raise DataError(f"{path} names a file {odd[0]!r}, expected shared- or private-<owner>-of-<n>.safetensors")
    return manifest


def read_files(folder: Path, manifest: Manifest, kind: str, owner: int | None = None) -> Tables:
    """Tables of the files of one kind (`shared` or `private`), checked against the manifest. Raises DataError.

    owner: rank of the only server or client whose file is read.
    """
    tables: Tables = {}
    for name in sorted((n for n in manifest.files if n.startswith(kind + "-")), key=_owner):
        if owner is not None and _owner(name) != owner:
            continue
        parts: dict[str, Parts] = {}
        for tensor, array in read_tensors(folder / name, manifest.files[name]).items():
            table, _, part = tensor.rpartition("/")
            parts.setdefault(table, {})[part] = array
        for table, part_arrays in parts.items():
            tables.setdefault(table, []).append(part_arrays)
    return tables


def export(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Write the shared part of the model as one state dict; returns file -> sha256.

    A sparse table with a key bound becomes `<table>.weight` (bound, dim), its untouched rows holding their first
    values; one without, or one of which only some rows were saved, becomes `<table>.keys` and `<table>.weight`.
    Private tables are not in it.
    """
    shared = read_files(folder, manifest, "shared")
    specs = {spec.name: spec for spec in manifest.tables}
    tensors: dict[str, NDArray[Any]] = {}
    for table, parts in shared.items():
        spec = specs[table]
        if spec.kind == "dense":
            tensors.update(dense_parameters(np.concatenate([part["values"] for part in parts]), manifest.dense[table]))
        else:
            is_part = spec.accessor is not None and manifest.save_mode in ("delta", "base")
            tensors.update(_weights(spec, parts, is_part))
    return {EXPORT: write_tensors(folder / EXPORT, tensors)}


def dense_parameters(values: NDArray[Any], shapes: dict[str, list[int]]) -> dict[str, NDArray[Any]]:
    """A dense table's values (dim,) by parameter name; `shapes` as the manifest has them."""
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def epochs(folder: Path) -> list[int]:
    """Epochs of the complete saved models in a folder, ascending."""
    found = [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
    return sorted(int(name) for name in found if name.isdecimal())


def _owner(name: str) -> int:
    return int(name.split("-")[1])


def _weights(spec: TableSpec, parts: Sequence[Parts], is_part: bool) -> dict[str, NDArray[Any]]:
    """`is_part`: the model holds only some of the rows."""
    keys = np.concatenate([part["keys"] for part in parts])
    values = np.concatenate([part["values"] for part in parts])
    if spec.bound is None or is_part:
        order = np.argsort(keys)
        return {f"{spec.name}.keys": keys[order], f"{spec.name}.weight": values[order]}
    weight = spec.init.rows(np.arange(spec.bound, dtype=np.uint64), spec.dim, spec.seed, spec.dtype)
    weight[keys.astype(np.int64)] = values
    return {f"{spec.name}.weight": weight}
