"""A process becomes a party of a split job and plays it to the end.

Law 1: nothing here knows a model: what a party computes and reads is brought by the function that `model:` names.
Law 2: what a party has learned is on the disk before it lets the others go.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flps.compression import CompressConfig
from flps.config.split import Follower, Leader, column_numbers
from flps.config.split_job import SCORES, SplitJob
from flps.errors import ConfigError, DataError, NeverCameUp, PeerLost
from flps.metrics import EventLog
from flps.models.catalog import resolve_split
from flps.party.align import Aligning, play_aligned
from flps.party.loop import Party, Rows, Settings
from flps.party.pages import keep_freed_pages
from flps.party.scores import Scores
from flps.party.story import Story
from flps.split.checkpoint import drop_after, steps_in
from flps.split.communicator import TIMEOUT_S, WINDOW, VerticalFederatedCommunicator
from flps.split.model import FLModel
from flps.split.parties import ServerConfig
from flps.split.schema import FLYamlData
from flps.split.seat import Seat

log = logging.getLogger(__name__)


class Brought(Protocol):
    """What a model's `build(hyper_parameters, seat)` returns: one party's part of a job."""

    epochs: int | None  # passes over the training rows; None: as the nets' files say

    def rows(self, folder: str) -> tuple[Rows, Rows | None]:
        """Rows to train on and rows held out, of the folder that the job names. Raises DataError, ConfigError."""

    def nets(self, files: Sequence[str | Path]) -> Mapping[str, FLModel]:
        """The party's nets by name, as these yaml files describe them. Called after `rows`."""


