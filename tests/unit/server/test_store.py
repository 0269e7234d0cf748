"""Every wrong push is refused with its numbers, and then nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.checkpoint import FORMAT, MANIFEST, Manifest, write_manifest
from flps.errors import Refused
from flps.message import Pull, Push
from flps.server.store import Store
from flps.table import Adagrad, Adam, Sgd, SparseTable, TableSpec
from flps.table.rules import Momentum

ITEMS = TableSpec(name="items", kind="sparse", dim=2, rule=Adam(0.1), bound=100, dtype="float64")
WORDS = TableSpec(name="words", kind="sparse", dim=3, rule=Sgd(1.0))
DENSE = TableSpec(name="dense", kind="dense", dim=4, rule=Adagrad(0.1), dtype="float64")
SPECS = (ITEMS, WORDS, DENSE)


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def described(*specs: TableSpec) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(spec) for spec in specs]


def store(rank: int = 0, servers: int = 1, *specs: TableSpec) -> Store:
    made = Store(rank, servers, keys_max=5)
    made.declare(described(*(specs or SPECS)))
    return made


def holding(one: Store) -> list[dict[str, Any]]:
    return [table.dump() for table in one.tables]


def same(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(np.array_equal(a[part], b[part], equal_nan=True) for part in a)
        for a, b in zip(one, two, strict=True)
    )


# --- pushes ----------------------------------------------------------------------------------------------------------

GOOD = Push(0, keys(4, 6), np.ones((2, 2)))
WRONG = {
    "there is no table 3; 3 are declared": Push(3, None, np.ones(4)),
    "table items holds float64, got float32": Push(0, keys(4), np.ones((1, 2), np.float32)),
    "table words holds float32, got float64": Push(1, keys(4), np.ones((1, 3))),
    r"table items: values of shape \(1, 2\) were expected, got \(1, 3\)": Push(0, keys(4), np.ones((1, 3))),
    r"table items: values of shape \(2, 2\) were expected, got \(1, 2\)": Push(0, keys(4, 6), np.ones((1, 2))),
    r"values of shape \(1, 2\) were expected, got \(2,\)": Push(0, keys(4), np.ones(2)),
    r"table dense: values of shape \(4,\) were expected, got \(5,\)": Push(2, None, np.ones(5)),
    r"values of shape \(4,\) were expected, got \(1, 4\)": Push(2, None, np.ones((1, 4))),
    "table dense is dense: it has no keys": Push(2, keys(1), np.ones((1, 4))),
    r"table items is sparse: it wants keys of shape \(N,\) and type uint64": Push(0, None, np.ones(2)),
    "table items is sparse: it wants": Push(0, np.array([4], np.int64), np.ones((1, 2))),
    r"wants keys of shape \(N,\)": Push(0, np.array([[4]], np.uint64), np.ones((1, 2))),
    r"table items: key 100 is out of range 0\.\.99": Push(0, keys(2, 100), np.ones((2, 2))),
    f"key {2**64 - 1} is out of range": Push(0, keys(2**64 - 1), np.ones((1, 2))),
    "table items: 6 keys in one message, at most 5 are allowed": Push(0, keys(*range(6)), np.ones((6, 2))),
    "table items: the push holds NaN or Inf": Push(0, keys(4, 6), np.array([[1, 1], [1, np.nan]])),
    "table dense: the push holds NaN or Inf": Push(2, None, np.array([1, -np.inf, 1, 1])),
}


@pytest.mark.parametrize("reason", WRONG)
@pytest.mark.parametrize("place", [0, 1])
def test_a_wrong_push_is_refused_and_nothing_has_changed(reason: str, place: int) -> None:
    one = store()
    one.apply(GOOD)
    before = holding(one)
    with pytest.raises(Refused, match=reason):
        one.accept([GOOD, WRONG[reason]][:: -1 if place else 1])
    assert same(holding(one), before)


@pytest.mark.parametrize("key", [3, 5])
def test_keys_of_another_server_are_refused(key: int) -> None:
    one = store(0, 2)
    one.accept([GOOD])
    with pytest.raises(Refused, match="table items: not all keys belong to server 0 of 2"):
        one.accept([Push(0, keys(4, key), np.ones((2, 2)))])
    with pytest.raises(Refused, match="not all keys belong"):
        one.pull([Pull(0, keys(key))])


@pytest.mark.parametrize(
    "pull", [Pull(9, None), Pull(0, None), Pull(2, keys(0)), Pull(0, keys(100)), Pull(0, keys(*range(6)))]
)
def test_wrong_questions_are_refused_and_make_no_rows(pull: Pull) -> None:
    one = store()
    with pytest.raises(Refused):
        one.pull([Pull(0, keys(1, 2)), pull])
    assert len(one.tables[0]) == 0  # type: ignore[arg-type]


def test_pushes_and_pulls_of_nothing_are_fine() -> None:
    one = store()
    empty = Push(0, keys(), np.empty((0, 2)))
    one.accept([empty, Push(1, keys(), np.empty((0, 3), np.float32))])
    assert one.apply(empty).size == 0
    assert [rows.shape for rows in one.pull([Pull(0, keys()), Pull(2, None)])] == [(0, 2), (4,)]


# --- declaring and starting ------------------------------------------------------------------------------------------


def test_declaring_again_the_same_is_fine_and_tells_what_has_no_values_yet() -> None:
    one = store()
    assert one.declare(described(*SPECS)) == [2]
    one.start([Push(2, None, np.arange(4.0))])
    assert one.declare(described(*SPECS)) == []
    one.start([Push(2, None, np.zeros(4))])  # too late: only the first counts
    assert one.pull([Pull(2, None)])[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ((ITEMS, WORDS), "their number differ"),
        ((ITEMS, WORDS, msgspec.structs.replace(DENSE, dim=5)), "dense differ"),
        ((msgspec.structs.replace(ITEMS, seed=9), WORDS, DENSE), "items differ"),
        ((msgspec.structs.replace(ITEMS, rule=Adam(0.2)), WORDS, DENSE), "items differ"),
        ((WORDS, ITEMS, DENSE), "words, items differ"),
    ],
)
def test_other_tables_than_those_that_stand_are_refused(specs: tuple[TableSpec, ...], reason: str) -> None:
    one = store()
    one.apply(GOOD)
    before = holding(one)
    with pytest.raises(Refused, match=f"{reason}"):
        one.declare(described(*specs))
    assert same(holding(one), before)


@pytest.mark.parametrize(
    "change",
    [{"dim": -1}, {"dim": 2**60}, {"dim": "2"}, {"bound": -1}, {"bound": 2**60}, {"seed": -1}, {"seed": 2**63},
     {"dtype": "object"}, {"dtype": "int8"}, {"kind": "other"}, {"rule": {"type": "eval"}}, {"rule": None},
     {"name": ""}, {"init": {"kind": "normal", "scale": "x"}}],
)  # fmt: skip
def test_descriptions_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    one = Store(0, 1, 5)
    with pytest.raises(Refused, match="cannot make the tables"):
        one.declare([{**described(ITEMS)[0], **change}])
    assert one.tables == []


def test_tables_that_cannot_be_are_refused() -> None:
    one = Store(0, 1, 5)
    with pytest.raises(Refused, match="cannot make the tables"):
        one.declare(described(ITEMS, ITEMS))
    assert one.tables == []
    assert one.declare(described(*SPECS)) == [2]  # a later worker may still be right


def test_first_values_of_a_sparse_table_are_refused_and_nothing_has_started() -> None:
    one = store()
    with pytest.raises(Refused, match="table items is sparse: its rows have first values of their own"):
        one.start([Push(2, None, np.ones(4)), GOOD])
    assert one.declare(described(*SPECS)) == [2]


# --- the mean over the union -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_apply_mean_is_one_push_of_the_mean_over_the_union(samples: list[int], seed: int) -> None:
    """Each sample has its own gradient of some rows and of the dense tensor; workers send means of theirs."""
    rng = np.random.default_rng(seed)
    many, alone = store(), store()
    for one in (many, alone):
        one.start([Push(2, None, np.arange(4.0))])
    whole_rows, whole_dense, steps = np.zeros((5, 2)), np.zeros(4), []
    for count in samples:
        rows, dense = np.zeros((5, 2)), rng.normal(size=(count, 4)).sum(axis=0)
        touched = np.unique(rng.integers(0, 5, count))
        rows[touched] = rng.normal(size=(touched.size, 2))
        whole_rows += rows
        whole_dense += dense
        pushes = [Push(0, touched.astype(np.uint64), rows[touched] / count), Push(2, None, dense / count)]
        many.accept(pushes)
        steps.append((count, pushes))
    many.apply_mean(steps)
    of_union = np.flatnonzero(whole_rows.any(axis=1))
    alone.apply(Push(0, of_union.astype(np.uint64), whole_rows[of_union] / sum(samples)))
    alone.apply(Push(2, None, whole_dense / sum(samples)))
    asked = [Pull(0, keys(*range(5))), Pull(2, None)]
    for one, two in zip(many.pull(asked), alone.pull(asked), strict=True):
        assert one == pytest.approx(two, rel=1e-10, abs=1e-12)


def test_workers_that_pushed_nothing_count_by_their_samples() -> None:
    one = store(0, 1, WORDS)
    first = one.pull([Pull(0, keys(1))])[0]
    one.apply_mean([(1, [Push(0, keys(1), np.full((1, 3), 4, np.float32))]), (3, [])])
    assert one.pull([Pull(0, keys(1))])[0] == pytest.approx(first - 1)
    one.apply_mean([(0, []), (0, [])])


# --- saved and started again at another number of servers ------------------------------------------------------------


def trained(servers: int) -> list[Store]:
    """The shares of `servers` servers after some pushes; the same numbers whatever their count."""
    shares = []
    for rank in range(servers):
        start, stop = 4 * rank // servers, 4 * (rank + 1) // servers
        one = Store(rank, servers, keys_max=50)
        one.declare(described(ITEMS, msgspec.structs.replace(DENSE, rule=Adam(0.1), dim=stop - start)))
        one.start([Push(1, None, np.arange(4.0)[start:stop])])
        for step in range(1, 4):
            mine = np.arange(rank, 40, servers * step, dtype=np.uint64)
            mine = mine[(mine % step == 0) & (mine % servers == rank)]
            one.apply(Push(0, mine, np.outer(mine + 1.0, [step, -step])))
            one.apply(Push(1, None, (np.arange(4.0) * step)[start:stop]))
        shares.append(one)
    return shares


def share_of(rank: int, servers: int) -> list[dict[str, Any]]:
    dim = 4 * (rank + 1) // servers - 4 * rank // servers
    return described(ITEMS, msgspec.structs.replace(DENSE, rule=Adam(0.1), dim=dim))


def everything(shares: list[Store]) -> tuple[dict[int, Any], Any]:
    """Rows with their state by key, and the dense tensor after one more push (so that its state shows)."""
    rows, dense = {}, []
    for one in shares:
        dumped = one.tables[0].dump()
        parts = zip(dumped["values"], *(dumped[f"state.{n}"] for n in range(3)), strict=True)
        rows.update({int(key): np.concatenate(row) for key, row in zip(dumped["keys"], parts, strict=True)})
        block = np.arange(4)[4 * one.rank // one.servers : 4 * (one.rank + 1) // one.servers]
        one.apply(Push(1, None, block - 1.5))
        dense.append(one.pull([Pull(1, None)])[0])
    return rows, np.concatenate(dense)


def save(shares: list[Store], folder: Path) -> None:
    """What a run leaves: the shares, and a manifest that names them."""
    files = {name: digest for one in shares for name, digest in one.save(folder).items()}
    specs = tuple(table.spec for table in shares[0].tables)
    manifest = Manifest(format=FORMAT, epoch=1, model="ncf", hyper_parameters={}, tables=specs, dense={}, files=files)
    write_manifest(folder, manifest)


@pytest.mark.parametrize("now", [1, 2, 3, 5])
@pytest.mark.parametrize("then", [1, 3])
def test_warm_start_gives_the_same_rows_and_state_at_any_number_of_servers(tmp_path: Any, then: int, now: int) -> None:
    before = trained(then)
    save(before, tmp_path)
    again = [Store(rank, now, 50, [tmp_path]) for rank in range(now)]
    assert [one.declare(share_of(one.rank, now)) for one in again] == [[]] * now
    (rows, dense), (rows_again, dense_again) = everything(before), everything(again)
    assert rows.keys() == rows_again.keys()
    assert all(np.array_equal(rows[key], rows_again[key]) for key in rows)
    assert np.array_equal(dense, dense_again)


def test_warm_start_under_another_rule_takes_the_weights(tmp_path: Any) -> None:
    (before,) = trained(1)
    save([before], tmp_path)
    again = Store(0, 1, 50, [tmp_path])
    again.declare([{**spec, "rule": msgspec.to_builtins(Adagrad())} for spec in share_of(0, 1)])
    asked = [Pull(0, keys(*range(40))), Pull(1, None)]
    assert all(map(np.array_equal, before.pull(asked), again.pull(asked)))
    assert not again.tables[0].dump()["state.0"].any()


def test_warm_start_does_not_take_the_state_of_another_rule_for_its_own(tmp_path: Any) -> None:
    """A velocity has the shape of a sum of squares."""
    tables = [msgspec.structs.replace(spec, rule=Momentum(0.1)) for spec in (ITEMS, DENSE)]
    before = Store(0, 1, 50)
    before.declare(described(*tables))
    before.start([Push(1, None, np.arange(4.0))])
    before.apply(Push(0, keys(1), np.full((1, 2), -3.0)))
    before.apply(Push(1, None, np.full(4, -3.0)))
    save([before], tmp_path)
    again = Store(0, 1, 50, [tmp_path])
    again.declare(described(*(msgspec.structs.replace(spec, rule=Adagrad(0.1)) for spec in tables)))
    asked = [Pull(0, keys(1)), Pull(1, None)]
    assert all(map(np.array_equal, before.pull(asked), again.pull(asked)))
    assert not any(table.dump()["state.0"].any() for table in again.tables)


def test_warm_start_refuses_what_does_not_fit_and_makes_no_table(tmp_path: Any) -> None:
    shares = trained(3)
    save(shares[:2], tmp_path)
    asked: dict[str, list[dict[str, Any]]] = {
        "must hold shared-0-of-n to": share_of(0, 1),
    }
    cold = Store(0, 1, 50, [tmp_path])
    for reason, specs in asked.items():
        with pytest.raises(Refused, match=reason):
            cold.declare(specs)
    shares[2].save(tmp_path)
    with pytest.raises(Refused, match=r"shared-2-of-3.safetensors is not in the manifest"):
        cold.declare(share_of(0, 1))
    save(shares, tmp_path)
    for change in ({"dim": 3}, {"bound": 7}):
        with pytest.raises(Refused, match="table items does not fit"):
            cold.declare([{**share_of(0, 1)[0], **change}])
    with pytest.raises(Refused, match="table dense does not fit"):
        cold.declare([share_of(0, 1)[0], {**share_of(0, 1)[1], "dim": 5}])
    assert cold.tables == []
    Store(0, 1, 50).save(tmp_path)  # a share of another number of servers lies there, too
    with pytest.raises(Refused, match="of one n"):
        cold.declare(share_of(0, 1))


def test_warm_start_refuses_what_is_not_what_was_saved(tmp_path: Any) -> None:
    save(trained(2), tmp_path)
    path = tmp_path / "shared-1-of-2.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"shared-1-of-2.safetensors is not what was saved: its sha256 differs"):
        Store(0, 1, 50, [tmp_path]).declare(share_of(0, 1))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(Refused, match=r"is not a saved model: it has no manifest.json"):
        Store(0, 1, 50, [tmp_path]).declare(share_of(0, 1))


def test_warm_start_from_an_empty_folder_is_refused(tmp_path: Any) -> None:
    with pytest.raises(Refused, match="found: none"):
        Store(0, 1, 50, [tmp_path]).declare(share_of(0, 1))


def test_a_table_that_was_not_saved_starts_from_first_values(tmp_path: Any, caplog: Any) -> None:
    save(trained(1), tmp_path)
    one = Store(0, 1, 50, [tmp_path])
    assert one.declare([*share_of(0, 1), *described(WORDS)]) == []
    assert "holds no table words" in caplog.text
    assert np.array_equal(one.pull([Pull(2, keys(3))])[0], SparseTable(WORDS).pull(keys(3)))
