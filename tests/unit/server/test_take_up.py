"""A checkpoint is taken up by any number of servers, bit for bit; what is not as it was written is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.checkpoint.record import sealed
from flps.checkpoint.run import OwnParts, part_name, state_of
from flps.config.types import Config, Runner
from flps.errors import DataError
from flps.message import Cut, Push, Wrote
from flps.routing import blocks, shard_of
from flps.server.cohort import CohortState
from flps.server.service import ServerState, TableService
from flps.server.store import Store
from flps.server.windows import WindowsState
from flps.table import DenseTable, SparseTable, TableSpec
from flps.table.rules import RULES

CUT = Cut("a checkpoint", 2, 7, (0, 2))
THEN = ServerState(CohortState(2, 7, (0, 1, 2)), WindowsState({0: 40, 1: 2}, {1: 2}))
STATE = ServerState(CohortState(2, 7, (0, 2)), THEN.windows)  # worker 1 is lost: who wrote may not have heard of it
NUMBERS = 300


def specs(rule: str, servers: int = 1, rank: int = 0) -> list[TableSpec]:
    """Tables of all kinds under one rule, as one of so many servers holds them."""
    block = blocks(11, servers)[rank]
    its = RULES[rule]()
    return [
        TableSpec(name="items", kind="sparse", dim=3, rule=its, bound=NUMBERS),
        TableSpec(name="words", kind="sparse", dim=2, rule=its, dtype="float64", memory_bytes_max=4096),
        TableSpec(name="dense", kind="dense", dim=block.stop - block.start, rule=its),
        TableSpec(name="empty", kind="sparse", dim=2, rule=its),
    ]


@pytest.fixture(autouse=True)
def files_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table whose rows lie on the disk lets go of them."""
    made: list[SparseTable] = []
    before = SparseTable.__init__

    def make(table: SparseTable, *args: Any) -> None:
        before(table, *args)
        made.append(table)

    monkeypatch.setattr(SparseTable, "__init__", make)
    yield
    for table in made:
        table.close()


def trained(rule: str) -> Store:
    """One server that holds everything."""
    store = Store(0, 1, keys_max=10_000)
    store.declare([msgspec.to_builtins(spec) for spec in specs(rule)])
    rng = np.random.default_rng(5)
    store.start([Push(2, None, rng.normal(size=11).astype(np.float32))])
    for _ in range(4):
        some = rng.integers(0, NUMBERS, 90).astype(np.uint64)
        store.apply(Push(0, some, rng.normal(size=(90, 3)).astype(np.float32)))
        store.apply(Push(1, some * np.uint64(2**50 + 1), rng.normal(size=(90, 2))))
        store.apply(Push(2, None, rng.normal(size=11).astype(np.float32)))
    return store


def write(store: Store, folder: Path) -> Wrote:
    """Let a server write its part of a checkpoint, as when a worker says so."""
    told: list[Wrote] = []
    is_told = threading.Event()

    def tell(wrote: Wrote) -> None:
        told.append(wrote)
        is_told.set()

    own = OwnParts(folder, part_name("shared", store.rank, store.servers), tell)
    service = TableService(store, Config(runner=Runner()), 3, folder, frozenset, own)
    service.take_up(THEN)
    assert service.state() == THEN
    service._cut(CUT)
    service._cut(CUT)  # every worker says so
    while store.advance():
        pass
    store.finish_snapshot()
    assert is_told.wait(20)
    (wrote,) = told
    return wrote


def taken_up(folder: Path, servers: int) -> list[Store]:
    stores = []
    for rank in range(servers):
        store = Store(rank, servers, keys_max=10_000)
        part = store.take_up(folder / "2-7", CUT.checkpoint)
        assert state_of(folder / "2-7", part, ServerState) == STATE
        stores.append(store)
    return stores


