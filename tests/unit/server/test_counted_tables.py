"""Tables with an accessor at a server: what is refused, who is told of what, saves and days that come once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.config.types import Config, Runner
from flps.errors import Refused
from flps.membership import Member
from flps.message import Done, Push, Save, Saved, Settle, Shrink, Update, Window
from flps.server.service import TableService
from flps.server.store import Store
from flps.server.windows import Windows
from flps.table import Accessor, CountedTable, Initializer, Sgd, TableSpec
from flps.table.accessor import CountEntry, Entry
from flps.table.files import read_tables
from flps.table.replica import SparseReplica, servers_spec
from flps.transport.listener import Request, Ticket

ITEMS = TableSpec(
    name="items", kind="sparse", dim=2, rule=Sgd(1.0), init=Initializer("uniform", 0.5), seed=4, dtype="float64",
    accessor=Accessor(delete_threshold=1.0, show_click_decay_rate=0.5),
)  # fmt: skip


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def counts(*rows: tuple[float, ...]) -> Any:
    return np.array([(*row, 0.0)[:3] for row in rows], np.float32)


def store_of(spec: TableSpec = ITEMS) -> Store:
    store = Store(0, 1, 100)
    store.declare([msgspec.to_builtins(spec)])
    return store


def table_of(store: Store) -> CountedTable:
    table = store.tables[0]
    assert isinstance(table, CountedTable)
    return table


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "wants shows and clicks with a push"),
        (np.ones((1, 2), np.float32), r"counts of shape \(1, 3\) and type float32 were expected, got float32 \(1, 2\)"),
        (np.ones((2, 3), np.float32), "counts of shape"),
        (np.ones((1, 3)), "got float64"),
        (counts((1, 2)), "0 <= clicks <= shows"),
        (counts((-1, -1)), "0 <= clicks <= shows"),
        (counts((np.nan, 0)), "0 <= clicks <= shows"),
        (counts((np.inf, 0)), "0 <= clicks <= shows"),
        (counts((1, 0, 0.5)), "slots are whole numbers"),
        (counts((1, 0, 1 << 16)), "slots are whole numbers"),
        (counts((1, 0, -1)), "a slot of at least 0"),
    ],
)
def test_counts_that_cannot_be_are_refused(wrong: Any, says: str) -> None:
    store = store_of()
    with pytest.raises(Refused, match=f"table items.*{says}"):
        store.accept([Push(0, keys(1), np.ones((1, 2)), wrong)])
    store.accept([Push(0, keys(1), np.ones((1, 2)), counts((1, 1)))])


def test_counts_for_a_table_that_counts_nothing_are_refused() -> None:
    with pytest.raises(Refused, match="has no accessor and counts nothing"):
        store_of(msgspec.structs.replace(ITEMS, accessor=None)).accept(
            [Push(0, keys(1), np.ones((1, 2)), counts((1, 1)))]
        )


@pytest.mark.parametrize(
    "wrong",
    [{"entry": {"kind": "count", "count": 0}}, {"entry": {"kind": "other"}}, {"nonclk_coeff": -1}, {"slots": 3}],
)
def test_accessors_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    described = {**msgspec.to_builtins(ITEMS), "accessor": wrong}
    with pytest.raises(Refused, match="cannot make the tables"):
        Store(0, 1, 100).declare([described])


# --- steps -----------------------------------------------------------------------------------------------------------


def test_counts_of_a_cohort_add_up_and_are_not_weighted() -> None:
    store = store_of()
    steps = [
        (3, [Push(0, keys(1, 2), np.ones((2, 2)), counts((2, 1, 1), (3, 0)))]),
        (1, [Push(0, keys(2, 9), np.ones((2, 2)), counts((4, 4, 2), (1, 1)))]),
    ]
    store.apply_mean(steps)
    held = store.tables[0].dump()
    got = {int(key): line[[0, 1, 4, 5]].tolist() for key, line in zip(held["keys"], held["counters"], strict=True)}
    assert got == {1: [2, 1, 1, 1], 2: [7, 4, 2, 1], 9: [1, 1, 0, 1]}


# --- windows ---------------------------------------------------------------------------------------------------------


class Federation:
    """Workers with replicas of one table at one server; every exchange goes through a real window."""

    def __init__(self, entry: Entry | None, workers: int = 2) -> None:
        accessor = msgspec.structs.replace(ITEMS.accessor, entry=entry)
        self.spec = msgspec.structs.replace(ITEMS, accessor=accessor)
        self.store = store_of(servers_spec(self.spec))
        self.windows = Windows(self.store, workers, "uniform")
        self.replicas = [SparseReplica(self.spec) for _ in range(workers)]
        self.cursors = [0] * workers
        self.day = 0

    def train(self, rank: int, *which: int) -> None:
        self.replicas[rank].push(keys(*which), np.full((len(which), 2), 1.0 + rank), unique=True)

    def exchange(self, rank: int) -> None:
        replica = self.replicas[rank]
        which, delta = replica.delta()
        push = Push(0, which, delta, np.tile(counts((4, 3)), (which.size, 1)))
        answer = self.windows.take(rank, Window(0, 1, False, (push,), {0: self.cursors[rank]}))
        replica.sent(which, delta * answer.weight)
        self.cursors[rank] = answer.cursors[0]
        for changed in answer.changed:
            assert changed.keys is not None
            replica.receive(changed.keys, changed.values)

    def shrink(self) -> None:
        self.day += 1
        for table, gone in self.store.shrink(self.day, True).items():
            self.windows.forget_rows(table, gone)

    def expect_agreement(self) -> None:
        """Everyone who has just looked knows the servers' rows."""
        every = np.arange(12, dtype=np.uint64)
        for replica in self.replicas:
            assert replica.servers_view.pull(every) == pytest.approx(table_of(self.store).pull(every), abs=1e-12)


