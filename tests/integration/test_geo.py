"""geo: what the servers hold is what they were sent; one worker alone trains as if there were no servers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flps.config import load
from flps.data.train import Sampling, open_train
from flps.models.catalog import resolve, schemas
from flps.remote import Exchanged, Servers
from flps.worker.homes import LocalHome
from flps.worker.parameters import DenseParameter, place
from flps.worker.train import Trainer

OWN_COPY = '''
"""Keeps what this worker has trained, beside what the servers hold."""
from pathlib import Path

import numpy as np

from flps.worker import FLClient


class Keeper(FLClient):
    def finish(self):
        home = self.session._homes["window"]
        home.begin(0, [])
        rows = {p.parameter.spec.name: p.parameter for p in self.session.placed}
        users, items = (np.arange(n, dtype=np.uint64) for n in (60, 40))
        np.savez(
            Path(self.session.job.run_dir) / "own.npz",
            user=rows["user_embedding"].embedding.table.pull(users),
            item=rows["item_embedding"].embedding.table.pull(items),
            dense=rows["dense"].pack.values(),
        )
        super().finish()
'''


def trained_without_servers(config: Any) -> dict[str, Any]:
    """The same job with every table in this process."""
    runner = config.runner
    model = resolve(config.model, "")(config.hyper_parameters, config.seed)
    placed = place(model, config)
    home = LocalHome([p.parameter for p in placed], private=False)
    sampling = Sampling(batch_size=runner.train_batch_size, seed=config.seed, negatives="fixed")
    samples = open_train(runner.train_data_dir, 0, 1, sampling=sampling)
    trainer = Trainer(model, [home])
    for epoch in range(runner.epochs):
        trainer.epoch(epoch, (batch._asdict() for batch in samples.epoch(epoch)), 1000, lambda progress: None)
    users, items = (np.arange(n, dtype=np.uint64) for n in (60, 40))
    dense = next(p.parameter for p in placed if isinstance(p.parameter, DenseParameter))
    return {
        "user": home.tables["user_embedding"].pull(users),  # type: ignore[call-arg]
        "item": home.tables["item_embedding"].pull(items),  # type: ignore[call-arg]
        "dense": dense.pack.values(),
    }


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("servers", [1, 3])
def test_one_worker_trains_as_without_servers(
    shards: Callable[..., Path], federate: Callable[..., Any], tmp_path: Path, rule: str, servers: int
) -> None:
    """Bit for bit in the worker's own copy; the servers' copy, a sum of deltas, up to the last digit."""
    script = tmp_path / "keeper.py"
    script.write_text(OWN_COPY)
    settings = {"runner": {"geo_step": 7}, "hyper_parameters": {"optimizer": {"class": rule}}}
    saved = federate(shards(2), settings, workers=1, servers=servers, trainer=str(script))
    alone = trained_without_servers(load(saved.run_dir / "config.yaml", (), schemas()))
    own, parameters = np.load(saved.run_dir / "own.npz"), saved.parameters()
    for name in ("user", "item", "dense"):
        assert np.array_equal(own[name], alone[name]), name
    for name in ("user", "item"):
        keys = parameters[f"{name}_embedding.keys"].astype(int)
        assert np.allclose(parameters[f"{name}_embedding.values"], alone[name][keys], rtol=1e-6, atol=1e-8)
    assert np.allclose(parameters["dense.values"], alone["dense"], rtol=1e-6, atol=1e-7)


class Windows:
    """Every window that a worker sends, and what came of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, int, int, bool, list[Any], Exchanged]] = []
        original = Servers.window

        def window(servers: Servers, epoch: int, samples: int, final: bool, deltas: Any, tables: Any) -> Exchanged:
            exchanged = original(servers, epoch, samples, final, deltas, tables)
            if deltas:
                worker = threading.current_thread().name
                self.sent.append((worker, epoch, samples, final, deltas, exchanged))
            return exchanged

        monkeypatch.setattr(Servers, "window", window)

    def applied(self, table: int, first: dict[int, Any]) -> dict[int, Any]:
        """First rows plus everything that servers were sent for a sparse table."""
        rows = {key: row.copy() for key, row in first.items()}
        for *_, deltas, exchanged in self.sent:
            for delta, applied in zip(deltas, exchanged.applied, strict=True):
                if delta.table == table:
                    for key, row in zip(delta.keys.tolist(), applied, strict=True):
                        rows[key] += row
        return rows


