"""The first phase of a job: parties that have aligned rows, parties that have lost them, and parties that never can."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from flps.config.split import Follower, Leader, Parties, Psi, SplitConfig, SplitRunner
from flps.config.split_job import SplitJob
from flps.config.types import Network
from flps.data.criteo_tables import TableColumns
from flps.errors import ConfigError, DataError, FlpsError
from flps.party.agreed import ALIGNMENT, UNUSABLE, Unaligned, fits, unaligned
from flps.party.align import Aligning, play_aligned
from flps.psi.aligned import read_card
from flps.split.communicator import VerticalFederatedCommunicator, in_process
from flps.split.parties import Role, ServerConfig

WAIT_S = 20.0
NETWORK = Network(heartbeat_s=0.1, retry_s=0.1, lease_s=10.0, start_timeout_s=10.0)
NAMES = ("leader", "shop")


class Killed(BaseException):
    """What a party does not survive."""


class Model:
    """Needs one number column, and says how often it made rows."""

    def __init__(self) -> None:
        self.prepared = 0
        self.is_killed = False

    def columns(self, label: str) -> TableColumns:
        return TableColumns(("I1",), (), label)

    def prepare(self, table: Path, folder: Path, psi: Psi) -> None:
        if self.is_killed:
            raise Killed
        self.prepared += 1
        folder.mkdir()
        shutil.copy(table, folder / "made.csv")


class Stage:
    """Leader and one follower with a table each, as threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = {name: Model() for name in NAMES}
        self.table("leader", id=["a", "b", "c", "d"], label=[0, 1, 0, 1], I1=[1, 2, 3, 4])
        self.table("shop", id=["d", "x", "a", "c"], I1=[40, 50, 10, 30])

    def table(self, party: str, /, **columns: list[Any]) -> None:
        pd.DataFrame(columns).to_csv(self.folder / f"{party}.csv", index=False)

    def job(self, run: str = "run", **changes: Any) -> SplitJob:
        parties = Parties(
            leader=Leader(input=str(self.folder / "leader.csv"), columns="0"),
            followers=(Follower(name="shop", input=str(self.folder / "shop.csv"), columns="1"),),
        )
        psi = Psi(id_column="id", order="leader", cores=1)
        runner = SplitRunner(save_checkpoint_interval=5)
        config = SplitConfig(parties=parties, psi=psi, runner=runner, **changes.pop("config", {}))
        job = SplitJob(
            run_id="r", run_dir=str(self.folder / run), config_dir="/c", config=config, leader="x", security="unix"
        )
        return msgspec.structs.replace(job, **changes)

    def __call__(self, job: SplitJob | None = None) -> dict[str, FlpsError | tuple[list[str], str]]:
        """Both parties play; party -> the ids of its aligned rows and the alignment's digest, or how it failed."""
        job = job or self.job()
        links = dict(zip(NAMES, in_process(*NAMES, threads=True, timeout_s=WAIT_S), strict=True))
        with ThreadPoolExecutor(2) as pool:
            played = {name: pool.submit(self._play, job, name, links[name]) for name in NAMES}
            return {name: _outcome(future) for name, future in played.items()}

    def killed_once(self, who: str) -> dict[str, FlpsError | tuple[list[str], str]]:
        """As `self()`, but one party is killed when it has found its rows, and started again."""
        job = self.job()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
            made = {name: _links(name, f"ipc://{folder}/leader", 1) for name in NAMES}
            self.models[who].is_killed = True
            played = {name: pool.submit(self._play, job, name, made[name]) for name in NAMES}
            with pytest.raises(Killed):
                played[who].result(WAIT_S)
            self.models[who].is_killed = False
            played[who] = pool.submit(self._play, job, who, _links(who, f"ipc://{folder}/leader", 2))
            return {name: _outcome(future) for name, future in played.items()}

    def _play(self, job: SplitJob, name: str, links: VerticalFederatedCommunicator) -> tuple[list[str], str]:
        try:
            return self._play_on(job, name, links)
        except Killed:
            _hang_up(links)
            raise

    def _play_on(self, job: SplitJob, name: str, links: VerticalFederatedCommunicator) -> tuple[list[str], str]:
        seen: list[tuple[list[str], str]] = []

        def play(rows: Path, digest: str) -> None:
            links.agree({ALIGNMENT: digest}, fits=lambda said: fits(said) if unaligned(said) else [])
            if missing := unaligned(links.summaries):
                raise Unaligned(", ".join(missing))
            seen.append((pd.read_csv(rows / "made.csv")["id"].tolist(), digest))

        links.launch()
        try:
            play_aligned(Aligning(job, "leader" if name == "leader" else "follower", 0, self.models[name]), links, play)
        except FlpsError as error:
            links.close(f"{type(error).__name__}: {error}", 1.0)
            raise
        links.close()
        return seen[-1]

    @property
    def prepared(self) -> list[int]:
        return [self.models[name].prepared for name in NAMES]


