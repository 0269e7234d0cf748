"""The description of a table that both of its ends agree on.

The bounds of its numbers are checked where a description comes from a peer (`msgspec.convert`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flps.table.accessor import Accessor
from flps.table.initializer import Initializer
from flps.table.rules import AnyRule


class TableSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One table: `sparse` (key -> row of `dim` weights) or `dense` (one tensor of `dim` weights)."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    kind: Literal["sparse", "dense"]
    dim: Annotated[int, Meta(ge=0, le=2**32)]
    rule: AnyRule
    bound: Annotated[int, Meta(ge=0, le=2**32)] | None = None  # keys are 0..bound-1; None: any 64-bit keys
    init: Initializer = Initializer()
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    memory_bytes_max: Annotated[int, Meta(ge=1)] | None = None  # of rows in memory, in one place; the others go to disk
    accessor: Accessor | None = None  # what is counted about a row, and which keys are let in
