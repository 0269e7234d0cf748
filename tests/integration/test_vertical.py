"""Pairs of workers that have two parts of each row: the same numbers as one process with whole rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flps.data.criteo_like import Shape, ensure
from flps.data.criteo_parties import Party
from flps.data.paired import open_paired
from flps.errors import DataError
from flps.models.catalog import resolve
from flps.worker.rows import measure_saved

SLOTS, COLUMNS, PAIRS = 6, 4, 2
RATE = 0.5


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated rows: an odd number for two pairs, so that their last batches differ."""
    shape = Shape(rows=601, seed=5, dense_dim=COLUMNS, slot_dim=SLOTS)
    parties = (Party("b", tuple(range(COLUMNS))), Party("a", tuple(range(COLUMNS, COLUMNS + SLOTS))))
    return ensure(tmp_path_factory.mktemp("rows"), shape, threshold=1, parties=parties)


def vertical_job(rows: Path) -> dict[str, Any]:
    """A yaml, as a dict, of the small model on these rows."""
    return {
        "model": "ctr_dnn",
        "seed": 7,
        "runner": {
            "vertical": True,
            "sync_mode": "sync",
            "train_data_dir": str(rows),
            "train_batch_size": 40,
            "epochs": 2,
            "save_interval": 0,
            "print_interval": 3,
        },
        "hyper_parameters": {
            "sparse_feature_number": 2000,
            "sparse_feature_dim": 4,
            "sparse_inputs_slots": SLOTS + 1,
            "dense_input_dim": COLUMNS,
            "optimizer": {"class": "sgd", "learning_rate": RATE},
        },
        "network": {"heartbeat_s": 0.1},
    }


@pytest.fixture
def run_pairs(rows: Path, federate: Callable[..., Any]) -> Callable[..., Any]:
    """Run a vertical job in this process, each role as a thread."""

    def run(settings: Mapping[str, Any] | None = None, servers: int = 1, resume_from: Path | None = None) -> Any:
        base = vertical_job(rows)
        return federate(
            rows, settings or {}, servers=servers, coordinators=0, resume_from=resume_from, base=base, pairs=PAIRS
        )

    return run


class Whole(nn.Module):
    """The same function in plain torch, which begins with the same weights."""

    def __init__(self, config: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        whole = resolve("ctr_dnn")(config, seed)
        spec = whole.a.embedding.spec
        first = spec.init.rows(np.arange(spec.bound, dtype=np.uint64), spec.dim, self.table_seed(seed), "float32")
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(first), freeze=False)
        self.bottom_a, self.bottom_b, self.top = whole.a.layers, whole.b.layers, whole.b.top

    @staticmethod
    def table_seed(seed: int) -> int:
        """That of the embedding's rows, as `worker.parameters` draws it."""
        return (seed * 1_000_003 + zlib.crc32(b"embedding")) % 2**62

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        joint = self.bottom_a(self.embedding(batch["slots"]).flatten(1)) + self.bottom_b(batch["dense"])
        return self.top(joint)  # type: ignore[no-any-return]


def whole_batches(
    folder: Path, batch_size: int, epoch: int, seed: int | None, pairs: int
) -> Iterator[dict[str, Tensor]]:
    """At each step the union of the pairs' batches, both parties' columns side by side."""
    streams = []
    for pair in range(pairs):
        parts = [open_paired(folder, part, pair, pairs, batch_size, seed).epoch(epoch) for part in ("a", "b")]  # type: ignore[arg-type]
        streams.append([{**a, **b} for a, b in zip(*parts, strict=True)])
    for step in range(max(map(len, streams))):
        together = [stream[step] for stream in streams if step < len(stream)]
        yield {name: torch.from_numpy(np.concatenate([batch[name] for batch in together])) for name in together[0]}


def test_two_pairs_are_one_process_with_whole_rows(rows: Path, run_pairs: Callable[..., Any]) -> None:
    saved = run_pairs(servers=2)
    config = vertical_job(rows)
    model = Whole(config["hyper_parameters"], config["seed"])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for epoch in range(2):
        total, count = 0.0, 0
        for batch in whole_batches(rows, 40, epoch, config["seed"], PAIRS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch), batch["label"].long())
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(batch["label"]), count + len(batch["label"])
        losses.append(total / count)
    assert [event["samples"] for event in saved.events("epoch")] == [count, count]
    np.testing.assert_allclose([event["loss"] for event in saved.events("epoch")], losses, rtol=1e-5)
    parameters = saved.parameters()
    keys = parameters["embedding.keys"].astype(np.int64)
    assert len(keys) > 100
    np.testing.assert_allclose(parameters["embedding.values"], model.embedding.weight.detach()[keys], atol=1e-5)
    untouched = np.setdiff1d(np.arange(2000), keys)
    first = Whole(config["hyper_parameters"], config["seed"])
    assert torch.equal(model.embedding.weight[untouched], first.embedding.weight[untouched])
    for table, layers in (("dense_a", [model.bottom_a]), ("dense_b", [model.bottom_b, model.top])):
        wanted = torch.cat([p.detach().reshape(-1) for layer in layers for p in layer.parameters()])
        np.testing.assert_allclose(parameters[f"{table}.values"], wanted, atol=1e-5)
        assert not torch.equal(wanted, torch.cat([p.detach().reshape(-1) for p in first_of(first, table)]))


def first_of(first: Whole, table: str) -> list[Tensor]:
    """The dense parameters of a table before training."""
    parts = [first.bottom_a] if table == "dense_a" else [first.bottom_b, first.top]
    return [parameter for part in parts for parameter in part.parameters()]


def test_a_saved_model_measures_as_the_pairs_did(rows: Path, run_pairs: Callable[..., Any]) -> None:
    optimizer = {"class": "adam", "learning_rate": 0.01}
    saved = run_pairs({"runner": {"sync_mode": "async", "epochs": 1}, "hyper_parameters": {"optimizer": optimizer}})
    (event,) = saved.events("eval")
    assert event["samples"] == len(open_paired(rows, "b", 0, 1, 64, None, test=True)._rows)
    assert 0 < event["log_loss"] < 1
    whole = measure_saved(saved.folder(), rows, rows, 64).fields()
    assert whole["samples"] == event["samples"]
    assert (whole["auc"], whole["log_loss"]) == (
        pytest.approx(event["auc"], abs=1e-3),
        pytest.approx(event["log_loss"]),
    )
    with pytest.raises(DataError, match="is one party's own folder"):
        measure_saved(saved.folder(), rows, rows / "a", 64)


@pytest.mark.slow
def test_resumed_is_uninterrupted(run_pairs: Callable[..., Any]) -> None:
    settings = {"runner": {"save_checkpoint_interval": 3}}
    whole = run_pairs(settings)
    again = run_pairs(settings, resume_from=whole.checkpoints()["1-3"])
    one, other = whole.parameters(), again.parameters()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_one_server_is_three_servers(run_pairs: Callable[..., Any]) -> None:
    one, three = (run_pairs(servers=count).parameters() for count in (1, 3))
    assert all(
        np.array_equal(one[name], three[name]) for name in ("embedding.values", "dense_a.values", "dense_b.values")
    )
