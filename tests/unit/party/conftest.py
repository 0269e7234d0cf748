"""A job whose parties are threads of one process, and the same nets in one: what split training has to equal."""

from __future__ import annotations

import queue
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flps.data.criteo_like import Shape
from flps.models.wide_deep.cut import Unsplit, build_unsplit
from flps.models.wide_deep.dataset import PartyDataset, construct_local_dataset
from flps.models.wide_deep.metric import AUCMetric
from flps.models.wide_deep.model import LeaderTopEvalNet
from flps.models.wide_deep.options import NetworkConfig, network_config
from flps.party.loop import Party, Progress, Settings
from flps.party.step import PartyStep
from flps.split.communicator import in_process
from flps.split.course import Course, Net, courses
from flps.split.model import FLModel
from flps.split.optimizers import FTRL
from flps.split.schema import FLYamlData
from flps.split.terms import terms

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "wide_deep"
WAIT_S = 60.0
TINY = network_config({"vocab_size": 50, "emb_dim": 6, "deep_layer_dim": [8, 4], "batch_size": 24})
FIELDS = (4, 3, 5)


class QueueLinks:
    """Links of parties that are threads of one process."""

    def __init__(self, own: str, queues: defaultdict[tuple[str, str], queue.Queue[Any]]) -> None:
        self._own, self._queues = own, queues

    def send_tensors(self, target_server_name: str, tensors: Mapping[str, Any], *, as_they_are: bool = False) -> None:
        self._queues[self._own, target_server_name].put(tensors)

    def receive(self, target_server_name: str) -> Mapping[str, Any]:
        return self._queues[target_server_name, self._own].get(timeout=WAIT_S)


def yaml_of(kind: str, folder: Path, follower: int, followers: int, scale: str) -> FLYamlData:
    """A file of configs/wide_deep; for follower n its names get that number, and the top takes all of them."""
    text = (CONFIGS / f"{kind}.yaml").read_text().replace("loss_scale: 1024.0", f"loss_scale: {scale}")
    name = kind
    if kind == "follower_bottom" and follower:
        text = re.sub(r"(follower)(_(?:wide|deep|l2))", rf"\g<1>{follower}\2", text).replace("hldr0", f"hldr{follower}")
        name += str(follower)
    if kind == "leader_top":
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        for n in range(1, followers):
            last = [at for at, line in enumerate(lines) if "follower_deep_embedding" in line]
            for at in reversed(last):  # behind the pair of the follower before, and what stands with it
                end = at + 1 + ("source:" in lines[at + 1])
                start = end - 2 * (end - at)
                lines[end + (n - 1) * (end - start) : end + (n - 1) * (end - start)] = [
                    line.replace("follower_", f"follower{n}_") for line in lines[start:end]
                ]
        text = "\n".join(lines)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return FLYamlData(path)


