"""Roles of a split job as threads of one process: what they leave behind, and what trained nets are good for."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from flps.config import load_split
from flps.config.split_job import SCORES, SplitJob
from flps.data.criteo_like import Shape, ensure
from flps.errors import ConfigError, DataError, FlpsError
from flps.models.catalog import SPLIT
from flps.models.wide_deep.cut import build_unsplit
from flps.models.wide_deep.dataset import construct_local_dataset
from flps.models.wide_deep.metric import AUCMetric
from flps.models.wide_deep.model import LeaderTopEvalNet
from flps.models.wide_deep.options import network_config
from flps.party.role import run_party
from flps.split.model import FLModel
from flps.split.schema import FLYamlData

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "wide_deep"
SIZES = ("emb_dim=4", "deep_layer_dim=[8, 4]", "batch_size=256", "epochs=3")
WAIT_S = 60.0

OWN_MODEL = '''
"""A user's own model: the leader's net adds what the follower's net sends to its own column."""

import numpy as np
import torch

from flps.split.model import FLModel
from flps.split.schema import FLYamlData


class Columns:
    def __init__(self, names, seed, rows=64):
        drawn = np.random.default_rng(seed).normal(size=(rows, 2)).astype("float32")
        own = {"x": drawn[:, :1], "y": (drawn.sum(1, keepdims=True) > 0).astype("float32"), "z": drawn[:, 1:]}
        self.columns = {name: torch.from_numpy(own[name]) for name in names}
        self.row_ids = np.arange(rows)

    def get_dataset_size(self):
        return len(self.row_ids) // 16

    def batches(self, epoch=0, first_step=0):
        for step in range(first_step, self.get_dataset_size()):
            yield {name: held[16 * step : 16 * step + 16] for name, held in self.columns.items()}

    def told(self):
        return {"rows": len(self.row_ids)}


class Top(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x, z, y):
        return torch.nn.functional.binary_cross_entropy_with_logits(self.linear(torch.cat([x, z], 1)), y)


class Error:
    def clear(self):
        self.seen = []

    def update(self, loss, y):
        self.seen.append(float(loss))

    def eval(self):
        return sum(self.seen) / len(self.seen)


class Mine:
    def __init__(self, hyper_parameters, seat):
        self.seat, self.epochs = seat, hyper_parameters["rounds"]

    def rows(self, folder):
        names = ("z",) if self.seat.number else ("x", "y")
        return Columns(names, 0), Columns(names, 1)

    def nets(self, files):
        torch.manual_seed(self.seat.seed)
        net = torch.nn.Linear(1, 1) if self.seat.number else Top()
        metrics = None if self.seat.number else Error()
        return {"net": FLModel(FLYamlData(files[0]), net, metrics=metrics)}


def build(hyper_parameters, seat):
    return Mine(hyper_parameters, seat)
