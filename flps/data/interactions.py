"""Which items a user has: sorted lists behind one another (CSR), and negatives drawn from all the others.

Law: a draw is uniform over the items that are not positives of the user; every other item can come, the last one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flps.data.batch import Ids


@dataclass(frozen=True, eq=False)
class Interactions:
    """Positives of U users over `num_items` items."""

    users: Ids  # (U,) sorted, unique
    indptr: Ids  # (U + 1,): user n has items[indptr[n]:indptr[n + 1]]
    items: Ids  # (P,) sorted and unique within a user
    num_items: int
    _gaps: Ids  # (P,): how many non-positives lie before a positive, raised by the user's index times `_stride`

    @classmethod
    def build(cls, users: Ids, items: Ids, num_items: int) -> Interactions:
        """From (N,) pairs in any order; a pair that comes twice counts once. Items are below `num_items`."""
        stride = num_items + 1
        names, index = np.unique(users, return_inverse=True)
        pairs = np.sort(index.astype(np.int64) * stride + items)  # np.unique hashes, at ten times the cost
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        owners, own_items = pairs // stride, pairs % stride
        indptr = np.searchsorted(owners, np.arange(len(names) + 1))
        gaps = pairs - (np.arange(len(pairs)) - indptr[owners])
        return cls(names.astype(np.int64), indptr.astype(np.int64), own_items, num_items, gaps)

    def of(self, user: int) -> Ids:
        """The sorted items of one user; none for a user who is not here."""
        n = int(np.searchsorted(self.users, user))
        if n == len(self.users) or self.users[n] != user:
            return np.empty(0, np.int64)
        return self.items[self.indptr[n] : self.indptr[n + 1]]

    def index_of(self, users: Ids) -> Ids:
        """(N,) positions in `users` of users that are here."""
        return np.searchsorted(self.users, users).astype(np.int64)

    def open_items(self, index: Ids) -> Ids:
        """(N,) how many items may be drawn as negatives for the users at these positions."""
        return self.num_items - (self.indptr[index + 1] - self.indptr[index])

    def draw(self, rng: np.random.Generator, index: Ids, count: int) -> Ids:
        """(N, count) negatives, with replacement, for the users at positions `index`; -1 where a user has all items.

        No draw is thrown away: a rank r among the user's non-positives becomes the item r + (positives before it).
        """
        space = np.repeat(self.open_items(index), count)
        ranks = (rng.random(len(space)) * space).astype(np.int64)
        found = self.nth_open(np.repeat(index, count), ranks)
        found[space <= 0] = -1
        return found.reshape(len(index), count)

    def nth_open(self, index: Ids, ranks: Ids) -> Ids:
        """(N,) the item that has `ranks` non-positives of its user before it."""
        wanted = index * (self.num_items + 1) + ranks
        before = np.searchsorted(self._gaps, wanted, side="right") - self.indptr[index]
        return ranks + before
