"""What is made before a role starts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from flps.config.job import Job
from flps.config.types import EMBEDDED, Config, Runner
from flps.errors import ConfigError, ResourceError
from flps.launch.arguments import Arguments
from flps.launch.plan import Plan, Role
from flps.launch.prepare import (
    cache_dir,
    check_keys,
    private_dir,
    private_root,
    trainer_script,
    with_embedded,
    write_job,
)
from flps.transport.access import allow, revoke
from flps.transport.security import make_keys, public_key

CONFIG = Config(runner=Runner(train_data_dir="d"))


def job(**fields: object) -> Job:
    base = Job(run_id="r", run_dir="", config_dir="", config=CONFIG, workers=1, servers=("s",), coordinator="s",
               coordinators=0, security="curve")  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def test_the_private_folder_is_private_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "flps-1"
    with private_dir(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "keys").mkdir()
        (folder / "keys" / "worker.secret").write_text("x")
    assert not folder.exists()
    with private_dir(None):
        pass


def test_the_private_folder_is_made_by_us_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "no" / "such"):
        with pytest.raises(ResourceError, match="cannot make"), private_dir(folder):
            pytest.fail("not reached")
    with pytest.raises(ResourceError, match="too long for a unix socket"), private_dir(tmp_path / ("x" * 100)):
        pytest.fail("not reached")
    assert (tmp_path / "there").is_dir()


def test_where_private_folders_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp")
    assert private_root({"XDG_RUNTIME_DIR": str(short)}) == short
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/t" * 40)
    assert private_root({}) == short
    assert private_root({"XDG_RUNTIME_DIR": "/no/such/folder"}) == short
    assert private_root({"XDG_RUNTIME_DIR": str(tmp_path / ("y" * 60))}) == short


def test_where_the_cache_is(tmp_path: Path) -> None:
    assert cache_dir({"FLPS_CACHE_DIR": str(tmp_path)}) == tmp_path
    assert cache_dir({}) == Path.home() / ".cache" / "flps"


def test_a_missing_trainer_script() -> None:
    assert trainer_script(Arguments()).trainer is None
    with pytest.raises(ConfigError, match=r"mine\.py: there is no such file$"):
        trainer_script(Arguments(trainer="mine.py"))
    with pytest.raises(ConfigError, match="is built in: leave it out"):
        trainer_script(Arguments(trainer="../../../tools/static_fl_trainer.py"))


def test_a_trainer_script_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert trainer_script(Arguments(trainer="mine.py")).trainer == str(tmp_path / "mine.py")


SERVER, WORKER, COORDINATOR = Role("server", 0, "a"), Role("worker", 0, "b"), Role("coordinator", 0, "a")
EVERY_KEY = {f"{role}.{half}" for role in ("server", "worker", "coordinator") for half in ("public", "secret")}


@pytest.mark.parametrize(
    ("roles", "local", "wanted"),
    [
        ([SERVER, WORKER], [WORKER], {"worker.secret", "server.public"}),
        ([SERVER, WORKER], [SERVER], {"server.secret", "server.public", "worker.public"}),
        ([SERVER, WORKER, COORDINATOR], [WORKER], {"worker.secret", "server.public", "coordinator.public"}),
        (
            [SERVER, WORKER, COORDINATOR],
            [SERVER, COORDINATOR],
            {"server.secret", "coordinator.secret", "server.public", "worker.public", "coordinator.public"},
        ),
        ([SERVER, WORKER], [SERVER, WORKER], {"server.secret", "worker.secret", "server.public", "worker.public"}),
    ],
)
def test_missing_keys_are_named_with_the_command_that_makes_them(
    roles: list[Role], local: list[Role], wanted: set[str], tmp_path: Path
) -> None:
    plan = Plan(job(key_dir=str(tmp_path)), tuple(roles), tuple(local))
    with pytest.raises(ConfigError, match="flps keys make") as caught:
        check_keys(plan)
    said = str(caught.value).partition("missing")[0]
    assert {name for name in EVERY_KEY if name in said} == wanted
    for name in wanted:
        (tmp_path / name).touch()
    check_keys(plan)


def test_keys_of_owners_stand_for_the_key_of_the_role(tmp_path: Path) -> None:
    make_keys(tmp_path, ["server"])
    plan = Plan(job(key_dir=str(tmp_path)), (SERVER, WORKER), (SERVER,))
    with pytest.raises(ConfigError, match=r"no CURVE keys: worker\.public missing .* `flps keys allow`"):
        check_keys(plan)
    make_keys(tmp_path / "owner", ["worker"])
    allow(tmp_path, public_key(tmp_path / "owner", "worker"), "hospital", "worker", frozenset({0}))
    check_keys(plan)
    revoke(tmp_path, "hospital")
    with pytest.raises(ConfigError, match=r"worker\.public missing"):
        check_keys(plan)


@pytest.mark.parametrize("security", ["unix", "plain", "loopback"])
def test_only_curve_needs_keys(security: str) -> None:
    check_keys(Plan(job(security=security, key_dir="/no/such"), (), ()))


def test_own_data_is_left_alone() -> None:
    assert with_embedded(CONFIG, 10, {}) is CONFIG


def test_the_job_is_written_down(tmp_path: Path) -> None:
    one = job(run_dir=str(tmp_path))
    write_job(one, b"runner: {}\n")
    assert (tmp_path / "config.yaml").read_bytes() == b"runner: {}\n"
    assert msgspec.json.decode((tmp_path / "job.json").read_bytes(), type=Job) == one
    with pytest.raises(ResourceError, match="cannot write into"):
        write_job(job(run_dir=os.devnull), b"")


@pytest.mark.parametrize(
    ("keys", "division"),
    [({}, {}), ({"negatives": "fixed", "num_neg": 2}, {"negatives": "fixed", "num_neg": 2})],
)
def test_the_default_data_takes_its_place(
    keys: dict[str, object], division: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ensure(cache: Path, clients: int, **more: object) -> Path:
        asked.append((cache, clients, more))
        return tmp_path / "made"

    monkeypatch.setattr("flps.data.movielens_like.ensure", ensure)
    config = Config(runner=Runner(train_data_dir=EMBEDDED, **keys))  # type: ignore[arg-type]
    said: list[str] = []
    runner = with_embedded(config, 10, {"FLPS_CACHE_DIR": str(tmp_path)}, said.append).runner
    assert (runner.train_data_dir, runner.test_data_dir) == (
        str(tmp_path / "made/fl_train_data"),
        str(tmp_path / "made/fl_test_data"),
    )
    assert asked == [(tmp_path, 10, division)]
    assert "10 clients" in said[0]


def test_a_test_folder_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flps.data.movielens_like.ensure", lambda cache, clients: tmp_path)
    config = Config(runner=Runner(train_data_dir=EMBEDDED, test_data_dir="my/tests"))
    runner = with_embedded(config, 2, {}).runner
    assert (runner.train_data_dir, runner.test_data_dir) == (str(tmp_path / "fl_train_data"), "my/tests")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="FLPS_CACHE_DIR"):
        with_embedded(
            Config(runner=Runner(train_data_dir=EMBEDDED)), 2, {"FLPS_CACHE_DIR": str(tmp_path / "file" / "x")}
        )
