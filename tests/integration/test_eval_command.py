"""`flps eval` says again what the run said, and refuses what it cannot measure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

from flps.cli.flps import run
from flps.errors import DataError
from flps.models.saved import load_model

FIGURES = ("hr", "ndcg", "hr_full", "ndcg_full", "auc", "warm", "users")
Federate = Callable[..., Any]
Shards = Callable[..., Path]
PRIVATE = ["user_embedding"]


def settings(folder: Path, **runner: Any) -> dict[str, Any]:
    return {"runner": {"test_data_dir": str(folder / "fl_test_data"), "save_interval": 1, **runner}}


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert run(["eval", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["eval", *map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "private", "workers", "servers"),
    [("geo", PRIVATE, 3, 2), ("geo", [], 2, 1), ("sync", PRIVATE, 2, 3), ("async", [], 2, 1)],
)
def test_the_figures_are_those_of_the_run(
    shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str],
    mode: str, private: list[str], workers: int, servers: int,
) -> None:  # fmt: skip
    folder = shards(workers)
    saved = federate(folder, settings(folder, sync_mode=mode, local_sparse=private), workers=workers, servers=servers)
    first, last = saved.events("eval")
    (again,) = lines(capsys, saved.run_dir, "--full")
    assert again["epoch"] == 2
    assert [again[name] for name in FIGURES] == [last[name] for name in FIGURES]
    (again,) = lines(capsys, saved.run_dir, "--epoch", 1)
    assert [again[name] for name in FIGURES] == [first[name] for name in FIGURES]
    assert again["hr_full"] is None


def test_private_dense_parameters_and_float64(
    shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(2)
    config = settings(folder, local_sparse=PRIVATE, private=["prediction.*"])
    config["table_parameters"] = {
        name: {"dtype": "float64"} for name in ("user_embedding", "item_embedding", "dense", "dense_private")
    }
    saved = federate(folder, config)
    (again,) = lines(capsys, saved.run_dir, "--full")
    assert [again[name] for name in FIGURES] == [saved.events("eval")[-1][name] for name in FIGURES]
    biases = [load_model(saved.folder(), client).prediction.bias.item() for client in (0, 1)]
    assert biases[0] != biases[1]


def test_the_table(shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(2)
    saved = federate(folder, settings(folder, local_sparse=PRIVATE))
    before = {path: path.read_bytes() for path in saved.run_dir.rglob("*") if path.is_file()}
    assert run(["eval", str(saved.folder(1))]) == 0
    out = capsys.readouterr().out
    event = saved.events("eval")[0]
    assert f"{event['hr']:.4f}" in out
    assert f"{event['ndcg']:.4f}" in out
    assert "private rows warm 60/60" in out
    assert before == {path: path.read_bytes() for path in saved.run_dir.rglob("*") if path.is_file()}


def test_a_missing_private_file(shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(3)
    saved = federate(folder, settings(folder, local_sparse=PRIVATE), workers=3)
    (saved.folder() / "private-1-of-3.safetensors").unlink()
    assert "private file of client 1 is missing" in refusal(capsys, saved.run_dir)
    (cold,) = lines(capsys, saved.run_dir, "--allow-cold")
    assert (cold["warm"], cold["users"]) == (40, 60)
    (whole,) = lines(capsys, saved.run_dir, "--epoch", 1)
    assert (whole["warm"], whole["users"]) == (60, 60)


def test_what_is_refused(
    shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = shards(2)
    saved = federate(folder, settings(folder))
    assert "neither a run's folder" in refusal(capsys, folder)
    assert "no such folder" in refusal(capsys, tmp_path / "nowhere")
    assert "epoch 7 is not saved; there are 1, 2" in refusal(capsys, saved.run_dir, "--epoch", 7)
    assert "wants the folder of a run" in refusal(capsys)
    job = json.loads((saved.run_dir / "job.json").read_text())
    other = {**job, "config": {**job["config"], "hyper_parameters": {**job["config"]["hyper_parameters"], "mf_dim": 5}}}
    (saved.run_dir / "job.json").write_text(json.dumps(other))
    assert "another model than the configuration describes: mf_dim 4" in refusal(capsys, saved.run_dir)
    blind = {**job, "config": {**job["config"], "runner": {**job["config"]["runner"], "test_data_dir": ""}}}
    (saved.run_dir / "job.json").write_text(json.dumps(blind))
    assert "no test_data_dir" in refusal(capsys, saved.run_dir)
    (saved.run_dir / "job.json").write_text(json.dumps(job))
    shared = saved.folder() / "shared-0-of-1.safetensors"
    shared.write_bytes(shared.read_bytes()[:-1] + b"?")
    assert "sha256 differs" in refusal(capsys, saved.run_dir)
    for path in saved.run_dir.rglob("manifest.json"):
        path.unlink()
    assert "no complete saved model" in refusal(capsys, saved.run_dir)


def test_a_yaml_names_epochs(
    shards: Shards, federate: Federate, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A relative infer_load_path: the run that is named, else the newest of the log folder, else beside the yaml."""
    folder = shards(2)
    saved = federate(folder, settings(folder, epochs=3, local_sparse=PRIVATE))
    yaml_path = tmp_path / "beside" / "x.yaml"
    yaml_path.parent.mkdir()
    config = yaml.safe_load((saved.run_dir / "config.yaml").read_text())
    config["runner"] |= {"infer_start_epoch": 2, "infer_end_epoch": 4, "infer_batch_size": 1}
    yaml_path.write_text(yaml.safe_dump(config))
    events = [[event[name] for name in FIGURES[:2]] for event in saved.events("eval")]

    def measured(*arguments: object) -> list[tuple[int, list[float]]]:
        answers = lines(capsys, "-m", yaml_path, *arguments)
        return [(answer["epoch"], [answer[name] for name in FIGURES[:2]]) for answer in answers]

    both = [(2, events[1]), (3, events[2])]
    log_dir = saved.run_dir.parent  # its run folders are called run-0, run-1, ...
    assert measured(saved.run_dir) == both
    assert measured("--log_dir", log_dir) == both
    assert measured(saved.run_dir, "--epoch", 1) == [(1, events[0])]
    assert measured(saved.run_dir, "-o", "runner.infer_end_epoch=3") == both[:1]
    models = saved.folder().parent
    assert measured("-o", f"runner.infer_load_path={models}", "-o", "runner.infer_batch_size=64") == both
    nowhere = tmp_path / "nolog"
    assert f"nor in {nowhere}" not in refusal(capsys, "-m", yaml_path, "--log_dir", nowhere)
    models.rename(yaml_path.parent / models.name)
    assert measured("--log_dir", nowhere) == both
    told = refusal(capsys, "-m", yaml_path, "--log_dir", nowhere, "-o", "runner.infer_load_path=there")
    assert f"no complete saved model in {yaml_path.parent / 'there'}" in told
    late = refusal(capsys, "-m", yaml_path, "--log_dir", nowhere, "-o", "runner={infer_start_epoch: 9}")
    assert "runner" in late


