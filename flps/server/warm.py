"""Tables from disk, at any number of servers: a saved model as first values, or a checkpoint to go on from.

Law 1: either every table fits and is taken, or DataError says which does not.
Law 2: files are checked against their manifest, and read piece by piece: memory holds the tables, not the files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from flps.checkpoint import read_manifest
from flps.checkpoint.run import Part, part_name, parts_here, read_part
from flps.errors import ConfigError, DataError
from flps.routing import blocks, shard_of
from flps.table import DenseTable, SparseTable, TableSpec, make_sparse
from flps.table.dense import state_sizes
from flps.table.files import Parts, TensorFile

log = logging.getLogger(__name__)


def warm_up(tables: Sequence[SparseTable | DenseTable], folder: Path, rank: int, servers: int) -> None:
    """Fill the tables of server `rank` of `servers` from the saved model in `folder`.

    A table that was saved under the same rule goes on with its rule state; under another one it takes the weights.
    Raises DataError when shares are missing, are not what was saved, or do not fit.
    """
    names = parts_here(folder, "shared")
    manifest = read_manifest(folder)
    shares = open_shares(folder, names, manifest.files)
    rules = {spec.name: spec.rule for spec in manifest.tables}
    for table in tables:
        name = table.spec.name
        if any(name in share.tables() for share in shares):
            # States of two rules may have the same shapes and mean different things.
            fill(table, shares, rank, servers, is_same_rule=type(rules.get(name)) is type(table.spec.rule))
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


def take_up(
    folder: Path, checkpoint: str, rank: int, servers: int, spill_in: Path | None = None
) -> tuple[list[SparseTable | DenseTable], Part]:
    """The tables of server `rank` of `servers` as a checkpoint has them, and how a server that wrote it described it.

    checkpoint: its identity. With as many servers as wrote it, a server's own part is all that it needs.
    Raises DataError.
    """
    own = part_name("shared", rank, servers)
    is_own = (folder / own).is_file()
    names = [own] if is_own else parts_here(folder, "shared")
    parts = [read_part(folder, name, checkpoint) for name in names]
    shares = open_shares(folder, names, {part.file: part.sha256 for part in parts})
    tables = make_tables(parts[0].tables if is_own else _divided(parts, rank, servers), spill_in)
    for table in tables:
        fill(table, shares, *((0, 1) if is_own else (rank, servers)), is_exact=True)
    log.info(
        "goes on from checkpoint %s with %s", folder, ", ".join(table.spec.name for table in tables) or "no tables"
    )
    return tables, parts[0]


def _divided(parts: Sequence[Part], rank: int, servers: int) -> list[TableSpec]:
    """The tables of one of `servers` servers, from those of the servers that wrote the parts."""
    specs = []
    for held in zip(*(part.tables for part in parts), strict=True):
        spec = held[0]
        if any(msgspec.structs.replace(other, dim=spec.dim) != spec for other in held):
            raise DataError(f"table {spec.name} is not the same in {parts[0].file} and the parts of the other servers")
        if spec.kind == "dense":
            block = blocks(sum(other.dim for other in held), servers)[rank]
            spec = msgspec.structs.replace(spec, dim=block.stop - block.start)
        specs.append(spec)
    return specs


def make_tables(specs: Sequence[TableSpec], spill_in: Path | None = None) -> list[SparseTable | DenseTable]:
    """Tables with first values; cold rows lie in `spill_in`. Raises ConfigError when two have one name."""
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ConfigError(f"two tables have one name: {', '.join(sorted(names))}")
    return [make_sparse(spec, spill_in) if spec.kind == "sparse" else DenseTable(spec) for spec in specs]


def fill(
    table: SparseTable | DenseTable,
    shares: Sequence[TensorFile],
    rank: int,
    servers: int,
    is_exact: bool = False,
    is_same_rule: bool = True,
) -> None:
    """Take the part of server `rank` of `servers` from the shares of all servers that saved.

    is_exact: everything that the table keeps of a row must be there. is_same_rule: what the shares hold of a rule's
    state is of this table's rule. Raises DataError when the table does not fit.
    """
    holding = [share for share in shares if table.spec.name in share.tables()]
    try:
        if isinstance(table, SparseTable):
            for share in holding:
                _take_rows(table, share, rank, servers, is_exact, is_same_rule)
        else:
            _take_block(table, holding, rank, servers, is_exact, is_same_rule)
    except (KeyError, ValueError) as error:
        raise DataError(f"{shares[0].path.parent}: table {table.spec.name} does not fit: {error}") from error


def _take_rows(
    table: SparseTable, share: TensorFile, rank: int, servers: int, is_exact: bool, is_same_rule: bool
) -> None:
    spec = table.spec
    name = spec.name
    rows, width = share.shape(name, "keys"), share.shape(name, "values")[1:]
    if width != (spec.dim,):
        raise ValueError(f"rows of width {spec.dim} are wanted, values of shape {(*rows, *width)} are there")
    held = _held(table, share, rows, is_same_rule)
    if is_exact and held != table.columns:
        raise ValueError(f"rows of {', '.join(table.columns)} are wanted, {', '.join(share.tables()[name])} are there")
    if is_exact and share.dtype(name, "values") != spec.dtype:
        raise ValueError(f"numbers of {spec.dtype} are wanted, {share.dtype(name, 'values')} are there")
    for piece in share.pieces(name, held):
        keys = piece["keys"]
        if keys.dtype != np.uint64:
            raise ValueError(f"keys of type uint64 are wanted, {keys.dtype} are there")
        if spec.bound is not None and int(keys.max()) >= spec.bound:
            raise ValueError(f"key {int(keys.max())} is out of range 0..{spec.bound - 1}")
        table.load(piece, shard_of(keys, servers) == rank)


def _held(table: SparseTable, share: TensorFile, rows: tuple[int, ...], is_same_rule: bool) -> tuple[str, ...]:
    """Which columns of a table can be taken from a share: keys, values, all of the rule's state or none, counters."""
    parts = share.tables()[table.spec.name]
    fits = {
        column.name: column.name in parts and share.shape(table.spec.name, column.name) == (*rows, column.width)
        for column in table.storage.columns
    }
    state = [name for name in fits if name.startswith("state.")]
    saved = [name for name in parts if name.startswith("state.")]
    if not (is_same_rule and len(state) == len(saved) and all(fits[name] for name in state)):
        fits.update(dict.fromkeys(state, False))
    return "keys", *(name for name, is_held in fits.items() if is_held)


def _take_block(
    table: DenseTable, shares: Sequence[TensorFile], rank: int, servers: int, is_exact: bool, is_same_rule: bool
) -> None:
    name, rule = table.spec.name, table.spec.rule
    parts = [{part: share.read(name, part) for part in share.tables()[name]} for share in shares]
    whole = np.concatenate([part["values"] for part in parts])
    block = blocks(whole.size, servers)[rank]
    if block.stop - block.start != table.spec.dim:
        raise ValueError(f"a block of {table.spec.dim} numbers is wanted, it is {block.stop - block.start}")
    if not (is_same_rule and all(_has_state(part, state_sizes(rule, part["values"].size)) for part in parts)):
        if is_exact:
            raise ValueError(f"the state of the rule {rule.name} is wanted, other arrays are there")
        table.initialized = False  # the model that was read before it is older
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
