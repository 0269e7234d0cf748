"""The three-stage form (a simulated enclave between bottoms and top): cut it gives what it gives in one process."""

from __future__ import annotations

import copy
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flps.data.criteo_like import Shape, ensure
from flps.models.wide_deep.cut import Unsplit
from flps.models.wide_deep.model import LeaderTeeLossNet, LeaderTopAfterTeeLossNet
from flps.models.wide_deep.options import network_config
from flps.models.wide_deep.parties import build
from flps.party.loop import Party, Progress, Settings
from flps.split.communicator import in_process
from flps.split.model import FLModel
from flps.split.optimizers import FTRL
from flps.split.seat import Seat

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "wide_deep"
NETS = {
    "leader": [CONFIGS / f"{name}.yaml" for name in ("leader_top_tee", "leader_bottom_tee", "leader_tee")],
    "follower": [CONFIGS / "follower_bottom_tee.yaml"],
}
SIZES = {"emb_dim": 4, "deep_layer_dim": [8, 4], "batch_size": 64}
EPOCHS, WAIT_S = 2, 60.0


class TwoStages(nn.Module):
    """Tee and top as one net with the arguments and results of LeaderTopLossNet."""

    def __init__(self, tee: LeaderTeeLossNet, top: LeaderTopAfterTeeLossNet) -> None:
        super().__init__()
        self.tee, self.net, self.top = tee, top.net, top

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *embeddings, label = inputs
        out: tuple[Tensor, Tensor] = self.top(self.tee(*embeddings), label)
        return out


class Job:
    """Both parties, as `flrun` would make them."""

    def __init__(self, folder: Path) -> None:
        config = network_config(SIZES, "small")
        self.rows, self.models, self.losses = {}, dict[str, dict[str, FLModel]](), list[float]()
        for number, name in enumerate(NETS):
            brings = build(config, Seat(number, tuple(NETS), seed=3))
            self.rows[name] = brings.rows(str(folder))
            self.models[name] = brings.nets(NETS[name])

    def whole(self) -> Unsplit:
        """A copy of all nets, joined."""
        leader, follower = ({name: model.network for name, model in nets.items()} for nets in self.models.values())
        top: Any = TwoStages(leader["leader_tee"], leader["leader_top_tee"])  # type: ignore[arg-type]
        return copy.deepcopy(Unsplit([leader["leader_bottom_tee"], follower["follower_bottom_tee"]], top))  # type: ignore[list-item]

    def play(self) -> None:
        """Train, each party in a thread."""
        failed: list[BaseException] = []

        def run(name: str, links: Any) -> None:
            try:
                with links:
                    settings = Settings(EPOCHS, print_interval=1)
                    Party(name, self.models[name], links, *self.rows[name], settings, self.hear).run()
            except BaseException as error:
                failed.append(error)

        links = in_process(threads=True, timeout_s=WAIT_S)
        threads = [threading.Thread(target=run, args=one) for one in zip(NETS, links, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert not failed, failed

    def hear(self, progress: Progress) -> None:
        if "loss" in progress.outputs:
            self.losses.append(progress.outputs["loss"].item())

    def in_one(self, model: Unsplit) -> list[float]:
        """Train the joined nets on the same batches with one backward; the losses."""
        tee: Any = model.top
        optimizers: list[torch.optim.Optimizer] = [
            FTRL(model.parameters_of("wide"), lr=5e-2, l1=1e-8, l2=1e-8, initial_accum=1.0),
            torch.optim.Adam(model.parameters_of("deep", "dense"), lr=3.5e-4, eps=1e-8),
            torch.optim.SGD(tee.tee.parameters(), lr=3.5e-4, momentum=0.8),
        ]
        losses = []
        for epoch in range(EPOCHS):
            batches = zip(*(rows[0].batches(epoch) for rows in self.rows.values()), strict=True)
            for leader, follower in batches:
                columns = [(leader["id_hldr"], leader["wt_hldr"]), (follower["id_hldr0"], follower["wt_hldr0"])]
                outcome = model(columns, leader["label"])
                model.zero_grad()
                (outcome.loss + outcome.l2_regu).backward()
                for optimizer in optimizers:
                    optimizer.step()
                losses.append(outcome.loss.item())
        return losses


def test_split_equals_unsplit_and_says_that_it_is_a_simulation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    with caplog.at_level(logging.WARNING):
        job = Job(ensure(tmp_path, Shape(rows=1200)))
    (said,) = (record.getMessage() for record in caplog.records if "SIMULATION" in record.getMessage())
    assert said.startswith("leader_tee_loss_net: a SIMULATION of an enclave")
    whole = job.whole()
    before = copy.deepcopy(whole.state_dict())

    expected = job.in_one(whole)
    job.play()

    assert len(job.losses) == len(expected) == EPOCHS * 16
    assert job.losses == pytest.approx(expected, abs=1e-5)
    want = whole.state_dict()
    for name, got in job.whole().state_dict().items():
        torch.testing.assert_close(got, want[name], atol=1e-5, rtol=1e-5)
    moved = {name for name, held in want.items() if not torch.equal(before[name], held)}
    assert {name for name in want if name.startswith("top.") or "embedding_table" in name} <= moved
