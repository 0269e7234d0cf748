"""An answer that no message can hold is refused before any of it is made."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest

from flps.errors import Refused
from flps.frames import Limits
from flps.message import Pull
from flps.server.store import Store
from flps.table import TableSpec
from flps.table.rules import Sgd

MIB = 1 << 20
LIMITS = Limits(frames=8, frame_bytes=MIB, message_bytes=2 * MIB)
SPARSE = TableSpec(name="rows", kind="sparse", dim=64, rule=Sgd())
DENSE = TableSpec(name="dense", kind="dense", dim=MIB // 4, rule=Sgd())


def described(*specs: TableSpec) -> list[dict[str, object]]:
    return [msgspec.to_builtins(spec) for spec in specs]


@pytest.fixture
def store() -> Store:
    made = Store(0, 1, keys_max=1 << 24, limits=LIMITS)
    made.declare(described(SPARSE, DENSE))
    return made


def refused(store: Store, pulls: list[Pull]) -> str:
    """Why; and what it cost at most is little."""
    tracemalloc.start()
    with pytest.raises(Refused) as caught:
        store.pull(pulls)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB
    assert len(store.tables[0]) == 0  # type: ignore[arg-type]  # no row was made for it
    return str(caught.value)


def test_rows_that_are_too_many_for_a_frame(store: Store) -> None:
    keys = np.arange(MIB // 256 + 1, dtype=np.uint64)
    assert "an answer of 1048832 bytes is over network.frame_bytes_max, 1048576" in refused(store, [Pull(0, keys)])
    assert store.pull([Pull(0, keys[:-1])])[0].nbytes == MIB


def test_many_small_questions_for_one_large_tensor(store: Store) -> None:
    """A header of a few bytes for each megabyte."""
    assert "an answer of 3145728 bytes is over network.message_bytes_max" in refused(store, [Pull(1, None)] * 3)
    assert "8 tables pulled at once, network.frames_max allows 7" in refused(store, [Pull(1, None)] * 8)
    assert len(store.pull([Pull(1, None)] * 2)) == 2


@pytest.mark.parametrize("spec", [SPARSE, DENSE])
def test_a_table_whose_rows_cannot_travel_is_not_made(spec: TableSpec) -> None:
    store = Store(0, 1, keys_max=9, limits=LIMITS)
    with pytest.raises(Refused, match=r"1073741824 numbers of float32 are over network\.frame_bytes_max"):
        store.declare(described(msgspec.structs.replace(spec, dim=1 << 30)))
    assert store.tables == []


def test_more_tables_than_a_message_can_ask_for() -> None:
    store = Store(0, 1, keys_max=9, limits=LIMITS)
    with pytest.raises(Refused, match=r"8 tables; network\.frames_max allows 7 in a message"):
        store.declare(described(*(msgspec.structs.replace(SPARSE, name=f"t{n}") for n in range(8))))
    assert store.tables == []