class SplitJob:
    """The parties of one job, their nets, and the same nets in one.

    overflows: (party, net) -> the steps at which one of its gradients becomes infinite. fields: columns of each party.
    """

    def __init__(
        self,
        folder: Path,
        followers: int = 1,
        dtype: torch.dtype = torch.float64,
        scale: str = "1024.0",
        overflows: Mapping[tuple[str, str], Collection[int]] = {},
        config: NetworkConfig = TINY,
        fields: Sequence[int] = FIELDS,
    ) -> None:
        torch.set_num_threads(1)
        fields = fields[: 1 + followers]
        split, self.whole = build_unsplit(config, fields).to(dtype), build_unsplit(config, fields).to(dtype)
        self.split, self.dtype, self.fields, self.config = split, dtype, fields, config
        leader = {
            "bottom": FLModel(yaml_of("leader_bottom", folder, 0, followers, scale), split.bottoms[0]),
            "top": FLModel(yaml_of("leader_top", folder, 0, followers, scale), split.top),
        }
        self.models = {"leader": leader}
        for n in range(followers):
            model = FLModel(yaml_of("follower_bottom", folder, n, followers, scale), split.bottoms[1 + n])
            self.models[f"follower{n or ''}"] = {"bottom": model}
        self.courses = self._courses()
        for (party, net), steps in overflows.items():
            self.models[party][net].network.register_forward_hook(self._spoilt(steps))

    @property
    def nets(self) -> list[FLModel]:
        """Of all parties."""
        return [model for models in self.models.values() for model in models.values()]

    @property
    def peers(self) -> dict[str, list[str]]:
        """With whom each party decides whether a step is skipped."""
        followers = [party for party in self.models if party != "leader"]
        return {"leader": followers} | {party: ["leader"] for party in followers}

    def _spoilt(self, steps: Collection[int]) -> Callable[[Any, Any, Any], Any]:
        """A hook that makes the gradient of a net's last output infinite, behind what it sends and what it was sent."""

        def hook(module: Any, inputs: Any, outputs: Any) -> Any:
            *others, last = outputs
            spoilt = last * 1.0
            count = self._seen.get(module, 0)
            self._seen[module] = count + 1
            if count in steps:
                spoilt.register_hook(lambda gradient: gradient * torch.inf)
            return *others, spoilt

        self._seen: dict[Any, int] = {}
        return hook

    def _courses(self) -> dict[str, Course]:
        nets, local = [], {}
        for party, models in self.models.items():
            told = terms(party, [model.yaml_data for model in models.values()])
            for name, net in zip(models, told.nets, strict=True):
                nets.append(Net(party, name, net.inputs, net.outputs, frozenset(net.remote), frozenset(net.gradients)))
            number = len(local)
            ids = ("id_hldr", "wt_hldr", "label") if not number else (f"id_hldr{number - 1}", f"wt_hldr{number - 1}")
            local[party] = ids
        return courses(nets, local)

    def batch(self, step: int) -> list[dict[str, Tensor]]:
        """Rows of each party; the leader's hold the labels."""
        generator, rows = torch.Generator().manual_seed(step), self.config.batch_size
        parts: list[dict[str, Tensor]] = []
        for number, fields in enumerate(self.fields):
            suffix = str(number - 1) if number else ""
            ids = torch.randint(self.config.vocab_size, (rows, fields), generator=generator, dtype=torch.int32)
            weights = torch.rand((rows, fields), generator=generator, dtype=torch.float64).to(self.dtype)
            parts.append({f"id_hldr{suffix}": ids, f"wt_hldr{suffix}": weights})
        parts[0]["label"] = torch.randint(2, (rows, 1), generator=generator).to(self.dtype)
        return parts


