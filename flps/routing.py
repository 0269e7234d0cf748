"""Which server holds what."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def shard_of(keys: NDArray[np.uint64], servers: int) -> NDArray[np.int64]:
    """The server (N,) of each key (N,): key modulo the number of servers."""
    return (keys % np.uint64(servers)).view(np.int64)


def blocks(size: int, servers: int) -> list[slice]:
    """The contiguous block of a dense tensor of `size` numbers that each server holds."""
    edges = [size * rank // servers for rank in range(servers + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