def everything(stores: list[Store]) -> dict[str, Any]:
    """Every number of all servers: rows sorted by key, tensors whole."""
    whole: dict[str, Any] = {}
    for number, table in enumerate(stores[0].tables):
        parts = [store.tables[number].dump() for store in stores]
        for part in parts[0]:
            if isinstance(table, SparseTable):
                order = np.argsort(np.concatenate([dump["keys"] for dump in parts]))
                whole[f"{table.spec.name}.{part}"] = np.concatenate([dump[part] for dump in parts])[order]
            else:
                is_divided = part == "values" or sum(dump[part].size for dump in parts) == 11
                arrays = [dump[part] for dump in parts]
                whole[f"dense.{part}"] = np.concatenate(arrays) if is_divided else arrays[0]
    return whole


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "summary"])
def test_one_server_three_servers_two_servers(tmp_path: Path, rule: str) -> None:
    one = trained(rule)
    first = everything([one])
    stores = [one]
    for number, servers in enumerate((3, 2, 2)):
        folder = tmp_path / str(number)
        for store in stores:
            assert write(store, folder).failure == ""
        stores = taken_up(folder, servers)
        again = everything(stores)
        assert again.keys() == first.keys()
        assert [name for name in first if not np.array_equal(first[name], again[name])] == []
        for rank, store in enumerate(stores):
            assert [table.spec for table in store.tables] == specs(rule, servers, rank)
            assert store.declare([msgspec.to_builtins(spec) for spec in specs(rule, servers, rank)]) == []
            for table in store.tables:
                assert isinstance(table, DenseTable) or set(shard_of(table.keys(), servers).tolist()) <= {rank}


def test_a_server_that_finds_its_own_part_needs_no_other(tmp_path: Path) -> None:
    write(trained("adam"), tmp_path)
    stores = taken_up(tmp_path, 2)
    for store in stores:
        write(store, tmp_path / "two")
    (tmp_path / "two" / "2-7" / "shared-0-of-2.safetensors").unlink()
    alone = Store(1, 2, keys_max=10)
    alone.take_up(tmp_path / "two" / "2-7", CUT.checkpoint)
    assert everything([alone]).keys() == everything([stores[1]]).keys()
    with pytest.raises(DataError, match=r"must hold shared-0-of-n to shared-\(n-1\)-of-n"):
        Store(0, 3, keys_max=10).take_up(tmp_path / "two" / "2-7", CUT.checkpoint)


def spoil_tensors(folder: Path) -> None:
    path = folder / "shared-0-of-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def change_record(**change: Any) -> Any:
    def act(folder: Path) -> None:
        path = folder / "shared-0-of-1.safetensors.json"
        path.write_bytes(sealed({**json.loads(path.read_text()), **change}))

    return act


def change_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_table(**change: Any) -> Any:
    def act(folder: Path) -> None:
        path = folder / "shared-0-of-1.safetensors.json"
        record = json.loads(path.read_text())
        record["tables"][0] |= change
        path.write_bytes(sealed(record))

    return act


WRONG: dict[str, tuple[Any, str]] = {
    "a flipped bit": (spoil_tensors, r"2-7/shared-0-of-1.safetensors is not what was saved: its sha256 differs"),
    "a missing file": (lambda f: (f / "shared-0-of-1.safetensors").unlink(), "must hold shared-0-of-n .* found: none"),
    "no record": (lambda f: (f / "shared-0-of-1.safetensors.json").unlink(), r"safetensors.json is missing"),
    "a record that was cut": (
        lambda f: (f / "shared-0-of-1.safetensors.json").write_text('{"format":'),
        "cannot read .*shared-0-of-1.safetensors.json",
    ),
    "a changed record": (
        lambda f: change_text(f / "shared-0-of-1.safetensors.json", '"epoch": 2', '"epoch": 3'),
        "json is not what was written: its digest differs",
    ),
    "another format": (change_record(format=2), "has format 2, this version reads 1"),
    "another checkpoint": (change_record(checkpoint="b"), r"belongs to checkpoint b .*, not to a checkpoint"),
    "another width": (change_table(dim=4), "table items does not fit: rows of width 4 are wanted"),
    "another rule": (change_table(rule={"type": "adam"}), "table items does not fit: rows of keys, values, state.0"),
    "an unknown rule": (change_table(rule={"type": "magic"}), "cannot read"),
    "another bound": (change_table(bound=5), r"table items does not fit: key \d+ is out of range 0..4"),
    "another type": (change_table(dtype="float64"), "table items does not fit: numbers of float64 are wanted"),
    "a state that is none": (change_record(state={"cohort": 1}), "cannot read the state"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("servers", [1, 2])
def test_what_does_not_fit_is_refused_with_the_reason(tmp_path: Path, what: str, servers: int) -> None:
    spoil, reason = WRONG[what]
    write(trained("adagrad"), tmp_path)
    spoil(tmp_path / "2-7")
    with pytest.raises(DataError, match=reason):
        taken_up(tmp_path, servers)


def test_what_cannot_be_written_is_told_and_the_server_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = trained("sgd")
    before = everything([store])
    wrote = write(store, tmp_path / "file")
    assert (wrote.checkpoint, wrote.sha256) == (CUT.checkpoint, "")
    assert "cannot write a checkpoint into" in wrote.failure
    assert all(np.array_equal(array, everything([store])[name]) for name, array in before.items())
