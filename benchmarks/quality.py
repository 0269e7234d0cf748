"""HR@10 and NDCG@10 on MovieLens-1M: one process on all ratings, and ten zip-code clients in every mode.

    python benchmarks/quality.py --data ../shared/data/ml-1m            all rows, then the table
    python benchmarks/quality.py --rows geo/private sync/private        some rows; the others keep their last figures

Each row runs for itself and leaves its figures in benchmarks/quality.json, so that the table can be made in pieces.
The protocol is that of configs/ncf_ml-1m.yaml: leave one out, 99 given negatives, four fresh negatives an epoch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from flps.metrics import EventReader

BIN = Path(sys.executable).parent  # the commands of this environment
HERE = Path(__file__).resolve().parent
FIGURES = HERE / "quality.json"
CONFIG = HERE.parent / "configs" / "ncf_ml-1m.yaml"


class Row(NamedTuple):
    """One way to train; what differs from the config."""

    name: str
    mode: str
    users: str  # where the users' rows live
    batch_size: int
    learning_rate: float
    epochs: int
    row_type: str = "float32"  # how rows and deltas travel


ROWS = (
    Row("geo/private", "geo", "private", 256, 0.003, 20),
    Row("geo/shared", "geo", "shared", 256, 0.003, 20),
    Row("sync/private", "sync", "private", 512, 0.005, 12),
    Row("sync/shared", "sync", "shared", 512, 0.005, 12),
    Row("async/private", "async", "private", 512, 0.001, 8),
    Row("async/shared", "async", "shared", 512, 0.001, 8),
    Row("geo/private, float16", "geo", "private", 256, 0.003, 8, "float16"),
    Row("geo/private, int8", "geo", "private", 256, 0.003, 8, "int8"),
)


def federated(row: Row, shards: Path, epochs: int | None) -> dict[str, Any]:
    """Run one federation; its evaluations after each epoch."""
    from ncf import bytes_of_workers  # beside this file

    local, remote = (["user_embedding"], ["item_embedding"]) if row.users == "private" else ([], [])
    settings = {
        "runner.sync_mode": row.mode,
        "runner.train_batch_size": row.batch_size,
        "hyper_parameters.optimizer.learning_rate": row.learning_rate,
        "runner.row_type": row.row_type,
        "runner.epochs": epochs or row.epochs,
        "runner.save_interval": 0,
        "runner.local_sparse": json.dumps(local),
        "runner.remote_sparse": json.dumps(remote or ["user_embedding", "item_embedding"]),
        "runner.train_data_dir": shards / "fl_train_data",
        "runner.test_data_dir": shards / "fl_test_data",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(BIN / "flrun"),
            "--worker_num=10",
            "--server_num=1",
            "--coordinator_num=1",
            "-m",
            str(CONFIG),
        ]
        command += [f"--log_dir={folder}/log"]
        for key, value in settings.items():
            command += ["-o", f"{key}={value}"]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        (events,) = Path(folder, "log").glob("run-*/metrics.jsonl")
        told = EventReader(str(events)).poll()
    evaluations = [event for event in told if event["event"] == "eval"]
    return {
        "seconds": seconds,
        "bytes_per_sample": bytes_of_workers(told) / sum(e["samples"] for e in told if e["event"] == "epoch"),
        "evaluations": evaluations,
        "settings": row._asdict() | {"epochs": len(evaluations)},
    }


def centralised(folder: Path, epochs: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
    """The same model in one process with torch alone (benchmarks/plain.py)."""
    import plain  # beside this file

    began = time.monotonic()
    trained = plain.train_centralised(plain.read_movielens(folder), "NCF_NeuMF", epochs, batch_size, learning_rate)
    evaluations = [{"epoch": epoch, **evaluation.fields()} for epoch, _, evaluation in trained]
    settings = {"batch_size": batch_size, "learning_rate": learning_rate, "epochs": epochs}
    return {"seconds": time.monotonic() - began, "evaluations": evaluations, "settings": settings}


def table(figures: dict[str, Any]) -> str:
    """The figures as markdown: after the last epoch, nothing picked."""
    lines = [
        "| training | users' rows | epochs | batch | lr | HR@10 | NDCG@10 | full HR@10 | full NDCG@10 | AUC |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| popularity | - | - | - | - | 0.4531 | 0.2541 | - | - | - |",
    ]
    for name, figure in figures.items():
        last, settings = figure["evaluations"][-1], figure["settings"]
        mode, _, users = name.partition("/")
        numbers = [last["hr"], last["ndcg"], last["hr_full"], last["ndcg_full"], last["auc"]]
        shown = " | ".join("-" if number is None else f"{number:.4f}" for number in numbers)
        lines.append(
            f"| {mode} | {users or 'one process'} | {settings['epochs']} | {settings['batch_size']} "
            f"| {settings['learning_rate']:g} | {shown} |"
        )
    return "\n".join([*lines, *packed(figures)])


def packed(figures: dict[str, Any]) -> list[str]:
    """What rows in fewer bytes cost, after as many epochs with and without; and what they save."""
    lines = []
    for row in ROWS:
        if row.row_type == "float32" or row.name not in figures or "geo/private" not in figures:
            continue
        own, whole = figures[row.name], figures["geo/private"]
        epochs = len(own["evaluations"])
        apart = {key: own["evaluations"][-1][key] - whole["evaluations"][epochs - 1][key] for key in ("hr", "ndcg")}
        lines.append(
            f"{row.name}: HR@10 {apart['hr']:+.4f}, NDCG@10 {apart['ndcg']:+.4f} against float32 after as many epochs "
            f"({epochs}); {own['bytes_per_sample']:.1f} bytes a sample."
        )
    return ["", *lines] if lines else []


def main() -> None:
    """Run the rows asked for, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["centralised", *(row.name for row in ROWS)]
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-1m"), help="folder of ML-1M's NCF split")
    parser.add_argument("--rows", nargs="*", choices=names, default=names)
    parser.add_argument("--epochs", type=int, help="instead of each row's own number")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder)
        divide = [str(BIN / "gen_heter_data"), f"--full_train_data_path={arguments.data}"]
        subprocess.run(
            [sys.executable, *divide, f"--splitted_data_path={shards}"], check=True, stdout=subprocess.DEVNULL
        )
        for name in arguments.rows:
            if name == "centralised":
                figures[name] = centralised(arguments.data, arguments.epochs or 20, 2048, 0.003)
            else:
                row = next(row for row in ROWS if row.name == name)
                figures[name] = federated(row, shards, arguments.epochs)
            figures = {name: figures[name] for name in names if name in figures}
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
            print(table(figures), flush=True)
    from report import update_section  # beside this file

    update_section("Quality on MovieLens-1M", table(figures))


if __name__ == "__main__":
    main()
