"""Which saved models a folder or a yaml means."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from flps.checkpoint import FORMAT, Manifest, write_manifest
from flps.config.job import Job
from flps.config.types import Config, Runner
from flps.errors import ConfigError, DataError
from flps.worker.evaluate import PAIRS
from flps.worker.measure import Measurement, pairs_of
from flps.worker.samples import Samples
from flps.worker.saved import chosen, find, find_for, newest_run, of_run, of_yaml


def config(**runner: object) -> Config:
    return Config(runner=msgspec.convert({"train_data_dir": "d", **runner}, Runner))


def save(folder: Path, *epochs: int, workers: int = 3) -> Path:
    for epoch in epochs:
        (folder / str(epoch)).mkdir(parents=True)
        manifest = Manifest(
            format=FORMAT, epoch=epoch, model="ncf", hyper_parameters={}, tables=(), dense={}, files={}, workers=workers
        )
        write_manifest(folder / str(epoch), manifest)
    return folder


def make_run(run_dir: Path, settings: Config | None = None, *epochs: int) -> Path:
    settings = settings or config()
    run_dir.mkdir(parents=True)
    job = Job(
        run_id="r", run_dir="/was/elsewhere", config_dir="/yaml", config=settings, workers=3, servers=(),
        coordinator="", coordinators=1, security="unix",
    )  # fmt: skip
    (run_dir / "job.json").write_bytes(msgspec.json.encode(job))
    save(run_dir / settings.runner.model_save_path, *epochs)
    return run_dir


def test_a_run_a_folder_of_models_and_one_model(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "log" / "run-1", None, 2, 10, 9)
    models = run_dir / "output_model"
    (models / "11").mkdir()  # not complete
    for folder in (run_dir, models):
        found = find(folder)
        assert list(found.models) == [2, 9, 10]
        assert found.models[9] == models / "9"
        assert found.run_dir == run_dir
    assert find(models / "9").models == {9: models / "9"}
    samples = of_run(find(models / "9"))
    assert (samples.clients, samples.config_dir, samples.config_path) == (3, Path("/yaml"), run_dir / "config.yaml")


def test_models_outside_of_the_run(tmp_path: Path) -> None:
    absolute = tmp_path / "models"
    run_dir = make_run(tmp_path / "log" / "run-1", config(model_save_path=str(absolute)), 1)
    assert find(run_dir).models == {1: absolute / "1"}
    lonely = find(absolute)
    assert lonely.job is None
    with pytest.raises(DataError, match="lies in no run folder"):
        of_run(lonely)
    assert of_yaml(lonely, config(), tmp_path / "x.yaml").clients == 3


def test_what_is_no_model(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run-1")
    with pytest.raises(DataError, match="no such folder"):
        find(tmp_path / "none")
    with pytest.raises(DataError, match="neither a run's folder"):
        find(tmp_path)
    with pytest.raises(DataError, match="no complete saved model"):
        find(run_dir)
    (run_dir / "job.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot read .*job\.json"):
        find(run_dir)


def test_the_newest_run(tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    older = make_run(tmp_path / "run-20250101-000000", None, 1)
    newer = make_run(tmp_path / "run-20260101-000000", None, 1)
    assert newest_run(tmp_path) == newer
    (tmp_path / "workerlog.0").symlink_to(Path(older.name) / "workerlog.0")
    assert newest_run(tmp_path) == older, "where the links point"


def test_where_infer_load_path_is_looked_for(tmp_path: Path) -> None:
    log_dir, beside = tmp_path / "log", tmp_path / "yaml"
    named, newest = make_run(log_dir / "run-1", None, 1), make_run(log_dir / "run-2", None, 2)
    save(beside / "output_model", 3)
    save(tmp_path / "far", 4)

    def epochs(settings: Config, run_dir: Path | None = None, logs: Path = log_dir) -> list[int]:
        return list(find_for(settings, beside, run_dir, logs).models)

    assert epochs(config()) == [2]
    assert epochs(config(), named) == [1]
    assert epochs(config(), logs=tmp_path / "nolog") == [3]
    assert epochs(config(infer_load_path=str(tmp_path / "far"))) == [4]
    assert epochs(config(infer_load_path="output_model/2", model_save_path="other")) == [2]
    with pytest.raises(DataError) as told:
        epochs(config(infer_load_path="lost"))
    assert str(newest / "lost") in str(told.value)
    assert str(beside / "lost") in str(told.value)
    with pytest.raises(DataError) as told:
        epochs(config(infer_load_path="lost"), named)
    assert str(beside) not in str(told.value), "a run that is named is the only place"


@pytest.mark.parametrize(
    ("first", "end", "wanted"), [(0, None, [1, 2, 3]), (2, 3, [2]), (2, None, [2, 3]), (0, 3, [1, 2])]
)
def test_epochs_that_are_measured(tmp_path: Path, first: int, end: int | None, wanted: list[int]) -> None:
    found = find(save(tmp_path, 1, 2, 3))
    assert list(chosen(found, config(infer_start_epoch=first, infer_end_epoch=end))) == wanted


def test_no_epoch_in_the_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="from infer_start_epoch 4 on and below infer_end_epoch 6; there are 1, 2"):
        chosen(find(save(tmp_path, 1, 2)), config(infer_start_epoch=4, infer_end_epoch=6))


def test_infer_batch_size() -> None:
    assert pairs_of(config(infer_batch_size=64)) == 64
    assert pairs_of(config(infer_batch_size=1)) == PAIRS


def test_nothing_to_measure_with() -> None:
    with pytest.raises(ConfigError, match="no test_data_dir"):
        Measurement(Samples(config(), Path(), Path("x.yaml"), 1))


@pytest.mark.parametrize("shuffle", [True, False])
def test_samples_come_in_the_files_order_unless_shuffled(tmp_path: Path, shuffle: bool) -> None:
    rows = [(user, item, (user + item) % 2) for user in range(8) for item in range(5)]
    (tmp_path / "0.csv").write_text("".join(f"{user},{item},{label}\n" for user, item, label in rows))
    settings = config(train_data_dir=".", negatives="fixed", shuffle=shuffle, train_batch_size=7)
    train = Samples(settings, tmp_path, tmp_path / "x.yaml", 1).train(0)
    told = [
        (int(user), int(item), int(label))
        for batch in train.epoch(0)
        for user, item, label in zip(*batch[:3], strict=True)
    ]
    assert sorted(told) == sorted(rows)
    assert (told == rows) is not shuffle
