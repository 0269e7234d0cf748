"""What trained nets give for rows, as a table for people: one line a row, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.disk import beside, cannot_write, put_in_place
from flps.errors import DataError
from flps.split.model import FLModel


class Scores:
    """Collects the outputs that have one number a row."""

    def __init__(self, models: Iterable[FLModel]) -> None:
        """models: the nets whose outputs are wanted."""
        self.names = [name for model in models for name in model.yaml_data.eval_net_out_names]
        self._batches: dict[str, list[Tensor]] = {name: [] for name in self.names}

    def clear(self) -> None:
        """Begin anew."""
        for parts in self._batches.values():
            parts.clear()

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """A batch's outputs, each (B,) or (B, 1); those of other shapes are left out."""
        for name in self.names:
            held = outputs[name]
            if held.ndim and held.numel() == len(held):
                self._batches[name].append(held.detach().flatten().cpu())

    def write(self, path: Path, ids: NDArray[Any], name: str = "row_id") -> None:
        """`<name>,<output>,...`, one line for each of `ids` (R,). Raises DataError for another number of scores,
        ResourceError when the disk refuses.
        """
        columns = {name: torch.cat(parts).numpy() for name, parts in self._batches.items() if parts}
        for output, column in columns.items():
            if len(column) != len(ids):
                raise DataError(f"{output} has {len(column)} scores for {len(ids)} rows")
        try:
            pd.DataFrame({name: ids, **columns}).to_csv(beside(path), index=False)
            put_in_place(path)
        except OSError as error:
            raise cannot_write(path, error) from error
