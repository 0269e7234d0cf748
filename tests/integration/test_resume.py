"""A run that goes on from a checkpoint ends as the run that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.checkpoint.record import sealed, write_record
from flps.checkpoint.run import read_complete
from flps.errors import DataError

# One that comes while the last is still being written is passed over: which there are depends on the machine.
OFTEN = {"save_checkpoint_interval": 4, "keep_checkpoint_max": 100, "epochs": 2}


def assert_same(one: Any, other: Any) -> None:
    """The same model, rule state and private tables included, and the same figures of every epoch that both trained."""
    mine, its = one.parameters(), other.parameters()
    assert mine.keys() == its.keys()
    assert [name for name in mine if not np.array_equal(mine[name], its[name])] == []
    for kind, fields in (
        ("epoch", ("epoch", "samples", "loss", "auc", "client_auc")),
        ("eval", ("epoch", "hr", "auc")),
    ):
        told, again = ([{f: event[f] for f in fields} for event in run.events(kind)] for run in (one, other))
        assert again
        assert told[-len(again) :] == again


@pytest.mark.parametrize(
    ("mode", "workers", "settings"),
    [
        pytest.param("sync", 3, {}, marks=pytest.mark.slow),
        ("sync", 3, {"local_sparse": ["user_embedding"], "private": ["prediction.*"], "negatives": "fresh"}),
        ("async", 1, {"local_sparse": ["user_embedding"]}),
        ("geo", 1, {"local_sparse": ["user_embedding"]}),
        pytest.param("geo", 1, {"geo_step": 7}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_like_the_one_that_was_never_interrupted(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str, workers: int, settings: dict[str, Any]
) -> None:
    folder = shards(workers)
    runner = {"runner": {"sync_mode": mode, "test_data_dir": str(folder / "fl_test_data"), **OFTEN, **settings}}
    whole = federate(folder, runner, workers=workers)
    made = whole.checkpoints()
    assert {"1-0", "2-0"} < set(made)
    for name in [*made][:: max(1, len(made) // 3)]:
        if name != "2-0":
            assert_same(whole, federate(folder, runner, workers=workers, resume_from=made[name]))


def within(run: Any, epoch: int) -> Path:
    """A checkpoint in the middle of an epoch."""
    found = [path for name, path in run.checkpoints().items() if name.startswith(f"{epoch}-") and name != f"{epoch}-0"]
    return found[len(found) // 2]


def joined(run: Any) -> dict[str, Any]:
    """Without the step count of a dense table, of which every server has its own."""
    return {name: value for name, value in run.parameters().items() if name != "dense.state.2"}


def test_at_another_number_of_servers_and_again_at_another(
    shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    folder = shards(2)
    runner = {"runner": {"sync_mode": "sync", **OFTEN, "local_sparse": ["user_embedding"]}}
    whole = federate(folder, runner)
    three = federate(folder, runner, servers=3, resume_from=within(whole, 0))
    two = federate(folder, runner, servers=2, coordinators=0, resume_from=within(three, 1))
    for run in (three, two):
        assert [name for name, array in joined(whole).items() if not np.array_equal(array, joined(run)[name])] == []
        assert run.events("epoch")[-1]["loss"] == whole.events("epoch")[-1]["loss"]


@pytest.mark.slow
def test_more_epochs_than_were_planned(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    folder = shards(2)
    runner = {"sync_mode": "sync", **OFTEN, "test_data_dir": str(folder / "fl_test_data")}
    short, long = (federate(folder, {"runner": {**runner, "epochs": epochs}}) for epochs in (2, 3))
    assert_same(long, federate(folder, {"runner": {**runner, "epochs": 3}}, resume_from=short.checkpoints()["2-0"]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["geo", "async"])
def test_several_workers_that_do_not_wait_for_each_other(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str
) -> None:
    """What they see of each other depends on the moment; what each trained, and that all of it arrived, does not."""
    folder = shards(3)
    runner = {"sync_mode": mode, **OFTEN, "local_sparse": ["user_embedding"]}
    whole = federate(folder, {"runner": runner}, workers=3)
    assert whole.checkpoints()
    for name in [*whole.checkpoints()][1:-1:4]:
        again = federate(folder, {"runner": runner}, workers=3, resume_from=whole.checkpoints()[name])
        mine, its = whole.parameters(), again.parameters()
        assert mine.keys() == its.keys()
        for table in ("user_embedding", "item_embedding"):
            assert np.array_equal(mine[f"{table}.keys"], its[f"{table}.keys"])
            assert np.corrcoef(mine[f"{table}.values"].ravel(), its[f"{table}.values"].ravel())[0, 1] > 0.9
        one, other = (run.events("epoch")[-1] for run in (whole, again))
        assert one["samples"] == other["samples"]
        assert abs(one["loss"] - other["loss"]) < 0.02


def test_a_worker_that_was_lost_before_takes_part_from_the_next_epoch_on(
    shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    folder = shards(3)
    runner = {"runner": {"sync_mode": "sync", **OFTEN, "epochs": 3, "local_sparse": ["user_embedding"]}}
    whole = federate(folder, runner, workers=3)
    start = within(whole, 1)
    for path in start.glob("private-1-of-3*"):
        path.unlink()
    record = start / "shared-0-of-1.safetensors.json"
    part = msgspec.json.decode(record.read_bytes())
    part["state"]["cohort"]["expected"].remove(1)
    record.write_bytes(sealed(part))
    manifest = read_complete(start)
    files = {name: digest for name, digest in manifest.files.items() if not name.startswith("private-1")}
    write_record(start / "manifest.json", msgspec.structs.replace(manifest, files=files))
    again = federate(folder, runner, workers=3, resume_from=start)
    before, after = ({e["epoch"]: e for e in run.events("epoch")} for run in (whole, again))
    assert after[1]["client_auc"]["1"] is None
    assert after[1]["samples"] < before[1]["samples"]
    assert after[2]["samples"] == before[2]["samples"]
    assert abs(after[2]["loss"] - before[2]["loss"]) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("what", ["other samples", "another part", "a flipped bit", "another table"])
def test_a_worker_refuses_what_is_not_its_own(
    shards: Callable[..., Path], federate: Callable[..., Any], what: str
) -> None:
    folder = shards(1)
    runner: dict[str, Any] = {"sync_mode": "sync", **OFTEN, "epochs": 1, "local_sparse": ["user_embedding"]}
    start = within(federate(folder, {"runner": runner}, workers=1), 0)
    settings: dict[str, Any] = {"runner": runner, "network": {"lease_s": 1}}
    path = start / "private-0-of-1.safetensors"
    if what == "other samples":
        csv = folder / "fl_train_data" / "0.csv"
        csv.write_text(csv.read_text() + "3,4,1\n")
        reason = r"was written by a client with \d+ samples of 60 users an epoch, here are \d+ of 60"
    elif what == "another part":
        record = path.with_name(path.name + ".json")
        text = record.read_text().replace(read_complete(start).checkpoint, "another")
        record.write_bytes(sealed(msgspec.json.decode(text)))
        reason = "belongs to checkpoint another"
    elif what == "a flipped bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        reason = "is not what was saved"
    else:
        settings["table_parameters"] = {"user_embedding": {"learning_rate": 0.5}}
        reason = r"private-0-of-1.safetensors: table user_embedding was .*\"learning_rate\":0.01"
    with pytest.raises(DataError, match=reason):
        federate(folder, settings, workers=1, resume_from=start)