def play_split(job: SplitJob, steps: int, micro_batches: int = 1) -> list[float]:
    """Every party in a thread of its own; the leader's losses."""
    queues: defaultdict[tuple[str, str], queue.Queue[Any]] = defaultdict(queue.Queue)
    losses: list[float] = []
    failed: list[BaseException] = []

    def run(number: int, party: str) -> None:
        try:
            step = PartyStep(
                job.courses[party], job.models[party], QueueLinks(party, queues), job.peers[party], micro_batches
            )
            for count in range(steps):
                out = step.train(job.batch(count)[number])
                if party == "leader":
                    losses.append(out["loss"].item())
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=each) for each in enumerate(job.models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not failed, failed
    return losses


def play_whole(job: SplitJob, steps: int, skipped: Collection[int] = (), l2: float = 1.0) -> list[float]:
    """One process, one backward of loss + l2; the same optimizers over the parties' parameters, but in some steps.

    Adam is torch's plain one, not the fused one that the yaml's name makes. l2: what the l2 term counts.
    """
    model: Unsplit = job.whole
    optimizers: list[torch.optim.Optimizer] = [
        FTRL(model.parameters_of("wide"), lr=5e-2, l1=1e-8, l2=1e-8, initial_accum=1.0),
        torch.optim.Adam(model.parameters_of("deep", "dense"), lr=3.5e-4, eps=1e-8, foreach=False),
    ]
    losses = []
    for count in range(steps):
        parts = job.batch(count)
        columns = [tuple(held for name, held in part.items() if name != "label") for part in parts]
        outcome = model(columns, parts[0]["label"])
        model.zero_grad()
        (outcome.loss + l2 * outcome.l2_regu).backward()
        for optimizer in optimizers if count not in skipped else ():
            optimizer.step()
        losses.append(outcome.loss.item())
    return losses


RUN_CONFIG = network_config({"emb_dim": 4, "deep_layer_dim": [8, 4], "batch_size": 256}, "small")
RUN_WAIT_S = 60.0


class PartyRun:
    """Leader and follower as threads of this process, with rows that were generated.

    change: what is done to the text of a net's yaml, by the file's name.
    """

    batch_size = RUN_CONFIG.batch_size

    def __init__(
        self,
        cache: Path,
        folder: Path | None = None,
        epochs: int = 2,
        batch_sizes: Sequence[int] = (),
        micro_batches: Sequence[int] = (1, 1),
        change: Callable[[str, str], str] = lambda kind, text: text,
    ) -> None:
        self.yaml, self.change = cache / "yaml", change
        torch.set_num_threads(1)
        whole = build_unsplit(RUN_CONFIG, (RUN_CONFIG.leader_field_size, RUN_CONFIG.follower_field_size))
        self.whole, self.state = whole, whole.state_dict()
        self.cache = cache
        self.metric, self.told, self.measures = AUCMetric(), dict[str, list[Progress]](), list[tuple[int, float]]()
        models = {
            "leader": {
                "bottom": self._bottom("leader_bottom", whole.bottoms[0]),
                "top": FLModel(
                    self._described("leader_top"),
                    whole.top,
                    metrics=self.metric,
                    eval_network=LeaderTopEvalNet(whole.top.net),
                ),
            },
            "follower": {"bottom": self._bottom("follower_bottom", whole.bottoms[1])},
        }
        self.models: dict[str, dict[str, FLModel]] = models
        self.parties = []
        made = in_process(threads=True, timeout_s=RUN_WAIT_S, compress_configs=self._packing())
        for number, (name, links) in enumerate(zip(models, made, strict=True)):
            train, evaluation = construct_local_dataset(RUN_CONFIG, (number,), cache, Shape(rows=3000))
            size = batch_sizes[number] if batch_sizes else RUN_CONFIG.batch_size
            train = PartyDataset(train.parties, size, RUN_CONFIG.seed)
            settings = Settings(epochs, 4, 5, 9, folder / name if folder else None, micro_batches=micro_batches[number])
            tell = self.told.setdefault(name, []).append
            self.parties.append(
                (links, Party(name, models[name], links, train, evaluation, settings, tell, self._measured))
            )

    def _described(self, kind: str) -> FLYamlData:
        self.yaml.mkdir(exist_ok=True)
        path = self.yaml / f"{kind}.yaml"
        path.write_text(self.change(kind, (CONFIGS / f"{kind}.yaml").read_text()))
        return FLYamlData(path)

    def _bottom(self, kind: str, net: Any) -> FLModel:
        return FLModel(self._described(kind), net, eval_network=net.net)

    def _packing(self) -> dict[str, Any]:
        nets = [model for models in self.models.values() for model in models.values()]
        return {name: config for net in nets for name, config in net.get_compress_configs().items()}

    def _measured(self, epoch: int, metrics: Any) -> None:
        self.measures.append((epoch, metrics.eval()))

    def auc_of_the_whole(self) -> float:
        """Of the same weights in one process, on both parties' columns."""
        _, evaluation = construct_local_dataset(RUN_CONFIG, (0, 1), self.cache, Shape(rows=3000))
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
            thread.join(RUN_WAIT_S)
        return failed


class Played:
    """What tests do with a job."""

    make = SplitJob
    split = staticmethod(play_split)
    whole = staticmethod(play_whole)


@pytest.fixture
def played() -> type[Played]:
    """Jobs in one process: `played.make`, `played.split`, `played.whole`."""
    return Played


@pytest.fixture
def party_run() -> type[PartyRun]:
    """Whole parties in one process: party_run(cache folder, folder of checkpoints, ...).play()."""
    return PartyRun