def test_who_sends_rows_that_are_not_let_in_takes_them_back() -> None:
    federation = Federation(CountEntry(2))
    first = table_of(federation.store).pull(keys(3))
    federation.train(0, 3)
    federation.exchange(0)
    assert np.array_equal(federation.replicas[0].servers_view.pull(keys(3)), first)
    federation.train(1, 3)
    federation.exchange(1)  # the second push lets it in
    assert not np.array_equal(federation.replicas[1].servers_view.pull(keys(3)), first)
    federation.exchange(0)
    federation.expect_agreement()


def test_everybody_is_told_of_rows_that_are_gone() -> None:
    federation = Federation(None)
    for rank in (0, 1):
        federation.train(rank, 1, 2 + rank)
        federation.exchange(rank)
    federation.exchange(0)
    federation.expect_agreement()
    federation.shrink()  # key 1 was pushed twice: a score of 6.2 / 2 stays; the others' 3.1 / 2 stays, too
    assert table_of(federation.store).keys().size == 3
    federation.shrink()
    assert table_of(federation.store).keys().tolist() == [1]
    federation.train(0, 2)
    for rank in (0, 1, 0):
        federation.exchange(rank)
    federation.expect_agreement()
    assert federation.windows._gone == {0: []}  # everybody has seen it


@given(
    st.sampled_from([None, CountEntry(2), CountEntry(4)]),
    st.lists(st.tuples(st.sampled_from(["train", "exchange", "shrink"]), st.integers(0, 1), st.integers(0, 11))),
)
@settings(max_examples=60, deadline=None)
def test_workers_and_server_agree_after_any_sequence(entry: Any, events: list[tuple[str, int, int]]) -> None:
    federation = Federation(entry)
    for what, rank, key in events:
        if what == "train":
            federation.train(rank, key, (key + 5) % 12)
        elif what == "exchange":
            federation.exchange(rank)
        else:
            federation.shrink()
    for rank in (0, 1, 0, 1):  # what is trained is sent, then everybody looks
        federation.exchange(rank)
    federation.expect_agreement()


# --- saves and days --------------------------------------------------------------------------------------------------


class Server:
    """A service of one server in async."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(0, 1, 100)
        config = Config(runner=Runner(sync_mode="async"))
        self.service = TableService(self.store, config, 1, folder, frozenset)
        self.store.declare([msgspec.to_builtins(ITEMS)])
        self.folder = folder

    def say(self, body: Any) -> Any:
        return self.service.handle(Request(Ticket(Member("worker", 0), 1, 1), body), 0.0)[0][1]

    def push(self, *which: int) -> None:
        push = Push(0, keys(*which), np.ones((len(which), 2)), np.tile(counts((4, 3)), (len(which), 1)))
        self.say(Update(0, 0, 1, False, (push,), ()))

    def save(self, epoch: int, mode: Any) -> list[int]:
        answer = self.say(Save(epoch, mode))
        assert isinstance(answer, Saved)
        (name,) = answer.files
        saved: list[int] = sorted(read_tables(self.folder / str(epoch) / name)["items"]["keys"].tolist())
        return saved


def test_a_delta_begins_anew_when_the_model_is_complete(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.push(1, 2)
    assert server.save(1, "delta") == [1, 2]
    assert server.save(1, "delta") == [1, 2]  # nobody said that the first one was complete
    files = server.say(Save(1, "delta"))
    for _ in range(2):
        assert server.say(Settle(1, "delta")) == Done()
    assert server.say(Save(1, "delta")) == files  # and its file stays as it is
    server.push(2)
    assert server.save(2, "delta") == [2]
    assert server.save(3, "base") == server.save(4, "all") == [1, 2]


def test_a_day_comes_once(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.push(1)
    for _ in range(3):
        assert server.say(Shrink(5, True)) == Done()
    (line,) = server.store.tables[0].dump()["counters"]
    assert line[:4].tolist() == pytest.approx([2, 1.5, 3.1, 1])
    server.say(Settle(1, "batch"))
    server.say(Settle(1, "batch"))
    assert server.store.tables[0].dump()["counters"][0, 3] == 2


def test_looking_makes_no_row() -> None:
    store = store_of()
    table_of(store).pull(keys(1, 2, 3))
    assert len(table_of(store)) == 0