def _links(name: str, address: str, incarnation: int) -> VerticalFederatedCommunicator:
    others = [ServerConfig(other, address) for other in NAMES if other != name]
    role: Role = "leader" if name == "leader" else "follower"
    return VerticalFederatedCommunicator(
        ServerConfig(name, address), others, role=role, rank=None if role == "leader" else 0, network=NETWORK,
        timeout_s=WAIT_S, incarnation=incarnation,
    )  # fmt: skip


def _hang_up(links: VerticalFederatedCommunicator) -> None:
    """As a process that is killed: without a word."""
    links._links._is_over.set()
    assert links._links._thread is not None
    assert links._links.wire is not None
    links._links._thread.join()
    links._links.wire.close()


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result(WAIT_S)
    except FlpsError as error:
        return error


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def both(outcome: Mapping[str, Any]) -> tuple[list[str], str]:
    """What both parties have, which must be the same."""
    assert outcome["leader"] == outcome["shop"]
    assert not isinstance(outcome["leader"], FlpsError), outcome
    return outcome["leader"]  # type: ignore[no-any-return]


def test_parties_align_once(stage: Stage) -> None:
    ids, digest = both(stage())
    assert ids == ["a", "c", "d"]
    assert read_card(stage.folder / "run" / "aligned" / "shop" / "rows.csv").digest == digest
    assert both(stage()) == (ids, digest)
    assert stage.prepared == [1, 1]


@pytest.mark.parametrize("lost", NAMES)
@pytest.mark.parametrize("how", ["no card", "cut short", "card without end"])
def test_when_one_has_lost_its_rows_all_align_again(lost: str, how: str, stage: Stage) -> None:
    ids, digest = both(stage())
    folder = stage.folder / "run" / "aligned" / lost
    if how == "no card":
        (folder / "aligned.json").unlink()
    else:
        path = folder / ("rows/made.csv" if how == "cut short" else "aligned.json")
        path.write_bytes(path.read_bytes()[:-9])
    again, other = both(stage())
    assert again == ids
    assert other != digest
    assert stage.prepared == [2, 2]


@pytest.mark.parametrize("who", NAMES)
def test_a_kill_while_they_align_and_a_restart_come_to_the_same_rows(who: str, stage: Stage) -> None:
    ids, digest = both(stage.killed_once(who))
    assert ids == ["a", "c", "d"]
    assert min(stage.prepared) == 1  # the killed one never came so far in its first life
    assert both(stage()) == (ids, digest)


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("shop", {"id": ["a"], "I2": [1]}, r"shop: \S+/shop\.csv: there is no column I1; there are id, I2$"),
        ("shop", {"name": ["a"], "I1": [1]}, "there is no column id; there are name, I1$"),
        ("leader", {"id": ["a"], "I1": [1]}, "leader: .*there is no column label; there are id, I1$"),
        ("shop", {"id": ["a", "b", "a"], "I1": [1, 2, 3]}, r"1 of 3 rows repeat the id of an earlier one: rows 2 "),
        ("shop", {"id": ["a", "", "c"], "I1": [1, 2, 3]}, r"1 of 3 ids are empty, in rows 1 \(from 0\)"),
        ("leader", {"id": ["a"], "label": [7], "I1": [1]}, r"leader\.csv:2: column label: expected the label 0 or 1"),
        ("shop", {"id": ["a"], "I1": ["?"]}, r"shop\.csv:2: column I1: expected a number or nothing"),
    ],
)
def test_a_table_that_is_of_no_use_ends_both_with_the_same_words(
    name: str, columns: dict[str, list[Any]], says: str, stage: Stage
) -> None:
    stage.table(name, **columns)
    outcome = stage()
    assert isinstance(outcome["leader"], ConfigError)
    assert str(outcome["leader"]) == str(outcome["shop"])
    with pytest.raises(ConfigError, match=says):
        raise outcome["leader"]


