"""The description of a table that both of its ends agree on."""

from __future__ import annotations

from typing import Literal

import msgspec

from flps.table.initializer import Initializer
from flps.table.rules import AnyRule


class TableSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One table: `sparse` (key -> row of `dim` weights) or `dense` (one tensor of `dim` weights)."""

    name: str
    kind: Literal["sparse", "dense"]
    dim: int
    rule: AnyRule
    bound: int | None = None  # keys are 0..bound-1; None: any 64-bit keys
    init: Initializer = Initializer()
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