def run_party(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """Do one party's part until the job is over. Raises FlpsError when it does not end in good order.

    incarnation: 1 for the first life of that party; in a later one all parties go back to their newest checkpoint.
    """
    torch.set_num_threads(job.config.runner.thread_num)
    keep_freed_pages()
    events = EventLog(str(Path(job.run_dir) / "metrics.jsonl"), role, rank)
    try:
        events.write("ready")
        _Part(job, role, rank, Story(events)).play(incarnation)
        events.write("end", result="done")
    finally:
        events.close()


class _Part:
    """A party's rows and nets, and what it does with them."""

    def __init__(self, job: SplitJob, role: str, rank: int, story: Story) -> None:
        self._job, self._role, self._rank, self._story = job, role, rank, story
        config, said = job.config, job.party(role, rank)
        seat = Seat(0 if role == "leader" else 1 + rank, job.names, _columns(job), config.chance)
        self._name = seat.name
        _seed(config.chance, seat.number)
        self._brought: Brought = resolve_split(config.model, job.config_dir)(config.hyper_parameters, seat)
        files = [FLYamlData(net) for net in said.nets]
        self._epochs = self._brought.epochs or max(file.epochs for file in files)
        self._micro_batches = config.runner.micro_batches or files[0].micro_batches
        measures = [file.is_eval for file in files if file.says("is_eval")]
        self._is_eval = any(measures) or not measures
        _note_overruled(files, {"epochs": self._epochs, "batch_size": getattr(self._brought, "batch_size", None)})
        self._models: dict[str, FLModel] = {}
        self._alignment: str | None = None
        self._is_first_life = True
        self._is_done = False  # with all that this party itself has to do
        # A party that was started again reads its table first.
        self._patience_s: float | None = None if config.psi is None else TIMEOUT_S
        if config.psi is None:
            self._open(said.data or config.data)

    def play(self, incarnation: int) -> None:
        """Meet the others and do what the job's `task` says."""
        self._is_first_life = incarnation == 1
        try:
            with self._communicator(incarnation) as links:
                if self._job.config.psi is None:
                    self._act(links)
                else:
                    aligning = Aligning(self._job, self._role, self._rank, self._brought)
                    play_aligned(aligning, links, functools.partial(self._act_on_aligned, links))
        except (NeverCameUp, PeerLost) as error:
            if not self._is_done:
                raise
            log.warning("%s; this party had already done all that it had to do", error)

    def _open(self, folder: str) -> None:
        said, use_gpu = self._job.party(self._role, self._rank), self._job.config.runner.use_gpu
        self._train, held_out = self._brought.rows(folder)
        looks = self._is_eval or self._job.config.runner.task != "train"
        self._held_out = held_out if looks else None
        self._models = _on_device(self._brought.nets(said.nets), use_gpu)

    def _act(self, links: VerticalFederatedCommunicator) -> None:
        if not self._is_first_life and self._is_exported:  # the others may have gone, or be waiting for a last word
            self._is_done = True
            self._patience_s = 10 * self._job.config.network.heartbeat_s
        acts = {"train": self._train_and_export, "evaluate": self._evaluate, "predict": self._predict}
        acts[self._job.config.runner.task](links)

    def _act_on_aligned(self, links: VerticalFederatedCommunicator, folder: Path, digest: str) -> None:
        self._alignment = digest
        self._open(str(folder))
        links.pack_by(self._compress_configs())
        self._act(links)

    def _train_and_export(self, links: VerticalFederatedCommunicator) -> None:
        if self._is_first_life:  # of another run that wrote to the same folder
            for model in self._models.values():
                drop_after(self._exports, model.ckpt_name, -1)
        self._party(links).run(self._export)

    def _evaluate(self, links: VerticalFederatedCommunicator) -> None:
        self._party(links, self._take_up()).evaluate()

    def _predict(self, links: VerticalFederatedCommunicator) -> None:
        party, held_out = self._party(links, self._take_up()), self._held_out
        scores = Scores([model for model in self._models.values() if model.metrics is not None])
        party.predict(scores.take, scores.clear)
        if scores.names and held_out is not None:
            path = Path(self._job.run_dir) / SCORES
            name, ids = self._ids(held_out.row_ids)
            scores.write(path, ids, name)
            log.info("%d scores are in %s", len(ids), path)

    def _ids(self, row_ids: NDArray[np.int64]) -> tuple[str, NDArray[Any]]:
        """What the party's own table calls these rows, where the job has aligned it; else their numbers."""
        psi = self._job.config.psi
        if psi is None:
            return "row_id", row_ids
        table = self._job.aligned(self._role, self._rank) / "rows.csv"
        ids = pd.read_csv(table, usecols=[psi.id_column], dtype=str, keep_default_na=False)[psi.id_column]
        return psi.id_column, ids.to_numpy()[row_ids]

    def _party(self, links: VerticalFederatedCommunicator, trained_step: int = 0) -> Party:
        runner, job = self._job.config.runner, self._job
        keeps = runner.save_checkpoint_interval and runner.task == "train"
        settings = Settings(
            epochs=self._epochs,
            eval_interval=runner.eval_interval,
            print_interval=runner.print_interval,
            save_checkpoint_interval=runner.save_checkpoint_interval,
            keep_checkpoint_max=runner.keep_checkpoint_max,
            checkpoint_path=job.checkpoints(self._role, self._rank) if keeps else None,
            trained_step=trained_step,
            micro_batches=self._micro_batches,
            earlier_checkpoints=job.earlier_checkpoints(self._role, self._rank),
            patience_s=self._patience_s,
        )
        story = self._story
        return Party(
            self._name, self._models, links, self._train, self._held_out, settings, story.progress, story.measured,
            self._alignment,
        )  # fmt: skip

    def _communicator(self, incarnation: int) -> VerticalFederatedCommunicator:
        job, leads = self._job, self._role == "leader"
        others = job.names[1:] if leads else job.names[:1]
        return VerticalFederatedCommunicator(
            ServerConfig(self._name, job.leader),
            [ServerConfig(name, job.leader) for name in others],
            compress_configs=self._compress_configs(),
            role="leader" if leads else "follower",
            rank=None if leads else self._rank,
            network=job.config.network,
            terms=job.terms(self._role, self._rank),
            window=max(WINDOW, 4 * self._micro_batches),  # parts under way must not wait for room
            life=incarnation,
        )

    def _compress_configs(self) -> dict[str, CompressConfig]:
        return {name: how for model in self._models.values() for name, how in model.get_compress_configs().items()}

    # --- trained nets ------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        for model in self._models.values():
            model.export(self._exports)
        self._is_done = True

    @property
    def _exports(self) -> Path:
        return self._job.models(self._role, self._rank)

    @property
    def _is_exported(self) -> bool:
        steps = steps_in(self._exports, [model.ckpt_name for model in self._models.values()])
        return self._epochs * self._train.get_dataset_size() in steps

    def _take_up(self) -> int:
        """Trained nets in the place of new ones; the step that they are of. Raises DataError when there are none."""
        folder = Path(self._job.config.runner.trained_models) / self._name
        steps = {model.load_ckpt("eval", folder) for model in self._models.values()}
        if len(steps) > 1:
            raise DataError(f"{folder}: its nets are of the steps {sorted(steps)}: they were not trained together")
        return steps.pop()


def _note_overruled(files: Sequence[FLYamlData], done: Mapping[str, int | None]) -> None:
    """Say in the log where a net's file names another number than what the job does."""
    for file in files:
        for key, number in done.items():
            said = getattr(file, key)
            if number is not None and file.says(key) and said != number:
                log.info(
                    "%s: %s is %d there; the job's own is %d, and counts",
                    file.where(f"hyper_parameters.{key}"),
                    key,
                    said,
                    number,
                )


def _seed(seed: int, party: int) -> None:
    """Dropout and the like draw the same in every run and every life of a party, and something else at each party."""
    drawn = np.random.SeedSequence([seed, party]).generate_state(2)
    torch.manual_seed(int(drawn[0]) << 32 | int(drawn[1]))
    np.random.seed(drawn)
    random.seed(drawn.tobytes())


def _columns(job: SplitJob) -> tuple[tuple[int, ...], ...]:
    """The parties' columns, where the configuration says them."""
    parties: list[Leader | Follower] = [job.config.parties.leader, *job.config.parties.followers]
    return tuple(column_numbers(party.columns) for party in parties) if all(one.columns for one in parties) else ()


def _on_device(models: Mapping[str, FLModel], use_gpu: bool) -> dict[str, FLModel]:
    if use_gpu:
        if not torch.cuda.is_available():
            raise ConfigError(
                "runner.use_gpu is set, but torch finds no CUDA device here; set it to False or use that host"
            )
        for model in models.values():
            model.network.to("cuda")
            model.eval_network.to("cuda")
    return dict(models)
