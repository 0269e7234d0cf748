"""What the guides print runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flps.nn import apply_gradients

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "add-a-model.md"
USERS, ITEMS = 20, 30


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return str(text)


def write_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for client in range(2):
        users = rng.integers(USERS // 2, size=64) * 2 + client
        rows = np.column_stack([users, rng.integers(ITEMS - 5, size=64), np.ones(64, int)])
        np.savetxt(folder / f"{client}.csv", np.unique(rows, axis=0), "%d", ",")


@pytest.mark.slow  # every day it trains alone
def test_the_model_of_the_guide_trains_in_a_federation(tmp_path: Path) -> None:
    (tmp_path / "factors.py").write_text(block("python"))
    yaml = block("yaml").replace("num_users: 6040, num_items: 3706", f"num_users: {USERS}, num_items: {ITEMS}")
    (tmp_path / "x.yaml").write_text(yaml.replace("embedded:movielens_like", "shards"))
    write_shards(tmp_path / "shards")
    for mode in ("geo", "sync"):
        command = [str(Path(sys.executable).with_name("flrun")), "--worker_num=2", "-m", "x.yaml"]
        run = subprocess.run(
            [*command, "-o", f"runner.sync_mode={mode}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "epoch 0: loss 0.6" in run.stdout


def test_the_model_of_the_guide_trains_alone(tmp_path: Path) -> None:
    path = tmp_path / "factors.py"
    path.write_text(block("python"))
    spec = importlib.util.spec_from_file_location("factors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng(devices=[]):
        model = module.build({"num_users": USERS, "num_items": ITEMS, "dim": 4}, seed=1)
    batch = {
        "user_input": torch.arange(USERS),
        "item_input": torch.arange(USERS),
        "label": (torch.arange(USERS) % 2).float(),
    }
    dense = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        dense.zero_grad()
        loss = model.loss(model(batch), batch)
        loss.backward()
        dense.step()
        apply_gradients(model)
    assert loss.item() < 0.6
