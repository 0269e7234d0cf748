"""A party's place in a job, as the job's model gets it to build that party's nets and rows."""

from __future__ import annotations

from typing import NamedTuple


class Seat(NamedTuple):
    """Which party this is, of which."""

    number: int  # 0 the leader, 1.. the followers by rank
    names: tuple[str, ...]  # of all parties, the leader first
    columns: tuple[tuple[int, ...], ...] = ()  # of all parties; empty: as the rows' folder says
    seed: int = 0

    @property
    def name(self) -> str:
        """What the others call this party."""
        return self.names[self.number]