@pytest.mark.parametrize("weights", ["samples", "uniform"])
@pytest.mark.parametrize("servers", [1, 2])
def test_servers_hold_the_sum_of_what_was_sent(
    shards: Callable[..., Path],
    federate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    servers: int,
) -> None:
    windows = Windows(monkeypatch)
    settings = {
        "runner": {"geo_step": 4, "geo_weights": weights},
        "table_parameters": {name: {"dtype": "float64"} for name in ("user_embedding", "item_embedding", "dense")},
    }
    saved = federate(shards(3), settings, workers=3, servers=servers)
    config = load(saved.run_dir / "config.yaml", (), schemas())
    model = resolve(config.model, "")(config.hyper_parameters, config.seed)
    placed = place(model, config)
    parameters = saved.parameters()
    for number, one in enumerate(placed):
        spec = one.parameter.spec
        if spec.kind == "sparse":
            keys = np.arange(spec.bound, dtype=np.uint64)
            first = dict(enumerate(spec.init.rows(keys, spec.dim, spec.seed, spec.dtype)))
            rows = windows.applied(number, first)
            held = parameters[f"{spec.name}.keys"].tolist()
            assert np.abs(parameters[f"{spec.name}.values"] - [rows[key] for key in held]).max() < 1e-12
        else:
            assert isinstance(one.parameter, DenseParameter)
            total = one.parameter.pack.values()
            for *_, deltas, exchanged in windows.sent:
                total = total + next(a for d, a in zip(deltas, exchanged.applied, strict=True) if d.table == number)
            assert np.abs(parameters["dense.values"] - total).max() < 1e-12


def test_the_last_partial_window_is_sent(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Windows(monkeypatch)
    folder = shards(2)
    federate(folder, {"runner": {"geo_step": 4, "epochs": 2}})
    for rank in (0, 1):
        own = [(epoch, samples, final) for worker, epoch, samples, final, *_ in windows.sent
               if worker == f"worker.{rank}"]  # fmt: skip
        lines = len((folder / "fl_train_data" / f"{rank}.csv").read_text().splitlines())
        steps = -(-lines // 24)
        assert steps % 4, "the test wants a partial window"
        for epoch in (0, 1):
            sizes = [samples for e, samples, _ in own if e == epoch]
            assert len(sizes) == -(-steps // 4)
            assert sizes[:-1] == [4 * 24] * (steps // 4)
            assert sum(sizes) == lines
            assert [final for e, _, final in own if e == epoch] == [False] * (len(sizes) - 1) + [True]


def test_weights_add_up(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """uniform: 1/number of clients; samples: between 0 and 1, and 1 for a client alone."""
    weights: dict[str, list[float]] = {}
    original = Servers._changes_from

    def changes(servers: Servers, *arguments: Any) -> Any:
        answer = original(servers, *arguments)
        assert answer is not None
        weights.setdefault(threading.current_thread().name, []).append(answer.weight)
        return answer

    monkeypatch.setattr(Servers, "_changes_from", changes)
    folder = shards(2)
    federate(folder, {"runner": {"geo_weights": "uniform", "epochs": 1}})
    assert {weight for sent in weights.values() for weight in sent} == {0.5, 0.0}  # 0: a look only
    weights.clear()
    federate(folder, {"runner": {"geo_weights": "samples", "epochs": 1}}, workers=1)
    assert set(weights["worker.0"]) == {1.0, 0.0}
