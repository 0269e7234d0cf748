"""What leaves a worker: every frame of a whole run is recorded and searched for private rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from flps.errors import PrivacyError
from flps.frames import encode
from flps.message import Envelope, Look, Pull, Push, Update
from flps.privacy import conceal
from flps.remote import Servers
from flps.table import Initializer
from flps.transport.connection import Connection


class Tap:
    """Bytes of every frame that a worker hands to a socket, by the worker's thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: dict[str, list[bytes]] = {}
        original = Connection._transmit

        def transmit(connection: Connection, frames: list[Any]) -> None:
            name = threading.current_thread().name.replace("beat-", "").replace(":", ".")
            self.frames.setdefault(name, []).extend(bytes(memoryview(frame)) for frame in frames)
            original(connection, frames)

        monkeypatch.setattr(Connection, "_transmit", transmit)

    def everything(self, worker: str) -> bytes:
        """All that left this worker, behind one another."""
        return b"\0".join(self.frames[worker])


def rows_of(folder: Path, kind: str, table: str) -> dict[int, bytes]:
    """The bytes of each saved row of a table."""
    rows: dict[int, bytes] = {}
    for path in folder.glob(f"{kind}-*.safetensors"):
        tensors = safetensors.numpy.load_file(path)
        if f"{table}/keys" in tensors:
            values = tensors[f"{table}/values"]
            rows |= {int(key): row.tobytes() for key, row in zip(tensors[f"{table}/keys"], values, strict=True)}
    return rows


@pytest.mark.parametrize("mode", ["sync", "async", "geo"])
def test_no_private_row_leaves_a_worker(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Neither a row as it was first, nor as it was after any epoch, nor the table's name."""
    tap = Tap(monkeypatch)
    folder = shards(2)
    settings = {
        "runner": {
            "sync_mode": mode,
            "save_interval": 1,
            "local_sparse": ["user_embedding"],
            "test_data_dir": str(folder / "fl_test_data"),
        }
    }
    saved = federate(folder, settings)
    for worker in ("worker.0", "worker.1"):
        sent = tap.everything(worker)
        assert len(sent) > 10_000
        assert b"user_embedding" not in sent
        assert b"item_embedding" in sent
        for epoch in (1, 2):
            private = rows_of(saved.folder(epoch), "private", "user_embedding")
            assert len(private) == 60
            assert len(set(private.values())) == 60
            assert not any(row in sent for row in private.values())
            # Nor a part of one; a single number may be found by chance.
            assert not any(pair in sent for row in private.values() for pair in pairs_of(row))


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_the_same_search_finds_shared_rows(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Gradients in sync and deltas in geo of the item table: each row of them is found as it was handed over."""
    pushed: list[bytes] = []
    original = Servers._pushes_of

    def noting(servers: Servers, *arguments: Any) -> tuple[Push, ...]:
        pushes = original(servers, *arguments)
        for push in pushes:
            if push.keys is not None:
                pushed.extend(row.tobytes() for row in push.values if row.any())
        return pushes

    monkeypatch.setattr(Servers, "_pushes_of", noting)
    tap = Tap(monkeypatch)
    federate(shards(2), {"runner": {"sync_mode": mode, "epochs": 1, "local_sparse": ["user_embedding"]}})
    sent = tap.everything("worker.0") + tap.everything("worker.1")
    assert len(pushed) > 40
    assert all(row in sent for row in pushed)


def test_a_shared_user_table_is_found_on_the_wire(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, one window an epoch: what it sends for the users plus their first rows are the trained rows."""
    tap = Tap(monkeypatch)
    saved = federate(shards(2), {"runner": {"geo_step": 1000, "epochs": 1}}, workers=1)
    assert b"user_embedding" in tap.everything("worker.0")
    model = json.loads((saved.folder() / "manifest.json").read_text())
    spec = next(spec for spec in model["tables"] if spec["name"] == "user_embedding")
    first = Initializer(**spec["init"]).rows(np.arange(60, dtype=np.uint64), spec["dim"], spec["seed"], "float32")
    trained = rows_of(saved.folder(), "shared", "user_embedding")
    words = every_word(tap.frames["worker.0"])
    deltas = np.stack([np.frombuffer(trained[user], np.float32) for user in range(60)]) - first
    # first + (trained - first) may differ from trained in its last digit; most numbers are found as they are.
    assert np.isin(deltas.view(np.uint32), words).mean() > 0.5


def every_word(frames: list[bytes]) -> Any:
    """Every aligned four bytes of the tensors that were sent, as numbers."""
    aligned = [frame for frame in frames if len(frame) % 4 == 0]
    return np.unique(np.frombuffer(b"".join(aligned), np.uint32))


def pairs_of(numbers: bytes) -> list[bytes]:
    """Every two neighbouring float32 numbers."""
    return [numbers[start : start + 8] for start in range(0, len(numbers) - 4, 4)]


@pytest.mark.parametrize("patterns", [["prediction.*"], ["*"]])
def test_private_dense_parameters_are_not_sent(
    shards: Callable[..., Path], federate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, patterns: list[str]
) -> None:
    tap = Tap(monkeypatch)
    saved = federate(shards(2), {"runner": {"private": patterns}})
    manifest = json.loads((saved.folder() / "manifest.json").read_text())
    names = list(manifest["dense"]["dense_private"])
    assert names == (["prediction.weight", "prediction.bias"] if patterns == ["prediction.*"] else names)
    assert ("dense" in manifest["dense"]) is (patterns != ["*"])
    for rank in (0, 1):
        own = safetensors.numpy.load_file(saved.folder() / f"private-{rank}-of-2.safetensors")["dense_private/values"]
        assert np.unique(own).size == own.size or patterns == ["*"]
        sent = tap.everything(f"worker.{rank}")
        assert not any(pair in sent for pair in pairs_of(own[own != 0].tobytes()))
        assert b"dense_private" not in sent


@pytest.mark.parametrize("step", [lambda a: a, lambda a: a[:1], lambda a: a * 2, lambda a: np.concatenate([a, a])])
def test_the_encoder_has_no_way_to_write_a_private_tensor(step: Callable[[Any], Any]) -> None:
    rows = step(conceal(np.ones((2, 3), np.float32), "user_embedding"))
    keys = np.arange(len(rows), dtype=np.uint64)
    for body in (
        Update(0, 0, 1, False, (Push(0, keys, rows),), ()),
        Look((Pull(0, conceal(keys, "user_embedding")),)),
    ):
        with pytest.raises(PrivacyError, match="user_embedding"):
            encode(Envelope(1, "run", "worker:0", 1, 1, body))
