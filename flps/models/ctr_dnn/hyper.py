"""The hyper parameters of the CTR-DNN between two parties, as the yaml says them. Imports no torch."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from flps.models.ncf.hyper import NcfOptimizer

Size = Annotated[int, Meta(ge=1, le=65536)]
Widths = Annotated[tuple[Size, ...], Meta(min_length=1, max_length=64)]


class CtrDnnHyperParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the two parties' nets; the names are those of the original's example."""

    optimizer: Annotated[NcfOptimizer, Meta(description="Optimizer of tables and dense layers.")] = NcfOptimizer()
    sparse_feature_number: Annotated[
        int, Meta(ge=1, le=2**40, description="Keys of the embedding; an id of a slot is below this number.")
    ] = 1_000_001
    sparse_feature_dim: Annotated[Size, Meta(description="Numbers of a row of the embedding.")] = 10
    sparse_inputs_slots: Annotated[
        int, Meta(ge=2, le=65536, description="Sparse slots and the label, as the original counts: 27 are 26 slots.")
    ] = 27
    dense_input_dim: Annotated[Size, Meta(description="Dense columns.")] = 13
    fc_sizes_a: Annotated[
        Widths, Meta(description="Widths of party A's layers over its rows; the last is the cut's.")
    ] = (5, 7)
    fc_sizes_b: Annotated[
        Widths, Meta(description="Widths of party B's layers over its dense columns; the last is the cut's.")
    ] = (6, 7)

    def __post_init__(self) -> None:
        if self.fc_sizes_a[-1] != self.fc_sizes_b[-1]:
            raise ValueError(
                f"fc_sizes_a ends with {self.fc_sizes_a[-1]} and fc_sizes_b with {self.fc_sizes_b[-1]}; the two are "
                "added up at the cut, so give both the same last width"
            )