class Plain(nn.Module):
    """NeuMF as anybody would write it, with the names of the export."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(users, 8)
        self.item_embedding = nn.Embedding(items, 8)
        self.tower = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU())
        self.prediction = nn.Linear(8, 1)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        user, item = self.user_embedding(users), self.item_embedding(items)
        deep = self.tower(torch.cat((user[:, 4:], item[:, 4:]), 1))
        return self.prediction(torch.cat((user[:, :4] * item[:, :4], deep), 1)).squeeze(1)


def test_the_export_is_a_plain_state_dict(shards: Shards, federate: Federate) -> None:
    folder = shards(2)
    saved = federate(folder, settings(folder), servers=3)
    plain = Plain(60, 40)
    plain.load_state_dict(safetensors.torch.load_file(saved.folder() / "model.safetensors"))
    users, items = (grid.reshape(-1) for grid in torch.meshgrid(torch.arange(60), torch.arange(40), indexing="ij"))
    with torch.inference_mode():
        ours = load_model(saved.folder())({"user_input": users, "item_input": items})
        assert torch.equal(plain(users, items), ours)


def test_each_client_has_rows_of_its_own(shards: Shards, federate: Federate) -> None:
    folder = shards(2)
    saved = federate(folder, settings(folder, local_sparse=PRIVATE))
    users = np.arange(60)
    scores = []
    for client in (0, 1, None):
        model = load_model(saved.folder(), client)
        batch = {"user_input": torch.from_numpy(users), "item_input": torch.zeros(60, dtype=torch.int64)}
        with torch.inference_mode():
            scores.append(model(batch).numpy())
    assert set(np.flatnonzero(scores[0] != scores[2])) == set(users[users % 2 == 0])
    assert set(np.flatnonzero(scores[1] != scores[2])) == set(users[users % 2 == 1])
    with pytest.raises(DataError, match="no private file of client 2"):
        load_model(saved.folder(), 2)


def test_everybodys_auc_stands_in_each_workers_log(
    shards: Shards, federate: Federate, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shards(2)
    with caplog.at_level("INFO", logger="flps.worker"):
        saved = federate(folder, settings(folder, use_auc=True))
    told = [record.getMessage() for record in caplog.records if "AUC over all clients" in record.getMessage()]
    wanted = [f"epoch {event['epoch']}: AUC over all clients {event['auc']:.6g}" for event in saved.events("epoch")]
    assert sorted(told) == sorted(wanted * 2)
