"""geo at the server: weights of clients by tables of windows, and who is told of what."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from flps.errors import Refused
from flps.frames import Limits
from flps.message import Changes, Pull, Push, Window
from flps.server.store import Store
from flps.server.windows import Windows
from flps.table import Initializer, Sum, TableSpec

ROWS = TableSpec(name="items", kind="sparse", dim=1, rule=Sum(), bound=50, init=Initializer("zeros"), dtype="float64")
DENSE = TableSpec(name="dense", kind="dense", dim=2, rule=Sum(), dtype="float64")


def made(workers: int, weights: Any = "samples") -> tuple[Store, Windows]:
    store = Store(0, 1, 100)
    store.declare([msgspec.to_builtins(ROWS), msgspec.to_builtins(DENSE)])
    store.start([Push(1, None, np.zeros(2))])
    return store, Windows(store, workers, weights)


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def delta(*numbers: int) -> tuple[Push, ...]:
    return (Push(0, keys(*numbers), np.ones((len(numbers), 1))),)


# (rank, epoch, samples, final, weight) sends a window and gets this weight; ("drop", rank)
WEIGHTS: dict[str, tuple[str, list[Any]]] = {
    "alone": ("samples", [("drop", 1), ("drop", 2), (0, 0, 10, False, 1.0), (0, 0, 7, True, 1.0)]),
    "who was not heard of is like this one": ("samples", [(0, 0, 10, False, 1 / 3), (1, 0, 30, False, 30 / 70)]),
    "by samples": (
        "samples", [(0, 0, 10, False, 1 / 3), (1, 0, 10, False, 1 / 3), (2, 0, 80, False, 0.8), (0, 0, 10, False, 0.1)],
    ),
    "a client's last window counts": (
        "samples",
        [(0, 0, 10, False, 1 / 3), (1, 0, 10, False, 1 / 3), (2, 0, 20, False, 0.5), (2, 0, 60, False, 0.75)],
    ),
    "who sent its last window rests": (
        "samples", [(0, 0, 10, True, 1 / 3), (1, 0, 10, False, 1 / 2), (2, 0, 30, False, 0.75), (1, 0, 10, True, 0.25),
                    (2, 0, 5, False, 1.0)],
    ),
    "and wakes with the next epoch": (
        "samples", [(0, 0, 10, True, 1 / 3), (1, 0, 10, True, 1 / 2), (2, 0, 20, True, 1.0), (2, 1, 20, False, 0.5)],
    ),
    "one still in the last epoch does not count those ahead as resting": (
        "samples",
        [(0, 0, 10, True, 1 / 3), (1, 0, 10, True, 1 / 2), (1, 1, 10, False, 1 / 3), (2, 0, 30, False, 0.75)],
    ),
    "who began anew counts again with its first window": (
        "samples", [(0, 0, 10, False, 1 / 3), (1, 0, 70, False, 70 / 150), ("rest", 1), (0, 0, 10, False, 0.5),
                    (1, 1, 30, False, 30 / 70)],
    ),
    "who is lost does not count": (
        "samples", [(0, 0, 10, False, 1 / 3), (1, 0, 70, False, 70 / 150), ("drop", 1), (0, 0, 10, False, 0.5)],
    ),
    "an empty last window": ("samples", [(0, 0, 0, True, 0.0), (1, 0, 10, False, 0.5)]),
    "looking weighs nothing and changes nothing": (
        "samples", [(0, 0, 0, False, 0.0), (1, 0, 10, False, 1 / 3), (0, 0, 0, False, 0.0), (2, 0, 10, False, 1 / 3)],
    ),
    "uniform": (
        "uniform", [(0, 0, 10, False, 1 / 3), (1, 0, 999, True, 1 / 3), (2, 0, 1, False, 1 / 3), ("drop", 0),
                    (2, 0, 1, True, 0.5), ("drop", 1), (2, 1, 1, True, 1.0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", WEIGHTS)
def test_weights(story: str) -> None:
    weights, events = WEIGHTS[story]
    _, windows = made(3, weights)
    for event in events:
        if event[0] in ("drop", "rest"):
            getattr(windows, event[0])(event[1])
            continue
        rank, epoch, samples, final, weight = event
        assert windows.take(rank, Window(epoch, samples, final, (), {})).weight == pytest.approx(weight)


def test_weights_of_one_window_of_all_add_up_to_one() -> None:
    samples = [5, 40, 13, 7, 2]
    _, windows = made(5)
    for _ in range(2):  # in the first round not everybody has been heard of
        weights = [windows.take(rank, Window(0, count, False, (), {})).weight for rank, count in enumerate(samples)]
    assert sum(weights) == pytest.approx(1)


def test_deltas_are_added_by_their_weight_and_the_others_are_told() -> None:
    store, windows = made(2)
    everything = {0: 0, 1: 0}
    first = windows.take(0, Window(0, 30, False, (*delta(3, 4), Push(1, None, np.array([8.0, 4.0]))), everything))
    assert first.weight == 0.5
    assert first.changed == ()
    assert [rows.tolist() for rows in store.pull([Pull(0, keys(3, 4, 5)), Pull(1, None)])] == [
        [[0.5], [0.5], [0]],
        [4, 2],
    ]
    second = windows.take(1, Window(0, 10, False, delta(4), everything))
    assert second.weight == 0.25
    told = {push.table: push for push in second.changed}
    assert {3, 4} <= set(told[0].keys.tolist())  # a newcomer may be told of every row  # type: ignore[union-attr]
    assert told[1].values.tolist() == [4, 2]
    assert told[1].keys is None
    third = windows.take(0, Window(0, 30, False, (), first.cursors))
    assert [(push.table, push.keys.tolist(), push.values.tolist()) for push in third.changed] == [(0, [4], [[0.75]])]
    assert windows.take(0, Window(0, 0, False, (), third.cursors)).changed == ()


def test_each_worker_ends_up_with_what_the_server_holds() -> None:
    """Three workers that apply what they are told, in any order of windows, know the table at the end."""
    store, windows = made(3)
    rng = np.random.default_rng(4)
    knows: list[dict[int, float]] = [{} for _ in range(3)]
    cursors: list[dict[int, int]] = [{0: 0} for _ in range(3)]

    def exchange(rank: int, deltas: tuple[Push, ...], samples: int) -> None:
        answer = windows.take(rank, Window(0, samples, False, deltas, cursors[rank]))
        for push in deltas:
            for key, value in zip(push.keys.tolist(), push.values, strict=True):  # type: ignore[union-attr]
                knows[rank][key] = knows[rank].get(key, 0.0) + answer.weight * float(value[0])
        for push in answer.changed:
            knows[rank].update(zip(push.keys.tolist(), push.values[:, 0].tolist(), strict=True))  # type: ignore[union-attr]
        cursors[rank] = dict(answer.cursors)

    for _ in range(60):
        numbers = rng.permutation(50)[: rng.integers(0, 30)]
        exchange(int(rng.integers(0, 3)), delta(*numbers), int(rng.integers(1, 50)))
    for rank in range(3):
        exchange(rank, (), 0)
        assert all(store.pull([Pull(0, keys(key))])[0] == pytest.approx(value) for key, value in knows[rank].items())
    assert knows[0].keys() == knows[1].keys() == knows[2].keys()


@pytest.mark.parametrize(
    ("deltas", "cursors"),
    [
        ((*delta(3), Push(0, keys(4), np.full((1, 1), np.nan))), {}),
        ((*delta(3), Push(0, keys(50), np.ones((1, 1)))), {}),
        ((*delta(3), Push(7, None, np.ones(2))), {}),
        (delta(3), {0: 0, 9: 0}),
    ],
)
def test_a_refused_window_changes_nothing(deltas: tuple[Push, ...], cursors: dict[int, int]) -> None:
    store, windows = made(2)
    windows.take(1, Window(0, 10, False, delta(1), {0: 0}))
    before = store.tables[0].dump()
    with pytest.raises(Refused):
        windows.take(0, Window(0, 990, True, deltas, cursors))
    assert all(np.array_equal(part, before[name]) for name, part in store.tables[0].dump().items())
    again = windows.take(1, Window(0, 10, False, (), {0: 0}))
    assert isinstance(again, Changes)
    assert again.weight == 0.5  # worker 0 has not been heard of


def test_what_a_peer_says_of_versions_it_has_seen_is_harmless() -> None:
    _, windows = made(2)
    windows.take(0, Window(0, 10, False, delta(1), {0: 0}))
    ahead = windows.take(1, Window(0, 10, False, (), {0: 2**53}))
    assert ahead.changed == ()
    windows.take(0, Window(0, 10, False, delta(2), {0: 1}))
    assert windows.take(1, Window(0, 10, False, (), ahead.cursors)).changed[0].keys.tolist() == [2]  # type: ignore[union-attr]


def test_who_began_anew_is_told_of_its_own_changes_too() -> None:
    _, windows = made(2)
    windows.take(0, Window(0, 1, False, delta(3), {0: 0}))
    cursor = windows.take(1, Window(0, 1, False, delta(4), {0: 0})).cursors[0]
    windows.rest(0)
    told = windows.take(0, Window(0, 0, False, (), {0: 0})).changed[0].keys
    assert told is not None
    assert set(told.tolist()) == {3, 4}
    assert windows.take(1, Window(0, 0, False, (), {0: cursor})).changed == ()


def test_whoever_goes_on_from_an_image_takes_every_row_once() -> None:
    store, windows = made(2)
    cursors = windows.take(0, Window(0, 1, False, delta(3, 4), {0: 0})).cursors
    later = Windows(store, 2, "samples")
    later.take_up(windows.state())
    later.take_up_versions(windows.versions())
    told = later.take(0, Window(0, 0, False, (), cursors))
    assert told.changed[0].keys is not None
    assert told.changed[0].keys.tolist() == [3, 4]
    assert told.cursors[0] > cursors[0]
    assert later.take(0, Window(0, 0, False, (), told.cursors)).changed == ()


def test_more_rows_than_a_message_holds_come_in_pieces() -> None:
    """And what changes meanwhile is told afterwards; the answer is never refused when the deltas have been added."""
    limits = Limits(frame_bytes=1024, message_bytes=4096)  # 128 rows of 8 bytes
    store = Store(0, 1, 1000, limits=limits)
    store.declare([msgspec.to_builtins(msgspec.structs.replace(ROWS, bound=1000))])
    windows = Windows(store, 2, "uniform")
    everyone = np.arange(300, dtype=np.uint64)
    windows.take(1, Window(0, 1, False, (Push(0, everyone, np.ones((300, 1))),), {0: 0}))
    answer = windows.take(0, Window(0, 1, False, (Push(0, keys(7), np.ones((1, 1))),), {0: 0}))
    cursors, told = answer.cursors, [answer]
    while answer.more:
        assert answer.changed[-1].values.nbytes <= limits.frame_bytes
        windows.take(1, Window(0, 1, False, (Push(0, keys(3, 299), np.ones((2, 1))),), {}))
        answer = windows.take(0, Window(0, 0, False, (), {0: 0}, answer.more))
        assert answer.cursors == {}
        told.append(answer)
    seen = {int(k): float(v[0]) for one in told for push in one.changed for k, v in zip(push.keys, push.values, strict=True)}  # type: ignore[arg-type]  # fmt: skip  # noqa: E501
    assert len(told) == 3
    assert sorted(seen) == list(range(300))
    last = windows.take(0, Window(0, 0, False, (), cursors))
    assert last.changed[0].keys.tolist() == [3, 299]  # type: ignore[union-attr]
    assert store.pull([Pull(0, keys(3))])[0].tolist() == last.changed[0].values[:1].tolist()
