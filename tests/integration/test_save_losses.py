"""A worker is lost while the model is saved: the others complete it, and the manifest names what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flps.checkpoint import read_files, read_manifest

DIES = """
import os
import flps.worker.session as module
from flps.worker import FLClient


class Dies(FLClient):
    def save_model(self, epoch, workers):
        if self.session.rank == {rank}:
            holder = self.session if hasattr(self.session, "{name}") else module
            original = holder.{name}

            def dies(*arguments):
                {when}os._exit(9)
                return original(*arguments)

            holder.{name} = dies
        super().save_model(epoch, workers)
"""


@pytest.mark.parametrize(
    ("rank", "name", "when", "clients"),
    [
        (0, "save_private", "", (1, 2)),  # the first worker, before its own file
        pytest.param(2, "save_private", "", (0, 1), marks=pytest.mark.slow),
        # the writer, before the manifest; its private file is there
        pytest.param(0, "complete", "", (0, 1, 2), marks=pytest.mark.slow),
        pytest.param(
            0, "barrier", 'if arguments[0] == "saved 1": ', (0, 1, 2), marks=pytest.mark.slow
        ),  # and behind it
    ],
)
def test_the_others_complete_the_model(
    shards: Callable[..., Path], flrun: Any, rank: int, name: str, when: str, clients: tuple[int, ...]
) -> None:
    runner = {"epochs": 1, "train_batch_size": 100, "local_sparse": ["user_embedding"]}
    flrun.write({"runner": runner, "network": {"heartbeat_s": 0.2, "lease_s": 1.0}}, shards(3))
    (flrun.folder / "dies.py").write_text(DIES.format(rank=rank, name=name, when=when))
    code, out, err = flrun("dies.py", "--worker_num=3", "--server_num=2")
    assert code == 3, (out, err)
    assert f"worker.{rank} was lost" in err
    folder = flrun.saved.folder(1)
    manifest = read_manifest(folder)
    assert manifest.clients == clients
    private = [name for name in manifest.files if name.startswith("private-")]
    assert sorted(private) == [f"private-{client}-of-3.safetensors" for client in clients]
    assert set(read_files(folder, manifest, "private")) == {"user_embedding"}  # checks every file's sha256
    assert len(read_files(folder, manifest, "shared")["item_embedding"]) == 2
    assert flrun.is_clean()
