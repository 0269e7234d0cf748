"""From two csv files with partly overlapping ids to a model, by one command: alignment, training, AUC, resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_like import Shape, write_tables
from flps.data.criteo_parties import LEADER_AND_FOLLOWER
from flps.data.criteo_tables import columns_of
from flps.data.criteo_text import Layout
from flps.metrics import EventReader

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEADLINE_S = 90.0
SMALL = ("--emb_dim=4", "--deep_layer_dim=[8, 4]", "--batch_size=256", "--vocab_size=5000")
PSI = ("-opsi.order=leader", "-opsi.cores=1", "-orunner.save_checkpoint_interval=3")


class Runs:
    """flrun in a folder that has both tables; what each run left, by a name."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder, self.runtime = folder, runtime
        shutil.copytree(ROOT / "configs" / "wide_deep", folder / "job")
        (folder / "tables").mkdir()
        self.tables = write_tables(folder / "tables", Shape(2000), 0.8)
        self.names = [party.name for party in LEADER_AND_FOLLOWER]

    def __call__(self, name: str, *flags: str, job: str = "psi.yaml", roles: str = "") -> tuple[int, str]:
        """Exit code, and all that was said."""
        program = [str(HERE / "flrun_with.py"), f"aligning_parties.py:{roles}"] if roles else ["-m", "flps.cli.flrun"]
        command = [sys.executable, *program, "-m", f"job/{job}", f"--log_dir={name}", *SMALL, *flags]
        own = {"XDG_RUNTIME_DIR": str(self.runtime), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def job(self) -> dict[str, Any]:
        """What the example's yaml says."""
        return dict(yaml.safe_load((self.folder / "job" / "psi.yaml").read_text()))

    def write(self, job: dict[str, Any]) -> str:
        """The name of a yaml that says this."""
        (self.folder / "job" / "other.yaml").write_text(yaml.safe_dump(job))
        return "other.yaml"

    def run_dir(self, name: str) -> Path:
        return max(self.folder.glob(f"{name}/run-*"), key=lambda path: path.stat().st_mtime_ns)

    def log(self, name: str, party: str) -> str:
        return (self.run_dir(name) / f"{party}log.0").read_text()

    def learned(self, name: str) -> dict[str, list[Any]]:
        """Every weight of every net that a run saved."""
        files = sorted((self.run_dir(name) / "output_model").rglob("*.safetensors"))
        assert len(files) >= 3
        return {f"{file.name}:{key}": held.tolist() for file in files for key, held in load_file(file).items()}

    def measured(self, name: str) -> list[tuple[float, float]]:
        """AUC and log loss of each evaluation."""
        events = EventReader(str(self.run_dir(name) / "metrics.jsonl")).poll()
        return [(event["auc"], event["log_loss"]) for event in events if event["event"] == "eval"]

    def ids(self, name: str, party: str) -> list[str]:
        """Of a party's aligned rows, in their order."""
        table = pd.read_csv(self.run_dir(name) / "aligned" / party / "rows.csv", dtype=str)
        return [str(one) for one in table["id"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One run from two tables, which all tests look at."""
    runtime = tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    made = Runs(tmp_path_factory.mktemp("psi"), runtime)
    code, said = made("whole", *PSI, "--epochs=2")
    assert code == 0, said
    return made


def test_it_equals_training_on_rows_aligned_by_hand(runs: Runs) -> None:
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in runs.tables]
    merged = tables[0].merge(tables[1], on="id")
    assert 0 < len(merged) < min(map(len, tables))
    assert runs.ids("whole", "leader") == runs.ids("whole", "follower") == merged["id"].tolist()
    job = runs.job()
    del job["psi"]
    for number, (name, columns) in enumerate(LEADER_AND_FOLLOWER):
        of = columns_of(columns, "" if number else "label")
        raw, folder = runs.folder / f"{name}.tsv", runs.folder / f"{name}_by_hand"
        merged[of.names].to_csv(raw, sep="\t", header=False, index=False)
        layout = Layout(len(of.numbers), len(of.categories), has_label=not number)
        prepare(raw, folder, Recipe(layout, 10, train_share=0.85, own=number))
        party = job["parties"]["followers"][0] if number else job["parties"]["leader"]
        del party["input"], party["columns"]
        party["data"] = str(folder)
    code, said = runs("by_hand", "--epochs=2", job=runs.write(job))
    assert code == 0, said
    assert runs.measured("whole") == runs.measured("by_hand")
    assert len(runs.measured("whole")) == 2
    assert runs.learned("whole") == runs.learned("by_hand")


def test_scores_have_the_ids_of_the_table(runs: Runs) -> None:
    code, said = runs("scored", *PSI, f"--predict={runs.run_dir('whole') / 'output_model'}")
    assert code == 0, said
    scores = pd.read_csv(runs.run_dir("scored") / "predictions.csv", dtype={"id": str})
    assert scores["id"].tolist() == runs.ids("whole", "leader")[-len(scores) :]
    labels = pd.read_csv(runs.tables[0], dtype=str).set_index("id")["label"].astype(float)
    auc = roc_auc_score(labels[scores["id"]], scores["pred_probs"])
    assert auc == pytest.approx(runs.measured("whole")[-1][0], abs=1e-9)


def test_killed_while_it_aligns_and_gone_on_from_its_rows(runs: Runs) -> None:
    code, said = runs("killed", *PSI, "--epochs=1", "--max_restarts=2", roles="each_dies_once")
    assert code == 0, said
    assert said.count("was killed by SIGKILL and was started again") == 2
    assert runs.ids("killed", "leader") == runs.ids("killed", "follower") == runs.ids("whole", "leader")
    assert runs.measured("killed") == runs.measured("whole")[:1]
    for table in runs.tables:
        table.rename(table.with_suffix(".away"))
        table.write_text("id\n")  # whoever aligned again would complain
    try:
        code, said = runs("killed", *PSI, "--epochs=2", "--resume")
    finally:
        for table in runs.tables:
            table.with_suffix(".away").rename(table)
    assert code == 0, said
    assert runs.measured("killed")[-1:] == runs.measured("whole")[-1:]
    assert runs.learned("killed") == runs.learned("whole")


def test_a_column_that_is_missing_ends_both_with_the_same_words(runs: Runs) -> None:
    table = runs.folder / "narrow.csv"
    pd.read_csv(runs.tables[1], dtype=str, keep_default_na=False).drop(columns="C20").to_csv(table, index=False)
    job = runs.job()
    job["parties"]["followers"][0]["input"] = "narrow.csv"
    code, said = runs("narrow", *PSI, job=runs.write(job))
    assert code == 2, said
    for party in runs.names:
        assert f"follower: {table}: there is no column C20; there are id, I8" in runs.log("narrow", party)
