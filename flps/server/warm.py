"""Tables from disk, at any number of servers: a saved model as first values, or a checkpoint to go on from.

Law 1: either every table fits and is taken, or DataError says which does not.
Law 2: files are checked against their manifest, and read piece by piece: memory holds the tables, not the files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flps.checkpoint import read_manifest
from flps.checkpoint.run import parts_here
from flps.errors import DataError
from flps.routing import blocks, shard_of
from flps.table import DenseTable, SparseTable
from flps.table.dense import state_sizes
from flps.table.files import Parts, TensorFile

log = logging.getLogger(__name__)


def warm_up(tables: Sequence[SparseTable | DenseTable], folder: Path, rank: int, servers: int) -> None:
    """Fill the tables of server `rank` of `servers` from the saved model in `folder`.

    A table that was saved under the same rule goes on with its rule state; under another one it takes the weights.
    Raises DataError when shares are missing, are not what was saved, or do not fit.
    """
    names = parts_here(folder, "shared")
    shares = open_shares(folder, names, read_manifest(folder).files)
    for table in tables:
        if any(table.spec.name in share.tables() for share in shares):
            fill(table, shares, rank, servers)
        else:
            log.warning("%s holds no table %s: it starts from first values", folder, table.spec.name)


def open_shares(folder: Path, names: Sequence[str], sums: Mapping[str, str]) -> list[TensorFile]:
    """The files of all servers of a saved model or a checkpoint. Raises DataError for one that is not what was saved.

    sums: file -> sha256.
    """
    unknown = [name for name in names if name not in sums]
    if unknown:
        raise DataError(f"{folder / unknown[0]} is not in the manifest of {folder}")
    return [TensorFile(folder / name, sums[name]) for name in names]


def fill(table: SparseTable | DenseTable, shares: Sequence[TensorFile], rank: int, servers: int) -> None:
    """Take the part of server `rank` of `servers` from the shares of all servers that saved.

    Raises DataError when the table does not fit.
    """
    holding = [share for share in shares if table.spec.name in share.tables()]
    try:
        if isinstance(table, SparseTable):
            for share in holding:
                _take_rows(table, share, rank, servers)
        else:
            _take_block(table, holding, rank, servers)
    except (KeyError, ValueError) as error:
        raise DataError(f"{shares[0].path.parent}: table {table.spec.name} does not fit: {error}") from error


def _take_rows(table: SparseTable, share: TensorFile, rank: int, servers: int) -> None:
    spec = table.spec
    name = spec.name
    rows, width = share.shape(name, "keys"), share.shape(name, "values")[1:]
    if width != (spec.dim,):
        raise ValueError(f"rows of width {spec.dim} are wanted, values of shape {(*rows, *width)} are there")
    is_whole = set(share.tables()[name]) == set(table.columns) and all(
        share.shape(name, column.name) == (*rows, column.width) for column in table.storage.columns
    )
    for piece in share.pieces(name, table.columns if is_whole else ("keys", "values")):
        keys = piece["keys"]
        if keys.dtype != np.uint64:
            raise ValueError(f"keys of type uint64 are wanted, {keys.dtype} are there")
        if spec.bound is not None and int(keys.max()) >= spec.bound:
            raise ValueError(f"key {int(keys.max())} is out of range 0..{spec.bound - 1}")
        mine = shard_of(keys, servers) == rank
        if is_whole:
            table.load(piece, mine)
        else:
            table.write(table.slots(keys[mine]), piece["values"][mine])


def _take_block(table: DenseTable, shares: Sequence[TensorFile], rank: int, servers: int) -> None:
    name, rule = table.spec.name, table.spec.rule
    parts = [{part: share.read(name, part) for part in share.tables()[name]} for share in shares]
    whole = np.concatenate([part["values"] for part in parts])
    block = blocks(whole.size, servers)[rank]
    if block.stop - block.start != table.spec.dim:
        raise ValueError(f"a block of {table.spec.dim} numbers is wanted, it is {block.stop - block.start}")
    if not all(_has_state(part, state_sizes(rule, part["values"].size)) for part in parts):
        table.start_with(whole[block])
        return
    taken: Parts = {"values": whole[block]}
    for n, size in enumerate(state_sizes(rule, -1)):
        # What is as wide as the tensor was divided with it; what is one number is the same in every share.
        pieces = [part[f"state.{n}"] for part in parts]
        taken[f"state.{n}"] = np.concatenate(pieces)[block] if size == -1 else pieces[0]
    table.load(taken)


def _has_state(part: Parts, widths: Sequence[int]) -> bool:
    """Whether a dump holds just the state arrays of these widths."""
    held = {name: array.shape[-1] for name, array in part.items() if name.startswith("state.")}
    return held == {f"state.{n}": width for n, width in enumerate(widths)}
