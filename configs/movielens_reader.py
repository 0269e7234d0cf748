"""The reader class of the quick start (`train_reader_path: movielens_reader`), for DataLoader and RecDataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset


class RecDataset(IterableDataset):  # type: ignore[type-arg]
    """Samples of some `user,item,label` files, file after file."""

    def __init__(self, file_list: list[str], config: Mapping[str, Any]) -> None:
        """`config` is the yaml, for readers that need it; this one does not."""
        super().__init__()
        self.file_list = file_list

    def __iter__(self) -> Iterator[list[NDArray[np.int64]]]:
        """A sample is three arrays of one element: user, item, label."""
        for path in self.file_list:
            with open(path) as lines:
                for line in lines:
                    if line.strip():
                        yield [np.array([int(field)], np.int64) for field in line.split(",")]
