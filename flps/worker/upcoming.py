"""Batches on their way into training: what each of them will look up is worked out some batches ahead.

For several batches at once that takes a fraction of the time, and who fetches rows over the wire needs it early.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flps.nn import Embedding
from flps.nn.embedding import Lookup

Features: TypeAlias = Mapping[str, NDArray[Any]]
_AT_ONCE = 16  # batches whose look-ups are worked out together


class Upcoming(NamedTuple):
    """A batch, and what it looks up in each embedding that names its feature."""

    features: Features
    lookups: Mapping[str, Lookup]  # embedding -> look-up


def embeddings_of(model: nn.Module) -> list[Embedding]:
    """The model's embeddings that say which feature of a batch they look up."""
    return [module for module in model.modules() if isinstance(module, Embedding) and module.feature]


def prepared(batches: Iterable[Features], embeddings: Sequence[Embedding]) -> Iterator[Upcoming]:
    """The batches with their look-ups."""
    stream = iter(batches)
    while together := list(itertools.islice(stream, _AT_ONCE)):
        found = {e.name: e.lookups([_keys(batch, e.feature) for batch in together]) for e in embeddings}
        for n, batch in enumerate(together):
            yield Upcoming(batch, {name: lookups[n] for name, lookups in found.items()})


def with_following(batches: Iterable[Upcoming], lookahead: int) -> Iterator[list[Upcoming]]:
    """Each batch with the `lookahead` batches after it, as far as there are any."""
    window: deque[Upcoming] = deque()
    for batch in batches:
        window.append(batch)
        if len(window) > lookahead:
            yield list(window)
            window.popleft()
    while window:
        yield list(window)
        window.popleft()


def _keys(batch: Features, feature: str) -> NDArray[np.uint64]:
    return batch[feature].reshape(-1).astype(np.int64, copy=False).view(np.uint64)
