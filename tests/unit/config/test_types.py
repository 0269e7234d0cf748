"""The small questions that a configuration answers itself."""

from __future__ import annotations

import msgspec
import pytest

from flps.config import Config, Runner, TableParameters
from flps.config.job import Job
from flps.config.types import table_name


@pytest.mark.parametrize(
    ("runner", "is_fresh"),
    [
        (Runner(), True),
        (Runner(reader_type="QueueDataset"), False),
        (Runner(reader_type="DataLoader"), False),
        (Runner(negatives="fixed"), False),
        (Runner(negatives="fresh"), True),
    ],
)
def test_negatives_are_fresh_where_we_read_ourselves(runner: Runner, is_fresh: bool) -> None:
    assert runner.fresh_negatives is is_fresh


@pytest.mark.parametrize(
    ("variable", "table"),
    [
        ("embedding_0.w_0", "user_embedding"),
        ("embedding_1.w_0", "item_embedding"),
        ("item_embedding", "item_embedding"),
    ],
)
def test_variable_names_of_the_original(variable: str, table: str) -> None:
    assert table_name(variable) == table


def test_placement_comes_from_the_lists_or_the_table() -> None:
    config = Config(
        runner=Runner(local_sparse=("embedding_0.w_0",), remote_sparse=("item_embedding",)),
        table_parameters={"third": TableParameters(placement="private"), "fourth": TableParameters(rule="sgd")},
    )
    places = [config.placement(name) for name in ("user_embedding", "item_embedding", "third", "fourth", "fifth")]
    assert places == ["private", "shared", "private", None, None]


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().runner.epochs = 3  # type: ignore[misc]


def test_a_job_survives_json() -> None:
    job = Job(
        run_id="ab12",
        run_dir="/run",
        config_dir="/configs",
        config=Config(runner=Runner(local_sparse=("user_embedding",))),
        workers=2,
        servers=("tcp://127.0.0.1:1",),
        coordinator="tcp://127.0.0.1:2",
        coordinators=1,
        security="curve",
    )
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
