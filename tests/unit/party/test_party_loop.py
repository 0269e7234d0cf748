"""The loop of a party: what it tells and measures, that a run that was interrupted ends as one that was not, and what
parties say that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flps.data.criteo_like import Shape
from flps.errors import ConfigError, FlpsError
from flps.models.wide_deep.cut import build_unsplit
from flps.models.wide_deep.dataset import PartyDataset, construct_local_dataset
from flps.models.wide_deep.metric import AUCMetric
from flps.models.wide_deep.model import LeaderTopEvalNet
from flps.models.wide_deep.options import network_config
from flps.party.loop import Party, Progress, Settings, fits
from flps.split.communicator import in_process
from flps.split.model import FLModel
from flps.split.schema import FLYamlData

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "wide_deep"
CONFIG = network_config({"emb_dim": 4, "deep_layer_dim": [8, 4], "batch_size": 256}, "small")
WAIT_S = 60.0


def bottom(kind: str, net: Any) -> FLModel:
    return FLModel(FLYamlData(CONFIGS / f"{kind}.yaml"), net, eval_network=net.net)


class Run:
    """Leader and follower as threads of this process, with rows that were generated."""

    def __init__(
        self,
        cache: Path,
        folder: Path | None = None,
        epochs: int = 2,
        batch_sizes: Sequence[int] = (),
        micro_batches: Sequence[int] = (1, 1),
    ) -> None:
        torch.set_num_threads(1)
        whole = build_unsplit(CONFIG, (CONFIG.leader_field_size, CONFIG.follower_field_size))
        self.whole, self.state = whole, whole.state_dict()
        self.cache = cache
        self.metric, self.told, self.measures = AUCMetric(), dict[str, list[Progress]](), list[tuple[int, float]]()
        models = {
            "leader": {
                "bottom": bottom("leader_bottom", whole.bottoms[0]),
                "top": FLModel(
                    FLYamlData(CONFIGS / "leader_top.yaml"),
                    whole.top,
                    metrics=self.metric,
                    eval_network=LeaderTopEvalNet(whole.top.net),
                ),
            },
            "follower": {"bottom": bottom("follower_bottom", whole.bottoms[1])},
        }
        self.parties = []
        for number, (name, links) in enumerate(zip(models, in_process(threads=True, timeout_s=WAIT_S), strict=True)):
            train, evaluation = construct_local_dataset(CONFIG, (number,), cache, Shape(rows=3000))
            size = batch_sizes[number] if batch_sizes else CONFIG.batch_size
            train = PartyDataset(train.parties, size, CONFIG.seed)
            settings = Settings(epochs, 4, 5, 9, folder / name if folder else None, micro_batches=micro_batches[number])
            tell = self.told.setdefault(name, []).append
            self.parties.append(
                (links, Party(name, models[name], links, train, evaluation, settings, tell, self._measured))
            )

    def _measured(self, epoch: int, metrics: Any) -> None:
        self.measures.append((epoch, metrics.eval()))

    def auc_of_the_whole(self) -> float:
        """Of the same weights in one process, on both parties' columns."""
        _, evaluation = construct_local_dataset(CONFIG, (0, 1), self.cache, Shape(rows=3000))
        metric = AUCMetric()
        for batch in evaluation.batches():
            columns = [(batch["id_hldr"], batch["wt_hldr"]), (batch["id_hldr0"], batch["wt_hldr0"])]
            with torch.no_grad():
                logits = self.whole(columns, batch["label"]).logits
            metric.update(logits, torch.sigmoid(logits), batch["label"])
        return metric.eval()

    def play(self) -> list[BaseException]:
        """To the end; the errors of the parties that failed."""
        failed: list[BaseException] = []

        def run(links: Any, party: Party) -> None:
            try:
                with links:
                    party.run()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=each) for each in self.parties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        return failed


def test_it_tells_how_far_it_is_and_measures_what_one_process_would(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.play() == []
    assert [epoch for epoch, _ in run.measures] == [0, 1]
    assert run.measures[-1][1] == run.auc_of_the_whole()
    steps = run.told["leader"][-1].steps
    assert [one.step for one in run.told["leader"][:3]] == [4, 8, min(12, steps)]
    assert run.told["follower"][-1].epoch == 1
    sent = 2 * CONFIG.batch_size * 4
    for one in run.told["follower"]:
        came, went = one.bytes_per_step
        assert sent <= came < sent + 2000
        assert sent <= went < sent + 2000


@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path, parts: int) -> None:
    whole, first, second = (
        Run(tmp_path, folder, epochs, micro_batches=(parts, parts))
        for folder, epochs in ((None, 2), (tmp_path / "kept", 1), (tmp_path / "kept", 2))
    )
    before = {name: held.clone() for name, held in whole.state.items()}
    assert [*whole.play(), *first.play(), *second.play()] == []
    changed = [name for name, held in whole.state.items() if not torch.equal(held, before[name])]
    assert len(changed) == len(before) - 2  # all but each party's Wide_b
    assert all(torch.equal(second.state[name], held) for name, held in whole.state.items())
    assert second.measures == whole.measures  # the epoch that had ended is measured again


def test_parties_of_other_batches_end_with_the_same_words(tmp_path: Path) -> None:
    failed = Run(tmp_path, batch_sizes=(256, 128)).play()
    assert [type(error) for error in failed] == [ConfigError, ConfigError]
    assert str(failed[0]) == str(failed[1])
    assert "rows of a batch: leader has 256, follower has 128" in str(failed[0])


def test_parties_must_cut_their_batches_alike_and_have_room_for_the_parts(tmp_path: Path) -> None:
    failed = Run(tmp_path, micro_batches=(2, 4)).play()
    assert "micro-batches: leader has 2, follower has 4" in str(failed[0])
    failed = Run(tmp_path, micro_batches=(12, 12)).play()
    assert "micro_batches 12: 13 messages of a step may be under way" in str(failed[0])


def test_a_step_that_was_under_way_leaves_nothing_behind(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _, follower = run.parties[1]
    (model,) = follower._models.values()
    batch = next(follower._train.batches())
    model.window = 4
    out = model.forward_one_step(batch)
    sens = {"loss": {name: torch.ones_like(held) for name, held in out.items() if "l2" not in name}}
    model.backward_one_step(sens=sens, update=False)
    model.forward_one_step(batch)
    follower._go_back(0)
    with pytest.raises(FlpsError, match="without gradients"):
        model.update_one_step()
    assert not model._waiting
    for links, _ in run.parties:
        links.close(linger_s=0)


def test_a_party_that_describes_no_nets_is_refused() -> None:
    assert fits({"leader": {"told by leader": {"rows": [], "nets": ["top"]}}})[0].startswith("a party tells what is no")
    assert fits({"leader": {}, "follower": {}})[0].startswith("a party tells what is no")
