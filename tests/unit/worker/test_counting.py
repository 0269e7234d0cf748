"""Workers count: windows gather what their steps counted, private tables count for themselves, the yaml says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from flps.config import load
from flps.config.types import Config
from flps.errors import ConfigError
from flps.nn import Embedding, PrivateTable
from flps.privacy import reveal
from flps.table import Accessor
from flps.table.accessor import CountEntry, ProbabilityEntry, ShowClickEntry
from flps.table.files import TensorFile
from flps.table.snapshot import Snapshot
from flps.worker.homes import LocalHome, Step
from flps.worker.parameters import SparseParameter, place
from flps.worker.windows import SparseWindow


class Model(nn.Module):
    """One table and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.items = Embedding("items", 2, rows=20, feature="item")
        self.head = nn.Linear(2, 1)


def placed(accessor: Any, **table: Any) -> SparseParameter:
    said = {"table_parameters": {"items": {"accessor": accessor, **table}}}
    parameter = place(Model(), msgspec.convert(said, Config))[0].parameter
    assert isinstance(parameter, SparseParameter)
    return parameter


def forward(parameter: SparseParameter, keys: list[int], labels: list[int]) -> None:
    parameter.embedding.labels = np.array(labels)
    parameter.embedding(torch.tensor(keys)).sum().backward()


def accessor_of(said: Any) -> Accessor:
    accessor = placed(said).spec.accessor
    assert accessor is not None
    return accessor


def test_what_the_yaml_says_arrives() -> None:
    assert placed(None).spec.accessor is None
    assert not placed(None).embedding.is_counted
    assert placed({}).embedding.is_counted
    assert accessor_of({}) == Accessor()
    said = {"nonclk_coeff": 0.5, "slots": ["a", "b"], "show_scale": True, "delete_after_unseen_days": 3}
    assert accessor_of(said) == Accessor(
        nonclk_coeff=0.5, slots=("a", "b"), show_scale=True, delete_after_unseen_days=3
    )
    entries = [{"kind": "count", "count": 3}, {"kind": "probability", "probability": 0.5}, {"kind": "show_click"}]
    assert [accessor_of({"entry": entry}).entry for entry in entries] == [
        CountEntry(3), ProbabilityEntry(0.5), ShowClickEntry(10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{kind: count}", "count is missing: an entry of the kind count needs it"),
        ("{kind: count, count: 0}", "count: expected an integer of at least 1"),
        ("{kind: probability, probability: 2}", "probability: expected a number of at least 0 and of at most 1, got 2"),
        ("{kind: show_click, count: 3}", "count has no effect: an entry of the kind show_click knows threshold"),
        ("{kind: often}", "kind: expected one of count, probability, show_click, got 'often'"),
        ("{count: 3}", "entry.kind: is missing"),
    ],
)
def test_entries_that_mean_nothing_are_refused(tmp_path: Path, entry: str, says: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"runner:\n  train_data_dir: x\ntable_parameters:\n  items:\n    accessor:\n      entry: {entry}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("key", ["save_mode: delta", "save_mode: 3", "shrink_interval: 2"])
def test_days_and_modes_need_an_accessor(tmp_path: Path, key: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"runner:\n  train_data_dir: x\n  {key}\n")
    with pytest.raises(ConfigError, match="has no effect: no table has an accessor"):
        load(path)
    path.write_text(path.read_text() + "table_parameters:\n  items:\n    accessor: {}\n")
    assert load(path).runner.saves in ("delta", "batch", "all")


def test_a_dense_table_counts_nothing() -> None:
    said = {"table_parameters": {"dense": {"accessor": {}}}}
    with pytest.raises(ConfigError, match=r"table_parameters.dense.accessor has no effect"):
        place(Model(), msgspec.convert(said, Config))


def test_a_window_gathers_what_its_steps_counted(tmp_path: Path) -> None:
    parameter = placed({}, learning_rate=0.1)
    window = SparseWindow(parameter, 3)
    window.show_own()
    forward(parameter, [4, 2, 4], [1, 1, 0])
    window.step()
    forward(parameter, [9, 4], [0, 1])
    window.step()
    path, outcome = tmp_path / "part.safetensors", []
    snapshot = Snapshot(path, window.content(), outcome.append)
    snapshot.finish()
    snapshot.wait()
    again = SparseWindow(parameter, 3)
    again.take_up(TensorFile(path, outcome[0]))
    for one in (window, again):
        delta = one.delta()
        assert delta.keys is not None
        assert delta.counts is not None
        got = dict(zip(delta.keys.tolist(), delta.counts.tolist(), strict=True))
        assert got == {2: [1, 1, 0], 4: [3, 2, 0], 9: [1, 0, 0]}
        later = one.delta()
        assert later.counts is not None
        assert later.counts.shape == (0, 3)


def test_a_refused_window_is_sent_again_without_its_shows() -> None:
    parameter = placed({})
    window = SparseWindow(parameter, 0)
    window.show_own()
    forward(parameter, [5], [1])
    window.step()
    delta = window.delta()
    window.sent(delta, np.zeros_like(delta.values))
    window.keep(delta)
    again = window.delta()
    assert again.counts is not None
    assert again.keys is not None
    assert (again.keys.tolist(), again.counts.tolist()) == ([5], [[0, 0, 0]])


@pytest.mark.parametrize("private", [True, False])
def test_tables_of_this_process_count_for_themselves(private: bool) -> None:
    parameter = placed({"entry": {"kind": "count", "count": 2}, "delete_threshold": 2.0}, rule="sgd")
    home = LocalHome([parameter], private)
    first = reveal(home.tables["items"].pull(np.array([3, 4], np.uint64)))  # type: ignore[call-arg]
    for step, keys in enumerate([[3, 3, 4], [3, 8, 8]]):
        forward(parameter, keys, [1, 1, 0])
        home.send(Step(0, step, 3), [])
        home.receive(Step(0, step, 3), [])
    table = home.tables["items"]
    now = reveal(table.pull(np.array([3, 4], np.uint64)))  # type: ignore[call-arg]
    assert np.array_equal(now[1], first[1])
    assert np.abs(now[0] - first[0]).max() == pytest.approx(0.01)  # the second push alone
    held = {part: reveal(array) for part, array in table.dump().items()}
    shows = dict(zip(held["keys"].tolist(), held["counters"][:, :2].tolist(), strict=True))
    assert shows == {3: [3, 3], 4: [1, 0], 8: [2, 1]}
    if isinstance(table, PrivateTable):
        assert table.warm(np.array([3, 4, 19], np.uint64)).tolist() == [True, False, False]
        assert reveal(home.dump("delta")["items"]["keys"]).tolist() == [3]
    home.settle("delta")
    home.shrink(is_day=True)
    assert reveal(table.dump()["keys"]).tolist() == [3]
    assert not isinstance(table, PrivateTable) or reveal(home.dump("delta")["items"]["keys"]).tolist() == []


def test_a_gradient_for_one_show_in_a_window() -> None:
    scaled, plain = (
        placed({"show_scale": is_scaled}, rule="sparse_adagrad", initializer={"kind": "zeros"})
        for is_scaled in (True, False)
    )
    moved = []
    for parameter in (scaled, plain):
        window = SparseWindow(parameter, 0)
        window.show_own()
        forward(parameter, [6, 6, 6, 6, 7], [0] * 5)
        window.step()
        delta = window.delta()
        assert delta.keys is not None
        moved.append(dict(zip(delta.keys.tolist(), delta.values[:, 0].tolist(), strict=True)))
    assert moved[0][6] == pytest.approx(moved[1][6] / 4)
    assert moved[0][7] == moved[1][7]
