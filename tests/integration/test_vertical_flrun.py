"""A vertical job by flrun, with real processes: what is learned, saved and measured, and what happens when one dies."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from os import kill
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from flps.data.criteo_like import Shape, ensure
from flps.data.paired import open_paired
from flps.metrics import AucHistogram
from flps.models.catalog import resolve
from flps.models.saved import load_model
from flps.nn.embedding import apply_gradients
from flps.table import Adam, SparseTable

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SLOTS, COLUMNS = 8, 13
EPOCHS, BATCH, SEED, RATE = 4, 128, 3, 0.003
HYPER = {
    "sparse_feature_number": 4000,
    "sparse_feature_dim": 4,
    "sparse_inputs_slots": SLOTS + 1,
    "dense_input_dim": COLUMNS,
    "fc_sizes_a": [8, 7],
    "fc_sizes_b": [8, 7],
    "optimizer": {"class": "adam", "learning_rate": RATE},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated rows with a signal on both sides."""
    shape = Shape(rows=24_000, seed=2, dense_dim=COLUMNS, slot_dim=SLOTS)
    return ensure(tmp_path_factory.mktemp("rows"), shape, threshold=20)


@pytest.fixture
def job(flrun: Any, rows: Path) -> Callable[..., None]:
    """Write the job's yaml."""

    def write(**runner: Any) -> None:
        settings = {
            "model": "ctr_dnn",
            "seed": SEED,
            "runner": {
                "vertical": True,
                "sync_mode": "async",
                "train_data_dir": str(rows),
                "train_batch_size": BATCH,
                "infer_batch_size": 1000,
                "epochs": EPOCHS,
                "print_interval": 10,
                **runner,
            },
            "hyper_parameters": HYPER,
            "evaluation": {"interval": 1},
        }
        (flrun.folder / "x.yaml").write_text(yaml.safe_dump(settings))

    return write


