"""Each key of `runner` whose effect is in a worker: what changes when it changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flps.errors import ConfigError, FlpsError
from flps.remote import Servers

# For jobs that one role ends: threads cannot be stopped, so the others wait until they miss it.
IMPATIENT = {"network": {"heartbeat_s": 0.1, "lease_s": 1.0, "start_timeout_s": 2.0}}


def steps_of(folder: Path, client: int, batch: int = 24) -> int:
    """Steps of one epoch of a client."""
    lines = len((folder / "fl_train_data" / f"{client}.csv").read_text().splitlines())
    return -(-lines // batch)


@pytest.mark.parametrize("geo_step", [1, 5, 1000])
def test_geo_step_is_the_number_of_windows(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, geo_step: int
) -> None:
    finals: list[bool] = []
    original = Servers.window

    def window(servers: Servers, epoch: int, samples: int, final: bool, deltas: Any, tables: Any) -> Any:
        finals.extend([final] if deltas else [])
        return original(servers, epoch, samples, final, deltas, tables)

    monkeypatch.setattr(Servers, "window", window)
    folder = shards(1)
    federate(folder, {"runner": {"geo_step": geo_step, "epochs": 2}}, workers=1)
    assert len(finals) == 2 * -(-steps_of(folder, 0) // geo_step)
    assert sum(finals) == 2


@pytest.mark.parametrize("interval", [1, 7])
def test_print_interval(
    shards: Callable[..., Path], federate: Callable[..., Any], caplog: pytest.LogCaptureFixture, interval: int
) -> None:
    folder = shards(1)
    with caplog.at_level(logging.INFO):
        federate(folder, {"runner": {"print_interval": interval, "epochs": 1}}, workers=1)
    steps = steps_of(folder, 0)
    printed = [int(match[1]) for match in re.finditer(r"batch: \[(\d+)\]", caplog.text)]
    assert printed == [step for step in range(1, steps + 1) if step % interval == 0 or step == steps]


@pytest.mark.parametrize(("interval", "epochs"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_save_interval_and_model_save_path(
    shards: Callable[..., Path], federate: Callable[..., Any], interval: int, epochs: list[int]
) -> None:
    runner = {"save_interval": interval, "epochs": 5, "train_batch_size": 200, "model_save_path": "kept"}
    saved = federate(shards(2), {"runner": runner})
    assert saved.epochs() == epochs
    assert saved.folder().parent == saved.run_dir / "kept"


@pytest.mark.parametrize(("interval", "epochs"), [(0, [4]), (1, [0, 1, 2, 3, 4]), (2, [1, 3, 4])])
def test_evaluation_interval(
    shards: Callable[..., Path], federate: Callable[..., Any], interval: int, epochs: list[int]
) -> None:
    folder = shards(2)
    runner = {"epochs": 5, "train_batch_size": 200, "test_data_dir": str(folder / "fl_test_data")}
    saved = federate(folder, {"runner": runner, "evaluation": {"interval": interval}})
    events = saved.events("eval")
    first = events[0]["epoch"] - epochs[0]  # events count epochs from 0 or from 1
    assert [event["epoch"] - first for event in events] == epochs
    assert [event["hr_full"] is not None for event in events] == [False] * (len(epochs) - 1) + [True]


def test_evaluating_changes_no_weight(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    folder = shards(2)
    test = {"test_data_dir": str(folder / "fl_test_data")}
    for mode in ("sync", "geo"):
        runner = {"sync_mode": mode, "geo_step": 1000, "local_sparse": ["user_embedding"]}
        workers = 2 if mode == "sync" else 1
        with_test, without = (
            federate(folder, {"runner": runner | more}, workers=workers).parameters() for more in (test, {})
        )
        trained = [name for name in without if "user" not in name]
        assert all(np.array_equal(with_test[name], without[name]) for name in trained)


@pytest.mark.parametrize("names", [("embedding_0.w_0", "embedding_1.w_0"), ("user_embedding", "item_embedding")])
def test_local_and_remote_sparse(
    shards: Callable[..., Path], federate: Callable[..., Any], names: tuple[str, str]
) -> None:
    user, item = names
    folder = shards(2)
    for local, remote, private in (
        ([user], [item], ["user_embedding"]),
        ([], [user, item], []),
        ([user, item], [], ["user_embedding", "item_embedding"]),
    ):
        saved = federate(folder, {"runner": {"local_sparse": local, "remote_sparse": remote, "epochs": 1}})
        kinds = {
            table: {
                path.name.split("-")[0] for path in saved.folder().glob("*-of-*") if table.encode() in path.read_bytes()
            }
            for table in ("user_embedding", "item_embedding")
        }
        expected = {table: {"private" if table in private else "shared"} for table in kinds}
        assert kinds == expected


def test_an_unknown_table_is_named(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"user_embeding.*did you mean 'user_embedding'"):
        federate(shards(1), {"runner": {"local_sparse": ["user_embeding"]}, **IMPATIENT}, workers=1)


def test_dump_param_writes_dense_parameters(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    runner = {"need_dump": True, "dump_param": ["prediction.bias"]}
    saved = federate(shards(1), {"runner": runner | {"epochs": 2}}, workers=1)
    for epoch in (0, 1):
        (path,) = saved.run_dir.glob(f"dump/epoch_{epoch}/part-000-00000")
        assert re.fullmatch(rf"\({epoch},prediction\.bias\)-?[\d.e-]+\n", path.read_text())


def test_a_private_parameter_is_not_dumped(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    runner = {"need_dump": True, "dump_param": ["tower.0.weight"], "private": ["tower.*"]}
    with pytest.raises(ConfigError, match=r"tower\.0\.weight is private"):
        federate(shards(1), {"runner": runner}, workers=1)


@pytest.mark.parametrize("key", ["dump_fields", "dump_param"])
def test_an_unknown_name_to_dump_is_an_error(
    shards: Callable[..., Path], federate: Callable[..., Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=f"{key}.*nothing_like_it"):
        federate(shards(1), {"runner": {"need_dump": True, key: ["nothing_like_it"]}, **IMPATIENT}, workers=1)


@pytest.mark.parametrize("method", ["example", "word"])
def test_example_count_method(
    shards: Callable[..., Path], federate: Callable[..., Any], caplog: pytest.LogCaptureFixture, method: str
) -> None:
    folder = shards(1)
    file = folder / "fl_train_data" / "0.csv"
    text = file.read_text()
    if method == "word":  # two words a line
        file.write_text(text.replace(",1\n", ", 1\n").replace(",0\n", ", 0\n"))
    with caplog.at_level(logging.INFO):
        federate(folder, {"runner": {"example_count_method": method, "epochs": 1}}, workers=1)
    count = len(text.splitlines()) * (2 if method == "word" else 1)
    assert f"{count} training examples by count method '{method}'" in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_num(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    federate(shards(2), {"runner": {"thread_num": threads, "epochs": 1}})
    assert asked == [threads] * 2


@pytest.mark.parametrize("mode", ["sync", "async", "geo"])
def test_pure_bf16_trains_with_tables_of_full_width(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str
) -> None:
    folder = shards(2)
    results = []
    for bf16 in (False, True):
        runner = {"sync_mode": mode, "pure_bf16": bf16, "test_data_dir": str(folder / "fl_test_data"), "epochs": 4}
        saved = federate(folder, {"runner": runner})
        results.append((saved.parameters(), saved.events("epoch")[-1]))
    (plain, its_epoch), (short, short_epoch) = results
    assert all(array.dtype == np.float32 for name, array in short.items() if name.endswith("values"))
    assert not np.array_equal(plain["dense.values"], short["dense.values"])
    assert abs(its_epoch["loss"] - short_epoch["loss"]) < 0.05


def test_use_gpu_without_one_is_a_clear_error(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match=r"use_gpu.*no CUDA device"):
        federate(shards(1), {"runner": {"use_gpu": True}, **IMPATIENT}, workers=1)


def test_split_file_list(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    """True: each client has its share of the files; False: the folder is each client's own, and it reads all."""
    folder = shards(4)
    lines = sum(len(path.read_text().splitlines()) for path in (folder / "fl_train_data").iterdir())
    for split, samples in ((True, lines), (False, 2 * lines)):
        saved = federate(folder, {"runner": {"split_file_list": split, "epochs": 1}})
        assert [event["samples"] for event in saved.events("epoch")] == [samples]