def test_a_csv_that_cannot_be_read_is_named_with_the_line(stage: Stage) -> None:
    (stage.folder / "shop.csv").write_text("id,I1\na,1\nb,2,3\n")
    assert r"shop.csv: Error tokenizing data. C error: Expected 2 fields in line 3, saw 3" in str(stage()["leader"])


def test_nothing_in_common_ends_both_with_the_same_words(stage: Stage) -> None:
    stage.table("shop", id=["x", "y"], I1=[1, 2])
    outcome = stage()
    assert isinstance(outcome["leader"], DataError)
    assert "have no id in common" in str(outcome["shop"])
    assert str(outcome["leader"]) == str(outcome["shop"])


def test_rows_that_training_has_begun_with_are_not_replaced(stage: Stage) -> None:
    both(stage())
    folder = stage.folder / "run" / "checkpoint" / "shop"
    folder.mkdir(parents=True)
    (folder / "shop-net-x_step_5.json").write_text("{}")
    assert both(stage())
    shutil.rmtree(stage.folder / "run" / "aligned" / "shop")
    outcome = stage()
    assert "the aligned rows that shop was trained on are not there" in str(outcome["leader"])
    assert str(outcome["leader"]) == str(outcome["shop"])
    assert stage.prepared == [1, 1]


def test_a_run_that_goes_on_takes_the_rows_of_the_earlier_one(stage: Stage) -> None:
    first = both(stage())
    for name in NAMES:
        (stage.folder / f"{name}.csv").unlink()
    later = stage.job("later", resume_from=str(stage.folder / "run" / "checkpoint"))
    assert both(stage(later)) == first
    shutil.rmtree(stage.folder / "run")
    looks = {"runner": SplitRunner(task="predict", trained_models=str(stage.folder / "later" / "output_model"))}
    job = stage.job("looks")
    job = msgspec.structs.replace(job, config=msgspec.structs.replace(job.config, **looks))
    assert both(stage(job)) == first
    assert stage.prepared == [1, 1]


def test_rows_of_an_earlier_run_that_are_gone(stage: Stage) -> None:
    outcome = stage(stage.job("later", config={}, resume_from=str(stage.folder / "run" / "checkpoint")))
    assert both(outcome)  # no checkpoint there either: nothing was lost
    looks = SplitRunner(task="evaluate", trained_models=str(stage.folder / "other" / "output_model"))
    job = stage.job("looks")
    outcome = stage(msgspec.structs.replace(job, config=msgspec.structs.replace(job.config, runner=looks)))
    assert "the aligned rows that leader was trained on are not there" in str(outcome["shop"])


def test_a_model_that_knows_no_tables(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="psi: the model wide_deep has no `columns` and `prepare`"):
        Aligning(stage.job(), "leader", 0, object())


def test_what_parties_tell_that_do_not_all_have_rows() -> None:
    psi = {"order": "chance", "train_share": 0.5}
    assert fits({"leader": {ALIGNMENT: "", "psi": psi}, "shop": {ALIGNMENT: "ab", "epochs": 3}}) == []
    assert fits({"leader": {ALIGNMENT: "", "psi": psi}, "shop": {"epochs": 3}}) == [
        "psi: leader aligns rows first, shop does not"
    ]
    assert fits({"leader": {ALIGNMENT: "", "psi": psi}, "shop": {ALIGNMENT: "", "psi": psi | {"order": "leader"}}})
    assert fits({"leader": {ALIGNMENT: "ab"}, "shop": {ALIGNMENT: "", UNUSABLE.format("shop"): "no table"}}) == [
        "shop: no table"
    ]
    assert "alignment: leader has ab, shop has cd" in fits({"leader": {ALIGNMENT: "ab"}, "shop": {ALIGNMENT: "cd"}})
