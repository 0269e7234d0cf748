"""AUC of Wide & Deep on a sample of Criteo: all columns in one place, the leader alone, and split in several ways.

    python benchmarks/split_quality.py --data ../shared/data/criteo/train.tsv.xz      all rows, then the table
    python benchmarks/split_quality.py --rows split "split, min_max 6 bits"           some; the others are kept

Time split: the first 6/7 of the lines train, the rest is measured. One rule for all rows of a preset: as many epochs as
the centralised run of that preset took to its highest AUC, a number that stands below (`EPOCHS`); figures are those
after the last epoch, of no row the best. The number was chosen on the measured rows themselves, so all levels are a
little high; what rows differ by is not touched by it. Same seeds everywhere. The full nets have batch 1024, too: of
batches of 16000 the sample has seven. Split runs are flrun's, leader and follower with one thread each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import split_job
import torch
import wide_deep
from report import update_section

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_like import ensure
from flps.data.criteo_parties import LEADER_AND_FOLLOWER
from flps.launch.prepare import cache_dir
from flps.models.wide_deep.dataset import construct_local_dataset
from flps.models.wide_deep.options import PRESETS

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "split_quality.json"
TITLE = "Quality on Criteo, split"
THRESHOLD = 10  # a category that occurs more often has an id of its own; the original's 100 is for 390 times the rows
BATCH_SIZE = 1024
EPOCHS = {"small": 7, "full": 3}
CROSSING = ("follower_wide_embedding", "follower_deep_embedding")


class Row(NamedTuple):
    """One way to train."""

    name: str
    preset: str = "small"
    parties: tuple[int, ...] = ()  # whose columns, in one process; empty: split
    bits: int = 0  # of min_max, both ways
    label_eps: float = 0.0  # of label_dp at the leader's top; 0: none
    embedding_eps: float = 0.0  # of embedding_dp at the follower's bottom


ROWS = (
    Row("centralised", parties=(0, 1)),
    Row("leader alone", parties=(0,)),
    Row("split"),
    *(Row(f"split, min_max {bits} bits", bits=bits) for bits in (8, 6, 4)),
    *(Row(f"split, label_dp eps {eps}", label_eps=eps) for eps in (1, 4)),
    *(Row(f"split, embedding_dp eps {eps}", embedding_eps=eps) for eps in (4, 8)),
    Row("full, centralised", "full", parties=(0, 1)),
    Row("full, split", "full"),
)


def rows_of(raw: Path, folder: Path) -> Path:
    """The prepared rows of a raw file, or the folder itself when it is prepared already."""
    if raw.is_dir():
        return raw
    prepare(raw, folder / "columns", Recipe(threshold=THRESHOLD), LEADER_AND_FOLLOWER)
    return folder / "columns"


def centralised(row: Row, data: Path, epochs: int) -> dict[str, Any]:
    """In this process, on the columns of `row.parties`."""
    config = msgspec.structs.replace(
        PRESETS[row.preset], data_path=str(data), epochs=epochs, batch_size=BATCH_SIZE
    )  # fmt: skip
    train_set, test_set = construct_local_dataset(config, row.parties)
    return figures([epoch._asdict() for epoch in wide_deep.train(config, train_set, test_set, row.parties, -1)])


def edit_of(row: Row) -> split_job.Edit:
    """What a row changes in the nets' yaml files."""
    privacy = {"leader_top": ("label_dp", row.label_eps), "follower_bottom": ("embedding_dp", row.embedding_eps)}

    def edit(name: str, net: split_job.Net) -> None:
        scheme, eps = privacy.get(name, ("", 0.0))
        if eps:
            net["privacy"] = {scheme: {"eps": eps}}
        for kind, side in itertools.product(("train_net", "eval_net"), ("inputs", "outputs")):
            for entry in net["model"][kind][side]:
                if row.bits and entry["name"] in CROSSING:
                    entry |= {"compress_type": "min_max", "bit_num": row.bits}

    return edit


