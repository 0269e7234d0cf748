"""geo windows by hand: what is sent when, what comes back, and which copy the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from flps.message import Push
from flps.nn import DensePack, Embedding
from flps.remote import Exchanged
from flps.table import Initializer, Sgd, TableSpec
from flps.worker.homes import Step
from flps.worker.parameters import DenseParameter, SparseParameter
from flps.worker.windows import WindowHome

ROWS = TableSpec(name="rows", kind="sparse", dim=2, rule=Sgd(1.0), init=Initializer("zeros"), bound=10)
DENSE = TableSpec(name="dense", kind="dense", dim=3, rule=Sgd(1.0))
MORE: Any = [object()]  # a batch follows


class Model(nn.Module):
    """Two parameters whose gradients a test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Embedding("rows", 2, rows=10, init=Initializer("zeros"))
        self.weight = nn.Parameter(torch.zeros(3))

    def backward(self, keys: Sequence[int], row_gradient: float, dense_gradient: float) -> None:
        loss = dense_gradient * self.weight.sum()
        if keys:
            loss = loss + row_gradient * self.rows(torch.tensor(keys)).sum()
        loss.backward()

    def seen(self, key: int) -> list[float]:
        """The row of a key, as the model sees it now."""
        with torch.no_grad():
            row: list[float] = self.rows(torch.tensor([key]))[0].tolist()
        return row