@pytest.mark.parametrize("mode", ["sync", "geo"])
@pytest.mark.parametrize("servers", [1, 3])
def test_warmup_starts_from_the_saved_model(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str, servers: int
) -> None:
    """A job that learns nothing keeps what it started from, on any number of servers, and sees it from the start."""
    folder = shards(2)
    runner = {"sync_mode": mode, "local_sparse": ["user_embedding"], "private": ["prediction.*"]}
    first = federate(folder, {"runner": runner | {"epochs": 4}}, servers=2)
    still = {"optimizer": {"class": "sgd", "learning_rate": 1e-30}}
    warm = {"warmup_model_path": str(first.folder()), "epochs": 1}
    again = federate(folder, {"runner": runner | warm, "hyper_parameters": still}, servers=servers)
    cold = federate(folder, {"runner": runner | {"epochs": 1}, "hyper_parameters": still}, servers=servers)
    trained, kept = first.parameters(), again.parameters()
    tables = ("user_embedding", "item_embedding", "dense", "dense_private")
    assert max(np.abs(trained[f"{name}.values"] - kept[f"{name}.values"]).max() for name in tables) < 1e-6
    before, warmed, unwarmed = (run.events("epoch")[-1]["loss"] for run in (first, again, cold))
    assert warmed <= before < unwarmed - 0.01


def test_warmup_needs_a_saved_model(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    folder = shards(1)
    with pytest.raises(FlpsError, match=r"must hold shared-0-of-n"):
        federate(folder, {"runner": {"warmup_model_path": str(folder)}, **IMPATIENT}, workers=1)