def split(row: Row, data: Path, epochs: int) -> dict[str, Any]:
    """Leader and follower, by flrun."""
    config = split_job.configuration(
        row.preset,
        {"print_interval": 1_000_000},
        {"data_path": str(data.resolve()), "batch_size": BATCH_SIZE, "epochs": epochs},
    )
    events = split_job.run(config, edit=edit_of(row))
    evaluations = split_job.of_party(events, "leader", "eval")
    progress = split_job.of_party(events, "leader", "progress")
    made = figures([{**one, **two} for one, two in zip(evaluations, progress, strict=True)])
    return made | {key: progress[-1][key] for key in ("bytes_in_a_step", "bytes_out_a_step")}


def figures(epochs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a run: AUC and log loss after each epoch, and the speed of the last one."""
    told = list(epochs)
    return {
        "epochs": [{"auc": epoch["auc"], "log_loss": epoch["log_loss"]} for epoch in told],
        "samples_per_s": told[-1]["samples_per_s"],
    }


def table(measured: dict[str, Any]) -> str:
    """The figures as markdown, after the last epoch."""
    lines = [
        "| training | AUC | against centralised | log loss | bytes a step, to and from the leader | samples/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        if row.name not in measured:
            continue
        own = measured[row.name]
        last = own["epochs"][-1]
        base = measured.get("full, centralised" if row.preset == "full" else "centralised")
        apart = f"{last['auc'] - base['epochs'][-1]['auc']:+.5f}" if base and own is not base else ""
        moved = f"{own['bytes_in_a_step']:,.0f}, {own['bytes_out_a_step']:,.0f}" if "bytes_in_a_step" in own else ""
        lines.append(
            f"| {row.name} | {last['auc']:.5f} | {apart} | {last['log_loss']:.5f} | {moved} | "
            f"{own['samples_per_s']:,.0f} |"
        )
    return "\n".join([*lines, "", *notes(measured)])


def notes(measured: dict[str, Any]) -> list[str]:
    """What the table does not say by itself."""
    said = [
        f"After {EPOCHS['small']} epochs (full: {EPOCHS['full']}), batch {BATCH_SIZE}, threshold {THRESHOLD}. Speeds "
        "are no benchmark: one run, the parties with a thread each."
    ]
    if {"split", "leader alone"} <= measured.keys():
        gain = measured["split"]["epochs"][-1]["auc"] - measured["leader alone"]["epochs"][-1]["auc"]
        said.append(f"What the leader gains by the follower's columns: AUC {gain:+.4f}.")
    return said


def main() -> None:
    """Run the rows asked for, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    shared = Path(os.environ.get("FLPS_DATA_DIR") or HERE.parent.parent / "shared" / "data")
    default = shared / "criteo" / "train.tsv.xz"
    parser.add_argument("--data", type=Path, default=default, help="raw file, or folder of datasets/criteo.py")
    parser.add_argument("--rows", nargs="*", choices=names, default=names)
    parser.add_argument("--epochs", type=int, help="instead of each preset's own number")
    parser.add_argument("--threads", type=int, default=2, help="of the rows in one process")
    parser.add_argument("--no_report", action="store_true", help="print the table of these rows, keep nothing")
    parser.add_argument("--quick", action="store_true", help="one epoch of generated rows, for a test")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.data, chosen.epochs = ensure(cache_dir(os.environ)), 1
    torch.set_num_threads(chosen.threads)
    measured = json.loads(FIGURES.read_text()) if FIGURES.exists() and not chosen.no_report else {}
    with tempfile.TemporaryDirectory() as folder:
        data = rows_of(chosen.data, Path(folder))
        for row in ROWS:
            if row.name not in chosen.rows:
                continue
            run = centralised if row.parties else split
            measured[row.name] = run(row, data, chosen.epochs or EPOCHS[row.preset])
            print(row.name, json.dumps(measured[row.name]), flush=True)
            if not chosen.no_report:
                FIGURES.write_text(json.dumps(measured, indent=1) + "\n")
    print(table(measured))
    if not chosen.no_report:
        update_section(TITLE, table(measured))


if __name__ == "__main__":
    main()