'''
LEADER_NET = """
role: leader
model:
  train_net: {name: top, inputs: [{name: x}, {name: z_out, source: remote}, {name: y}], outputs: [{name: loss}]}
  eval_net:
    {name: top, inputs: [{name: x}, {name: z_out, source: remote}, {name: y}], outputs: [{name: loss}], gt: y}
opts:
  - type: SGD
    grads: [{inputs: [{name: x}, {name: z_out}, {name: y}], output: {name: loss}}]
    params: [{name: linear}]
    hyper_parameters: {lr: 0.5}
grad_scalers: [{inputs: [{name: z_out}], output: {name: loss}}]
dataset: {name: own, features: [x], labels: [y]}
"""
FOLLOWER_NET = """
role: follower
model:
  train_net: {name: bottom, inputs: [{name: z}], outputs: [{name: z_out, destination: remote}]}
  eval_net: {name: bottom, inputs: [{name: z}], outputs: [{name: z_out, destination: remote}]}
opts:
  - type: SGD
    grads: [{inputs: [{name: z}], output: {name: z_out}, sens: loss}]
    params: [{name: weight}, {name: bias}]
    hyper_parameters: {lr: 0.5}
dataset: {name: own, features: [z]}
"""


def job_of(run_dir: Path, yaml: Path, overrides: Sequence[str], settings: Sequence[str]) -> SplitJob:
    config = load_split(yaml, overrides, settings, SPLIT)
    parties = config.parties
    leader = msgspec.structs.replace(parties.leader, nets=tuple(str(yaml.parent / net) for net in parties.leader.nets))
    followers = tuple(
        msgspec.structs.replace(one, nets=tuple(str(yaml.parent / net) for net in one.nets))
        for one in parties.followers
    )
    parties = msgspec.structs.replace(parties, leader=leader, followers=followers)
    return SplitJob(
        run_id=uuid.uuid4().hex,
        run_dir=str(run_dir),
        config_dir=str(yaml.parent),
        config=msgspec.structs.replace(config, parties=parties),
        leader=f"loopback://leader-{run_dir.name}",
        security="loopback",
    )


def play(job: SplitJob) -> list[BaseException]:
    """Leader and follower to their end; what they failed with."""
    Path(job.run_dir).mkdir(parents=True, exist_ok=True)
    failed: list[BaseException] = []

    def run(role: str) -> None:
        try:
            run_party(job, role, 0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(role,)) for role in ("leader", "follower")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    return failed


def events(job: SplitJob, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(job.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


class Trained:
    """Three epochs of a small Wide & Deep, measured after the second and the last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, ensure(folder, Shape(rows=3000))
        self.job = self.again("first", "-", "runner.eval_interval=2", "runner.print_interval=5")
        assert play(self.job) == []

    def again(self, name: str, task: str, *overrides: str) -> SplitJob:
        wanted = [] if task == "-" else [f"runner.task={task}", f"runner.trained_models={self.models}"]
        overrides = ("preset=small", f"hyper_parameters.data_path={self.rows}", *wanted, *overrides)
        return job_of(self.folder / name, CONFIGS / "job.yaml", overrides, SIZES)

    @property
    def models(self) -> Path:
        return Path(self.job.run_dir) / "output_model"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def test_a_run_tells_its_epochs_and_measures_as_often_as_it_is_asked_to(trained: Trained) -> None:
    assert [event["epoch"] for event in events(trained.job, "eval")] == [1, 2]
    epochs = events(trained.job, "epoch")
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    assert all(event["role"] == "leader" and event["samples_per_s"] > 0 for event in epochs)
    told = [event for event in events(trained.job, "progress") if event["role"] == "follower"]
    steps = told[-1]["steps"]
    assert (told[-1]["epoch"], told[-1]["epochs"], told[-1]["step"]) == (2, 3, steps)
    assert told[-1]["bytes_out"] > 3 * steps * 2 * 256 * 4
    assert {event["result"] for event in events(trained.job, "end")} == {"done"}


def test_exported_nets_measure_as_they_did_when_they_were_trained(trained: Trained) -> None:
    looked = trained.again("looked", "evaluate")
    assert play(looked) == []
    (event,) = events(looked, "eval")
    last = events(trained.job, "eval")[-1]
    assert (event["epoch"], event["auc"], event["log_loss"]) == (2, last["auc"], last["log_loss"])


def test_exported_nets_put_together_in_one_process_measure_the_same(trained: Trained) -> None:
    sizes = {"emb_dim": 4, "deep_layer_dim": [8, 4], "batch_size": 256, "data_path": str(trained.rows)}
    config = network_config(sizes, "small")
    whole = build_unsplit(config, (20, 19), seed=99)
    nets = {
        "leader_bottom": (whole.bottoms[0], whole.bottoms[0].net),
        "leader_top": (whole.top, LeaderTopEvalNet(whole.top.net)),
        "follower_bottom": (whole.bottoms[1], whole.bottoms[1].net),
    }
    for name, (net, eval_net) in nets.items():
        model = FLModel(FLYamlData(CONFIGS / f"{name}.yaml"), net, eval_network=eval_net)
        model.load_ckpt("eval", trained.models / name.partition("_")[0])
    metric = AUCMetric()
    for batch in construct_local_dataset(config)[1].batches():
        columns = [(batch["id_hldr"], batch["wt_hldr"]), (batch["id_hldr0"], batch["wt_hldr0"])]
        with torch.no_grad():
            logits = whole(columns, batch["label"]).logits
        metric.update(logits, torch.sigmoid(logits), batch["label"])
    assert metric.eval() == events(trained.job, "eval")[-1]["auc"]


def test_scores_come_in_the_order_of_the_rows_and_need_no_labels(trained: Trained, tmp_path: Path) -> None:
    evaluation = construct_local_dataset(network_config({"data_path": str(trained.rows)}, "small"))[1]
    labels = torch.cat([batch["label"] for batch in evaluation.batches()]).flatten()
    hidden = tmp_path / "without-labels"
    hidden.mkdir()
    for part in ("train", "test"):
        (hidden / part).mkdir()
        for path in (trained.rows / part).iterdir():
            if path.name != "label.npy":
                (hidden / part / path.name).symlink_to(path)
    for path in trained.rows.glob("*.json"):
        (hidden / path.name).symlink_to(path)
    for name, rows in (("scored", trained.rows), ("scored-without-labels", hidden)):
        job = trained.again(name, "predict", f"hyper_parameters.data_path={rows}")
        assert play(job) == []
        scores = pd.read_csv(Path(job.run_dir) / SCORES)
        assert list(scores.columns) == ["row_id", "logits", "pred_probs"]
        assert scores["row_id"].tolist() == evaluation.row_ids.tolist()
        last = events(trained.job, "eval")[-1]
        assert roc_auc_score(labels, scores["pred_probs"]) == pytest.approx(last["auc"], abs=1e-9)


def test_nets_that_were_not_trained_together_are_refused_at_both_sides(trained: Trained, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "leader").symlink_to(trained.models / "leader")
    overrides = ("preset=small", f"hyper_parameters.data_path={trained.rows}")
    assert play(job_of(tmp_path / "other", CONFIGS / "job.yaml", overrides, (*SIZES, "epochs=1"))) == []
    (mixed / "follower").symlink_to(tmp_path / "other" / "output_model" / "follower")
    failed = play(trained.again("mixed", "evaluate", f"runner.trained_models={mixed}"))
    assert len({str(error) for error in failed}) == 1
    assert len(failed) == 2
    assert "step of the trained nets: leader has" in str(failed[0])


def test_rows_whose_ids_do_not_fit_into_the_tables_are_refused(trained: Trained, tmp_path: Path) -> None:
    job = job_of(
        tmp_path,
        CONFIGS / "job.yaml",
        ("preset=small", f"hyper_parameters.data_path={trained.rows}"),
        (*SIZES, "vocab_size=10"),
    )
    with pytest.raises(ConfigError, match="ids, but vocab_size is 10"):
        run_party(job, "leader", 0)


def test_who_is_started_again_when_all_is_done_has_nothing_to_do(trained: Trained, tmp_path: Path) -> None:
    network = msgspec.structs.replace(trained.job.config.network, start_timeout_s=0.3, lease_s=0.3, heartbeat_s=0.05)
    config = msgspec.structs.replace(trained.job.config, network=network)
    alone = msgspec.structs.replace(trained.job, leader=f"loopback://{tmp_path.name}", config=config)
    run_party(alone, "follower", 0, incarnation=2)
    with pytest.raises(FlpsError, match="leader"):
        run_party(alone, "follower", 0)


def test_a_folder_without_trained_nets_is_refused(trained: Trained, tmp_path: Path) -> None:
    job = trained.again("nothing", "evaluate", f"runner.trained_models={tmp_path}")
    failed = play(job)
    assert any(isinstance(error, DataError) and "has no checkpoint of leader" in str(error) for error in failed)
    assert all(isinstance(error, FlpsError) for error in failed)


def own_job(folder: Path, model: str = OWN_MODEL, more: str = "") -> SplitJob:
    """A job of a user's own model; more: keys of both nets' files."""
    (folder / "mine.py").write_text(model)
    (folder / "leader.yaml").write_text(LEADER_NET + more)
    (folder / "follower.yaml").write_text(FOLLOWER_NET + more)
    (folder / "job.yaml").write_text(
        "job: split\nmodel: mine.py:build\nhyper_parameters: {rounds: 8}\nparties:\n  leader: {nets: [leader.yaml]}\n"
        "  followers: [{name: follower, nets: [follower.yaml]}]\n"
    )
    return job_of(folder / "run", folder / "job.yaml", (), ())


def test_a_gradient_that_is_not_finite_ends_the_job_before_weights_move(tmp_path: Path) -> None:
    text = OWN_MODEL.replace("self.linear(torch.cat([x, z], 1))", "self.linear(torch.cat([x, z], 1)) * torch.inf")
    failed = play(own_job(tmp_path, text))
    assert len(failed) == 2
    assert {str(error) for error in failed} == {str(failed[0])}
    assert "follower was to get the gradient z_out of shape [16, 1], but 16 of its 16 numbers are NaN" in str(failed[0])


def test_epochs_and_evaluation_are_as_the_nets_files_say_where_the_model_is_silent(tmp_path: Path) -> None:
    text = OWN_MODEL.replace('hyper_parameters["rounds"]', "None")
    job = own_job(tmp_path, text, "hyper_parameters: {epochs: 3, is_eval: False}\n")
    assert play(job) == []
    assert [event["epoch"] for event in events(job, "epoch")] == [0, 1, 2]
    assert events(job, "eval") == []


def test_a_file_that_says_other_epochs_than_the_job_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    job = own_job(tmp_path, more="hyper_parameters: {epochs: 3}\n")
    assert play(job) == []
    assert len(events(job, "epoch")) == 8
    assert re.search(r"leader\.yaml:\d+: epochs is 3 there; the job's own is 8, and counts", caplog.text)


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    job = own_job(tmp_path)
    assert play(job) == []
    measured = [event["eval"] for event in events(job, "eval")]
    assert len(measured) == 8
    assert measured[-1] < 0.45 < measured[0]