class Shared:
    """Stands in for the servers: takes windows with a weight, and tells what a test wants told."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.changed: list[Push] = []
        self.refuses = False
        self.asked: list[tuple[int, int, bool]] = []
        self.deltas: list[list[Push]] = []
        self.rows: dict[int, NDArray[Any]] = {key: np.zeros(2, np.float32) for key in range(10)}
        self.dense = np.zeros(3, np.float32)

    def window(self, epoch: int, samples: int, final: bool, deltas: Sequence[Push], tables: Sequence[int]) -> Exchanged:
        assert list(tables) == [0, 1]
        self.asked.append((epoch, samples, final))
        self.deltas.append(list(deltas))
        weight = 0.0 if self.refuses else self.weight
        applied = [delta.values * np.float32(weight) for delta in deltas] if weight else [
            np.zeros_like(delta.values) for delta in deltas
        ]  # fmt: skip
        for delta, values in zip(deltas, applied, strict=True):
            if delta.keys is None:
                self.dense = self.dense + values
            else:
                for key, row in zip(delta.keys.tolist(), values, strict=True):
                    self.rows[key] = self.rows[key] + row
        changed, self.changed = self.changed, []
        return Exchanged(applied, changed, self.refuses)


class Worker:
    """A model, its home, and stand-ins for the servers."""

    def __init__(self, geo_step: int = 2, weight: float = 1.0) -> None:
        self.model = Model()
        self.servers = Shared(weight)
        parameters = [
            SparseParameter(self.model.rows, ROWS),
            DenseParameter(DensePack(self.model, ["weight"]), DENSE),
        ]
        self.home = WindowHome(parameters, self.servers, {"rows": 0, "dense": 1}, geo_step)  # type: ignore[arg-type]
        self.home.begin(0, [])
        self._step = 0

    def step(self, *keys: int, row: float = 1.0, dense: float = 1.0, samples: int = 5, last: bool = False) -> None:
        self.model.backward(keys, row, dense)
        step, upcoming = Step(0, self._step, samples), [] if last else MORE
        self.home.send(step, upcoming)
        self.home.receive(step, upcoming)
        self._step += 1

    def sent(self, window: int = -1) -> tuple[dict[int, list[float]], list[float]]:
        """Rows by key, and the dense values, of a window."""
        rows, dense = self.servers.deltas[window]
        assert rows.keys is not None
        return dict(zip(rows.keys.tolist(), rows.values.tolist(), strict=True)), dense.values.tolist()


def test_a_window_is_sent_each_geo_step_and_the_last_partial_one_at_the_end() -> None:
    worker = Worker(geo_step=2)
    for _ in range(4):
        worker.step(1)
    worker.step(1, samples=3, last=True)
    assert worker.servers.asked == [(0, 10, False), (0, 10, False)]
    worker.home.end(0)
    assert worker.servers.asked[2:] == [(0, 3, True)]


def test_the_last_step_of_an_epoch_goes_with_the_final_window() -> None:
    """Two windows in a row, one of them empty, would weigh this client twice."""
    worker = Worker(geo_step=2)
    worker.step(1)
    worker.step(1, last=True)
    worker.home.end(0)
    assert worker.servers.asked == [(0, 10, True)]


def test_a_client_without_a_batch_still_says_that_it_is_through() -> None:
    worker = Worker()
    worker.home.end(3)
    assert worker.servers.asked == [(3, 0, True)]
    assert worker.sent() == ({}, [0, 0, 0])


def test_what_was_trained_since_the_last_window_is_sent() -> None:
    worker = Worker(geo_step=2)
    worker.step(1, 2)
    worker.step(2, 2, dense=0.5)
    assert worker.sent() == ({1: [-1, -1], 2: [-3, -3]}, [-1.5, -1.5, -1.5])
    worker.step(4)
    worker.step(4)
    assert worker.sent() == ({4: [-2, -2]}, [-2, -2, -2])


def test_what_the_weight_kept_back_goes_with_the_next_window_of_that_row() -> None:
    worker = Worker(geo_step=1, weight=0.25)
    worker.step(1)
    worker.step(7)
    worker.step(1)
    assert [worker.sent(n)[0] for n in range(3)] == [{1: [-1, -1]}, {7: [-1, -1]}, {1: [-1.75, -1.75]}]
    assert [worker.sent(n)[1][0] for n in range(3)] == [-1, -1.75, -2.3125]


def test_what_others_changed_moves_the_own_copy_by_as_much() -> None:
    worker = Worker(geo_step=1)
    keys = np.array([1, 5], np.uint64)
    worker.servers.changed = [
        Push(0, keys, np.array([[9, 9], [4, 4]], np.float32)),
        Push(1, np.array([2], np.uint64), np.array([6], np.float32)),
    ]
    worker.step(1)
    # The servers held -1 of this worker's window, and now hold 9: others added 10.
    assert worker.model.seen(1) == [9, 9]
    assert worker.model.seen(5) == [4, 4]
    assert worker.model.weight.tolist() == [-1, -1, 6]
    worker.step(5, row=0.0, dense=0.0)
    assert worker.sent() == ({5: [0, 0]}, [0, 0, 0])  # of others nothing is sent back


def test_the_model_sees_its_own_copy_in_training_and_the_servers_when_it_is_measured() -> None:
    worker = Worker(geo_step=1, weight=0.5)
    worker.step(1)
    assert worker.model.seen(1) == [-1, -1]
    assert worker.model.weight.tolist() == [-1, -1, -1]
    worker.servers.changed = [Push(0, np.array([3], np.uint64), np.array([[8, 8]], np.float32))]
    worker.home.refresh()
    assert worker.servers.asked[-1] == (0, 0, False)
    assert worker.servers.deltas[-1] == []
    assert [worker.model.seen(key) for key in (1, 3)] == [[-0.5, -0.5], [8, 8]]
    assert worker.model.weight.tolist() == [-0.5, -0.5, -0.5]
    worker.home.begin(1, [])
    assert [worker.model.seen(key) for key in (1, 3)] == [[-1, -1], [8, 8]]
    assert worker.model.weight.tolist() == [-1, -1, -1]


def test_a_refused_window_is_sent_again() -> None:
    worker = Worker(geo_step=1)
    worker.servers.refuses = True
    worker.step(1)
    worker.servers.refuses = False
    worker.step(2)
    assert worker.sent() == ({1: [-1, -1], 2: [-1, -1]}, [-2, -2, -2])


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_forgotten_when_it_was_refused(bad: float) -> None:
    worker = Worker(geo_step=2)
    worker.servers.refuses = True
    worker.step(1)
    worker.step(2, row=bad, dense=bad)
    worker.servers.refuses = False
    assert worker.model.seen(2) == [0, 0]
    assert worker.model.weight.tolist() == [0, 0, 0]
    worker.step(4)
    worker.step(4)
    assert worker.sent() == ({1: [-1, -1], 4: [-2, -2]}, [-2, -2, -2])


steps = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=3), st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12
)


@given(steps, st.integers(1, 5), st.sampled_from([1.0, 0.5]))
def test_the_servers_hold_what_the_worker_takes_them_to_hold(
    trained: list[tuple[list[int], int, int]], geo_step: int, weight: float
) -> None:
    """Alone and with weight 1 that is the worker's own copy; numbers here are exact in binary."""
    worker = Worker(geo_step, weight)
    for keys, row, dense in trained:
        worker.step(*keys, row=row, dense=dense)
    worker.home.end(0)
    own = [worker.model.seen(key) for key in range(10)], worker.model.weight.tolist()
    worker.home.refresh()
    seen = [worker.model.seen(key) for key in range(10)], worker.model.weight.tolist()
    assert seen == ([worker.servers.rows[key].tolist() for key in range(10)], worker.servers.dense.tolist())
    if weight == 1.0:
        assert own == seen
        assert own[1] == [-sum(dense for _, _, dense in trained)] * 3
