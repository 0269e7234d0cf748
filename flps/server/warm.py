"""A saved model's shared tables as first values, at any number of servers.

Law: either every table fits and is taken, or DataError says which does not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flps.errors import DataError
from flps.routing import blocks, shard_of
from flps.table import DenseTable, SparseTable
from flps.table.dense import state_sizes
from flps.table.files import Parts, read_tables

log = logging.getLogger(__name__)
_SHARE = re.compile(r"shared-(\d+)-of-(\d+)\.safetensors")


def warm_up(tables: Sequence[SparseTable | DenseTable], folder: Path, rank: int, servers: int) -> None:
    """Fill the tables of server `rank` of `servers` from the shares in `folder`.

    A table that was saved under the same rule goes on with its rule state; under another one it takes the weights.
    Raises DataError when shares are missing or do not fit.
    """
    shares = [read_tables(path) for path in _shares(folder)]
    for table in tables:
        parts = [share[table.spec.name] for share in shares if table.spec.name in share]
        if not parts:
            log.warning("%s holds no table %s: it starts from first values", folder, table.spec.name)
            continue
        try:
            if isinstance(table, SparseTable):
                for part in parts:
                    _take_rows(table, part, rank, servers)
            else:
                _take_block(table, parts, rank, servers)
        except (KeyError, ValueError) as error:
            raise DataError(f"{folder}: table {table.spec.name} does not fit: {error}") from error


def _shares(folder: Path) -> list[Path]:
    """The files of all servers of one saved model, by rank."""
    found = {path: match for path in folder.glob("shared-*") if (match := _SHARE.fullmatch(path.name))}
    counts = {int(match[2]) for match in found.values()}
    if len(counts) != 1 or sorted(int(match[1]) for match in found.values()) != list(range(*counts)):
        names = ", ".join(sorted(path.name for path in found)) or "none"
        raise DataError(f"{folder} must hold shared-0-of-n to shared-(n-1)-of-n.safetensors of one n, found: {names}")
    return sorted(found, key=lambda path: int(found[path][1]))


def _take_rows(table: SparseTable, part: Parts, rank: int, servers: int) -> None:
    spec, keys, values = table.spec, part["keys"], part["values"]
    if keys.dtype != np.uint64 or values.shape != (keys.size, spec.dim):
        raise ValueError(f"rows of width {spec.dim} are wanted, {keys.size} keys of {keys.dtype} and values of shape "
                         f"{values.shape} are there")  # fmt: skip
    if spec.bound is not None and keys.size and int(keys.max()) >= spec.bound:
        raise ValueError(f"key {int(keys.max())} is out of range 0..{spec.bound - 1}")
    mine = shard_of(keys, servers) == rank
    if _has_state(part, spec.rule.state_widths(spec.dim)):
        table.load(part, mine)
    else:
        table.write(table.slots(keys[mine]), values[mine])


def _take_block(table: DenseTable, parts: Sequence[Parts], rank: int, servers: int) -> None:
    whole, rule = np.concatenate([part["values"] for part in parts]), table.spec.rule
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
