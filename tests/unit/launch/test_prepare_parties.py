"""What the parties that start here need of this host."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flps.config import load_split
from flps.config.split import EMBEDDED_ROWS
from flps.config.split_job import SplitJob
from flps.errors import ConfigError, ResourceError
from flps.launch.plan import Plan, Role
from flps.launch.prepare import check_keys, make_run_keys
from flps.launch.prepare_parties import with_embedded_rows, with_files
from flps.models.catalog import SPLIT
from flps.transport.security import make_keys

ROOT = Path(__file__).resolve().parents[3]
LEADER, FOLLOWER = Role("leader", 0, "h", "tcp://h:1"), Role("follower", 0, "h")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder, with its nets' yaml files."""
    shutil.copytree(ROOT / "configs" / "wide_deep", tmp_path / "job")
    return tmp_path / "job"


def plan_of(
    folder: Path, local: tuple[Role, ...] = (LEADER, FOLLOWER), *overrides: str, **fields: Any
) -> Plan[SplitJob]:
    config = load_split(folder / "job.yaml", overrides, (), SPLIT)
    job = SplitJob(run_id="r", run_dir="/r", config_dir=str(folder), config=config, leader="x", security="unix")
    return Plan(msgspec.structs.replace(job, **fields), (LEADER, FOLLOWER), local)


def test_paths_are_absolute_for_the_parties_that_start_here(folder: Path) -> None:
    (folder / "rows").mkdir()
    config = with_files(plan_of(folder, (FOLLOWER,), "hyper_parameters.data_path=rows")).job.config
    assert config.parties.followers[0].nets == (str(folder / "follower_bottom.yaml"),)
    assert config.parties.leader.nets == ("leader_bottom.yaml", "leader_top.yaml")  # another host's affair
    assert (config.data, config.hyper_parameters["data_path"]) == (str(folder / "rows"),) * 2


def test_the_working_folder_comes_second(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert with_files(plan_of(folder, (LEADER,), "hyper_parameters.data_path=rows")).job.config.data == str(
        tmp_path / "elsewhere" / "rows"
    )
    (folder / "rows").mkdir()
    assert with_files(plan_of(folder, (LEADER,), "hyper_parameters.data_path=rows")).job.config.data == str(
        folder / "rows"
    )


def test_rows_of_a_partys_own(folder: Path) -> None:
    (folder / "mine").mkdir()
    plan = plan_of(folder, (LEADER,), "parties.leader.data=mine")
    config = with_files(plan).job.config
    assert (config.parties.leader.data, config.data) == (str(folder / "mine"), EMBEDDED_ROWS)
    assert with_embedded_rows(plan, {}) is plan  # nothing is generated that nobody reads


def test_everything_that_is_missing_is_said_at_once(folder: Path) -> None:
    (folder / "leader_top.yaml").unlink()
    text = (folder / "leader_bottom.yaml").read_text()
    (folder / "leader_bottom.yaml").write_text(text.replace("sens:", "senz:"))
    shutil.copy(folder / "leader_bottom_tee.yaml", folder / "follower_bottom.yaml")
    plan = plan_of(folder, (LEADER, FOLLOWER), "hyper_parameters.data_path=nowhere", security="tls")
    with pytest.raises(ConfigError) as caught:
        with_files(plan)
    said = str(caught.value)
    for words in (
        "7 things are wrong with the parties' files",
        f"parties.leader.nets: there is no file {folder}/leader_top.yaml nor ",
        f"{folder}/leader_bottom.yaml:",
        "senz: there is no such key",
        f"{folder}/follower_bottom.yaml:4: role: is leader, but the net is the follower's",
        f"data: there is no folder {folder}/nowhere",
        "hyper_parameters.server_cert_path: is missing, which enable_ssl needs",
        "hyper_parameters.client_cert_path: is missing",
        "hyper_parameters.ca_cert_path: is missing",
    ):
        assert words in said, said


def test_rows_to_be_aligned_are_wanted_of_the_party_that_starts_here(folder: Path) -> None:
    said = ("psi.id_column=oaid", "parties.leader.input=a.csv")
    with pytest.raises(ConfigError, match=r"parties\.leader\.input: there is no file"):
        with_files(plan_of(folder, (LEADER,), *said))
    (folder / "a.csv").touch()
    leader = with_files(plan_of(folder, (LEADER,), *said)).job.config.parties.leader
    assert leader.input == str(folder / "a.csv")
    with pytest.raises(ConfigError, match=r"parties\.followers\[0\]\.input: is missing"):
        with_files(plan_of(folder, (FOLLOWER,), *said))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (("input=postgresql://h/d",), "parties.leader.input: a database wants"),
        (("input=env:NOWHERE_TO_BE_FOUND", "table=t"), "the environment has no NOWHERE_TO_BE_FOUND"),
        (("input=a.txt",), "expected a file .csv"),
        (("input=a.csv", "table=t"), "is of a database, but"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_before_anything_starts(
    folder: Path, said: tuple[str, ...], complaint: str
) -> None:
    (folder / "a.csv").touch()
    (folder / "a.txt").touch()
    overrides = ("psi.id_column=id", *(f"parties.leader.{one}" for one in said))
    with pytest.raises(ConfigError, match=complaint):
        with_files(plan_of(folder, (LEADER,), *overrides))


def test_generated_rows_are_made_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def ensure(cache: Path) -> Path:
        made.append(cache)
        return cache / "rows"

    monkeypatch.setattr("flps.data.criteo_like.ensure", ensure)
    said: list[str] = []
    config = with_embedded_rows(plan_of(folder), {"FLPS_CACHE_DIR": str(tmp_path)}, said.append).job.config
    assert made == [tmp_path]
    assert (config.data, config.hyper_parameters["data_path"]) == (str(tmp_path / "rows"),) * 2
    assert "generated rows" in said[0]


@pytest.mark.parametrize(
    ("local", "missing"),
    [
        (LEADER, "leader.secret, follower.public"),
        (FOLLOWER, "follower.secret, leader.public"),
    ],
)
def test_keys_that_a_party_needs(local: Role, missing: str, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    plan = plan_of(folder, (local,), security="curve", key_dir=str(keys))
    with pytest.raises(ConfigError, match=f"no CURVE keys: {missing} missing .* instead of follower.public"):
        check_keys(plan)
    make_keys(keys, ("leader", "follower"))
    check_keys(plan)


def test_shared_keys_lie_in_a_folder_that_nobody_else_enters(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "flps-1"
    job = plan_of(folder, (LEADER,), security="curve", key_dir=str(base / "keys")).job
    plan = Plan(job, (LEADER, FOLLOWER), (LEADER,), makes_keys=True)
    make_run_keys(plan)
    before = (base / "keys" / "leader.secret").read_bytes()
    make_run_keys(plan)
    assert (base / "keys" / "leader.secret").read_bytes() == before
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert sorted(path.name for path in (base / "keys").iterdir()) == [
        "follower.public", "follower.secret", "leader.public", "leader.secret"
    ]  # fmt: skip
    base.chmod(0o755)
    with pytest.raises(ResourceError, match="others can enter"):
        make_run_keys(plan)