def joined(rows: Path, test: bool, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    """Batches with both parties' columns."""
    parts: list[Literal["a", "b"]] = ["a", "b"]
    seed = None if test else SEED
    streams = [open_paired(rows, part, 0, 1, BATCH, seed, test=test).epoch(epoch) for part in parts]
    return [
        {name: torch.from_numpy(array) for name, array in {**a, **b}.items()} for a, b in zip(*streams, strict=True)
    ]


def measured(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    model.eval()
    histogram = AucHistogram()
    with torch.inference_mode():
        for batch in batches:
            histogram.add(torch.sigmoid(model(batch).double()).numpy(), batch["label"].numpy())
    return histogram.value()


def alone(rows: Path, party: str) -> float:
    """AUC of the same model in one process, when one party's columns say nothing."""

    def blinded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        other = "dense" if party == "a" else "slots"
        return {**batch, other: torch.zeros_like(batch[other])}

    model = resolve("ctr_dnn")(HYPER, SEED)
    embedding = model.a.embedding
    embedding.table = SparseTable(msgspec.structs.replace(embedding.spec, rule=Adam(learning_rate=RATE)))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for epoch in range(EPOCHS):
        for batch in map(blinded, joined(rows, test=False, epoch=epoch)):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(batch), batch["label"]).backward()
            optimizer.step()
            apply_gradients(model)
    return measured(model, [blinded(batch) for batch in joined(rows, test=True)])


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_originals_command_trains_evaluates_and_saves(flrun: Any, job: Callable[..., None], rows: Path) -> None:
    job()
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    code, out, err = flrun(
        f"--servers={ports[0]}", "--workers=127.0.0.1:8080,127.0.0.1:8081", f"--heter_workers={ports[1]},{ports[2]}",
        "--worker_num=2", "--heter_worker_num=2", "--heter_devices=cpu",
    )  # fmt: skip
    assert code == 0, (out, err, flrun.logs())
    assert set(flrun.logs()) == {"serverlog.0", "workerlog.0", "workerlog.1", "heterlog.0", "heterlog.1"}
    evaluations = flrun.saved.events("eval")
    assert [event["epoch"] for event in evaluations] == list(range(EPOCHS))
    assert [event["samples"] for event in flrun.saved.events("epoch")] == [len_of(rows)] * EPOCHS
    auc = evaluations[-1]["auc"]
    apart = {party: alone(rows, party) for party in ("a", "b")}
    assert min(apart.values()) > 0.55, apart
    assert auc > max(apart.values()) + 0.02, (auc, apart)
    test_rows = joined(rows, test=True)
    assert measured(load_model(flrun.saved.folder()), test_rows) == pytest.approx(auc, abs=1e-3)
    for name, log in flrun.logs().items():
        if name.startswith("workerlog"):  # who has no labels has nothing to measure
            assert "Var Auc[1]:[nan]" in log, log


def len_of(rows: Path) -> int:
    """Rows to train on."""
    return open_paired(rows, "b", 0, 1, BATCH, None).samples


@pytest.mark.parametrize(("role", "rank"), [("worker", 1), ("heter_worker", 0)])
def test_a_killed_worker_ends_the_job(flrun: Any, job: Callable[..., None], role: str, rank: int) -> None:
    job(epochs=1000, save_interval=0)
    process = flrun.start("--worker_num=2", "--heter_worker_num=2")
    flrun.wait_until(lambda: flrun.is_training(2, epoch=1))
    kill(flrun.pid_of(role, rank), signal.SIGKILL)
    code, out, err = flrun.finish(process)
    assert code == 4, (out, err)
    assert f"{role}.{rank} was killed by SIGKILL" in err
    assert flrun.is_clean()


def test_a_partner_with_other_rows_is_told_so(flrun: Any, job: Callable[..., None], rows: Path) -> None:
    job()
    folder = flrun.folder / "other"
    folder.mkdir()
    for path in rows.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(rows)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(rows)).write_bytes(path.read_bytes())
    ids = np.load(folder / "train" / "row_ids.npy")
    np.save(folder / "train" / "row_ids.npy", ids[::-1])
    settings = yaml.safe_load((flrun.folder / "x.yaml").read_text())
    settings["runner"]["train_data_dir"] = str(folder)
    (flrun.folder / "y.yaml").write_text(yaml.safe_dump(settings))
    ports = [f"127.0.0.1:{port}" for port in free_ports(2)]
    flags = [f"--servers={ports[0]}", f"--heter_workers={ports[1]}", "--insecure", "--run_id=x"]
    a = flrun.start(*flags, "--role=worker", "--rank=0", yaml_file="y.yaml")
    b = flrun.start(*flags, "--role=heter_worker", "--rank=0")
    server = flrun.start(*flags, "--role=server", "--rank=0")
    ends = [flrun.finish(process) for process in (a, b)]
    server.terminate()
    flrun.finish(server)
    assert [end[0] for end in ends] == [2, 2], ends
    logs = [path.read_text() for path in flrun.folder.glob("log/run-*/*log.0")]
    assert sum("digest of the row ids" in log for log in logs) == 2, logs


def test_the_file_in_configs(flrun: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All 26 slots and 13 columns, on fewer rows and with larger steps."""
    rows = ensure(tmp_path_factory.mktemp("criteo"), Shape(rows=12_000, seed=2))
    text = (CONFIGS / "vertical_fl_ps.yaml").read_text()
    changes = {"embedded:criteo_like": str(rows), "rate: 0.001": "rate: 0.005", "output_model_ctr_dnn": "output_model"}
    for said, here in changes.items():
        assert said in text
        text = text.replace(said, here)
    (flrun.folder / "x.yaml").write_text(text)
    code, out, err = flrun("--server_num=1", "--worker_num=2", "--heter_worker_num=2")
    assert code == 0, (out, err, flrun.logs())
    auc = flrun.saved.events("eval")[-1]["auc"]
    assert auc > 0.55
    model = load_model(flrun.saved.folder())
    assert measured(model, joined(rows, test=True)) == pytest.approx(auc, abs=1e-3)
