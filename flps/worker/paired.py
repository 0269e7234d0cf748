"""One worker of a pair: a session whose model and rows another worker has the other half of (runner.vertical).

`worker` i is party A, `heter_worker` i party B, who has the labels. To servers and coordinator both are workers: those
with labels have the ranks after the others. Each trains its own tables, and has no other's rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from flps.config.job import Job
from flps.data.paired import PairedRows, Part, ids_of, open_paired
from flps.errors import ConfigError, ProtocolError
from flps.message import Report
from flps.nn import Embedding
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig
from flps.worker.client import FLClient
from flps.worker.halves import PARTS, half_of
from flps.worker.parameters import Placed, SparseParameter, place
from flps.worker.rows import RowScores
from flps.worker.session import Session
from flps.worker.train import Totals
from flps.worker.upcoming import Features

log = logging.getLogger(__name__)
ROLES = {"worker": "a", "heter_worker": "b"}  # role -> part


class PairLink:
    """The link between the two workers of a pair; who has the labels listens."""

    def __init__(self, job: Job, part: str, pair: int) -> None:
        names = [f"worker.{pair} (party A)", f"heter_worker.{pair} (party B)"]
        own, self.other = names if part == "a" else names[::-1]
        self._links = VerticalFederatedCommunicator(
            ServerConfig(own, job.pairs[pair] if part == "b" else f"loopback://worker-{pair}"),  # A's is not used
            ServerConfig(self.other, job.pairs[pair]),
            role="follower" if part == "a" else "leader",
            rank=0 if part == "a" else None,
            terms=job.of_pair(pair),
            timeout_s=job.config.network.barrier_timeout_s,
            incarnation=1,
        )

    def agree(self, summary: dict[str, object]) -> None:
        """Meet; what is in both summaries must be equal. Raises ConfigError, NeverCameUp."""
        self._links.launch()
        self._links.agree(summary)

    def give(self, name: str, tensor: Tensor) -> None:
        """Send a tensor."""
        self._links.send_tensors(self.other, {name: tensor})

    def take(self, name: str) -> Tensor:
        """The next tensor, which must be called so."""
        got = self._links.receive(self.other)
        tensor = got.get(name)
        if len(got) != 1 or not isinstance(tensor, Tensor):
            raise ProtocolError(f"{self.other} was to send {name}, it sent {', '.join(got) or 'nothing'}")
        return tensor

    @property
    def bytes(self) -> tuple[int, int]:
        """That came and that went."""
        return self._links.bytes

    def close(self, reason: str = "") -> None:
        """Hang up, and say why."""
        self._links.close(reason, 1.0 if reason else 5.0)


class PairedSession(Session):
    """A session of a worker that has one part of a model, and some columns of its rows."""

    def __init__(self, job: Job, role: str, rank: int) -> None:
        super().__init__(job, rank, role=role)
        self.pair = rank
        self.part = cast(Part, ROLES[role])
        self.link = PairLink(job, self.part, rank)

    def close(self, reason: str = "") -> None:
        """Let go of everything; the partner hears why."""
        self.link.close(reason)
        super().close()

    def evaluate_rows(self) -> Report:
        """Score the held-out rows together with the partner; who has the labels counts, the other reports nothing."""
        self._half.eval()
        scores = RowScores()
        with torch.inference_mode():
            for features in self.test_rows.epoch():
                logits = self._half({name: torch.from_numpy(array) for name, array in features.items()})
                if self.part == "b":
                    scores.add(logits, features[self._half.target])
        if self.part == "a":
            return Report()
        log.info("own held-out rows: %s", scores.fields())
        return scores.report()

    def report_of(self, totals: Totals) -> Report:
        """What was measured: of a row that two have it is counted once, where the label is."""
        log.info("crossed the cut so far: %d bytes in, %d bytes out", *self.link.bytes)
        return super().report_of(totals) if self.part == "b" else Report()

    # --- what differs from a session with whole rows -----------------------------------------------------------------

    def _open_rows(self) -> None:
        runner, folder = self.config.runner, self._folder(self.config.runner.train_data_dir)
        pairs, seed = len(self.job.pairs), self.config.seed if runner.shuffle else None
        self.rows = open_paired(folder, self.part, self.pair, pairs, runner.train_batch_size, seed)
        self.test_rows: PairedRows = open_paired(
            folder, self.part, self.pair, pairs, runner.infer_batch_size, None, test=True
        )
        self.ids = ids_of(folder)
        self._expect_width(folder)

    def _expect_width(self, folder: Path) -> None:
        """The rows have as many columns as the model was told, where it was."""
        key, extra = ("sparse_inputs_slots", 1) if self.part == "a" else ("dense_input_dim", 0)
        said = self.config.hyper_parameters.get(key)
        if said is not None and said != self.rows.width + extra:
            what = "slots, and the label makes one more" if extra else "dense columns"
            raise ConfigError(
                f"{folder} has {self.rows.width} {what}; hyper_parameters.{key} is {said}, set it to "
                f"{self.rows.width + extra}"
            )

    def _place(self) -> nn.Module:
        self._half = half_of(self.model, self.part, self.link)
        self.placed = place(self.model, self.config, PARTS)
        private = [p.parameter.spec.name for p in self.placed if p.placement == "private"]
        if private:
            raise ConfigError(
                f"table {private[0]} is private, which has no vertical form: each pair would have its own"
            )
        for parameter in self._own_tables():
            bound = parameter.spec.bound
            if bound is not None and self.ids > bound:
                raise ConfigError(
                    f"the rows have ids up to {self.ids - 1}, and table {parameter.spec.name} keys below {bound}: "
                    "raise hyper_parameters.sparse_feature_number"
                )
        rows, test = self.rows, self.test_rows
        self.link.agree(
            {
                "rows": rows.samples,
                "digest of the row ids": rows.digest,
                "rows to measure with": test.samples,
                "digest of their ids": test.digest,
                "steps of an epoch": rows.steps(),
                "seed": self.config.seed if self.config.runner.shuffle else None,
                "epochs": self.config.runner.epochs,
                "goes on from": self.job.checkpoint,
            }
        )
        return self._half

    def _own_tables(self) -> list[SparseParameter]:
        return [p.parameter for p in self.placed if isinstance(p.parameter, SparseParameter) and self._trains(p)]

    def _trains(self, placed: Placed) -> bool:
        parameter = placed.parameter
        if isinstance(parameter, SparseParameter):
            return any(
                module is parameter.embedding for module in self._half.modules() if isinstance(module, Embedding)
            )
        return parameter.pack.names[0].partition(".")[0] == self.part

    def _steps(self) -> int:
        return self.rows.steps()

    def _batches(self, epoch: int, first_step: int) -> Iterator[Features]:
        return self.rows.epoch(epoch, first_step)

    @property
    def _samples(self) -> tuple[int, int]:
        return self.rows.samples, 0


class PairedClient(FLClient):
    """What a worker of a pair does, in the order of every client."""

    session: PairedSession

    def infer(self, epoch: int, is_last: bool) -> None:
        """Measure the held-out rows; the coordinator adds up what all pairs measured."""
        if self.session.test_rows.samples:
            self.session.barrier(f"evaluated {epoch}", self.session.evaluate_rows())
