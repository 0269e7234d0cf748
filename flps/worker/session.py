"""One worker's part of a job: its connections, model and samples, and what can be done with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flps.checkpoint import read_files, read_manifest, retract_manifest
from flps.checkpoint.run import read_complete
from flps.config.job import Job
from flps.errors import ConfigError, PeerLost, RoleFailed
from flps.membership import Member
from flps.message import CHECKPOINT, JOIN, OVER, Arrive, Cut, Leave, Release, Report
from flps.metrics import EventLog
from flps.models.catalog import resolve
from flps.nn import PrivateTable
from flps.remote import Servers
from flps.table import TableSpec
from flps.transport.beat import Heartbeat
from flps.transport.connection import Connection
from flps.transport.sockets import Carrier
from flps.worker.checkpoint import Memory, Standing
from flps.worker.dump import Dump
from flps.worker.evaluate import Evaluation, evaluate, model_score
from flps.worker.homes import Home, LocalHome, StepHome
from flps.worker.parameters import DenseParameter, Placed, SparseParameter, place
from flps.worker.samples import Samples
from flps.worker.saving import complete, manifest_of, save_private
from flps.worker.story import Story
from flps.worker.train import Rests, Totals, Trainer
from flps.worker.turns import take_long_turns
from flps.worker.upcoming import Features
from flps.worker.windows import WindowHome

log = logging.getLogger(__name__)


class Session:
    """Everything that a worker of a federation can do; `FLClient` says in which order."""

    def __init__(self, job: Job, rank: int, incarnation: int = 1, role: str = "worker") -> None:
        self.job = job
        self.rank = job.seat(role, rank)
        self.config = job.config
        self.member = Member("worker", self.rank)
        self.events = EventLog(str(Path(job.run_dir) / "metrics.jsonl"), role, rank)
        self._carrier = Carrier(job.terms, self.member, incarnation)
        self._is_late = incarnation > 1  # in a later life: the others are somewhere in the middle
        coordinator = Member("coordinator" if job.coordinators else "server", 0)
        self._heartbeat = Heartbeat(self._carrier, job.coordinator, coordinator)
        connections = [
            Connection(self._carrier, endpoint, Member("server", n), self._heartbeat.check)
            for n, endpoint in enumerate(job.servers)
        ]
        network = self.config.network
        self._servers = Servers(
            connections, network.max_refused, network.barrier_timeout_s, self._refused, self.config.runner.row_type
        )
        self._memory = Memory(job, self.rank, self._heartbeat.tell)
        self._standing = Standing(0, 0, False, Totals())
        self._resumed: Standing | None = None
        # Requests to one peer are numbered in one line, so server 0 as coordinator shares its connection.
        self._coordinator = (
            Connection(self._carrier, job.coordinator, coordinator, self._heartbeat.check)
            if job.coordinators
            else connections[0]
        )
        self._story = Story(self.events, self.config.runner.epochs, self._servers, self._coordinator)

    # --- coming up ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Join the job, open the samples, build the model, agree with the servers on its tables."""
        runner = self.config.runner
        torch.set_num_threads(runner.thread_num)
        self.device = _device(runner.use_gpu)
        self._heartbeat.start()
        turn_s = take_long_turns(self.job.workers, self.config.network.lease_s)
        if turn_s:
            log.info("%d workers share the cores: each keeps one for up to %.0f ms", self.job.workers, turn_s * 1e3)
        self._heartbeat.wait_joined()
        self._open_rows()
        samples, users = self._samples
        self._story.expect(samples, self._steps())
        self.model = resolve(self.config.model, self.job.config_dir)(self.config.hyper_parameters, self.config.seed)
        self.model.to(self.device)
        trained = self._place()
        self._homes = self._make_homes()
        self._trainer = Trainer(trained, list(self._homes.values()), self.device, runner.pure_bf16)
        self._dump = Dump.of(self.config, self.placed, Path(self.job.run_dir), self.rank)
        self._remember_earlier()
        log.info(
            "ready: %d samples an epoch, %d users, tables %s",
            samples,
            users,
            ", ".join(f"{p.parameter.spec.name} ({p.placement}, {p.parameter.spec.rule.name})" for p in self.placed),
        )
        self.events.write("ready")

    def _open_rows(self) -> None:
        """What this worker trains on and is measured with."""
        samples = Samples.of(self.job)
        self.train_set = samples.train(self.rank)
        self.test_set = samples.test(self.rank)

    def _place(self) -> nn.Module:
        """Say where each parameter lives; returns what this worker trains."""
        self.placed = place(self.model, self.config)
        return self.model

    def _trains(self, placed: Placed) -> bool:
        """Whether a parameter is trained here; the others are known, but another party's."""
        return True

    def _steps(self) -> int:
        """Batches of an epoch."""
        return self.train_set.steps()

    def _batches(self, epoch: int, first_step: int) -> Iterator[Features]:
        """The batches of an epoch, from a step on."""
        batches = self.train_set.epoch(epoch, first_step)
        return (batch._asdict() for batch in self._dump.passing(epoch, batches))

    def _folder(self, path: str) -> Path:
        return Path(self.job.config_dir) / path

    def _make_homes(self) -> dict[str, Home]:
        """Homes by what travels; parameters at the servers are declared there."""
        runner = self.config.runner
        own = [p.parameter for p in self.placed if self._trains(p)]
        local = [p.parameter for p in self.placed if p.placement == "private"]
        stepwise = [p.parameter for p in self.placed if p.placement == "shared" and p.update == "step"]
        windowed = [p.parameter for p in self.placed if p.placement == "shared" and p.update == "window"]
        shared = [(p, p.spec) for p in stepwise] + [(p, WindowHome.spec(p.spec)) for p in windowed]
        first = {n: p.pack.values() for n, (p, _) in enumerate(shared) if isinstance(p, DenseParameter)}
        self._servers.declare([spec for _, spec in shared], first)
        numbers = {spec.name: n for n, (_, spec) in enumerate(shared)}
        homes: dict[str, Home] = {}
        if stepwise := [parameter for parameter in stepwise if parameter in own]:
            lookahead, packed = int(runner.sync_mode != "sync"), runner.row_type != "float32"
            homes["step"] = StepHome(stepwise, self._servers, numbers, lookahead, packed)
        if windowed:
            homes["window"] = WindowHome(windowed, self._servers, numbers, runner.geo_step)
        if local:  # the last one: what a step means for private rows is known when the servers have answered
            step = homes.get("step")
            share = (lambda: step.share) if isinstance(step, StepHome) else (lambda: 1.0)
            homes["local"] = LocalHome(local, private=True, share=share)
        return homes

    def _remember_earlier(self) -> None:
        """Begin with what there is from an earlier time: this worker's earlier life, a checkpoint, a saved model."""
        if self._is_late and self.restore_private():
            return
        if self.job.resume_from and not self._is_late:
            self._take_up()
        else:
            self._warm_up()

    def _warm_up(self) -> None:
        """Start from a saved model: the servers have taken their tables, private ones are read here."""
        folders = [self._folder(path) for path in self.config.runner.warm_from]
        if not folders:
            return
        self.refresh()
        local = self._homes.get("local")
        if not isinstance(local, LocalHome):
            return
        for folder in folders:
            saved = read_files(folder, read_manifest(folder), "private")
            for name, parts in saved.items():
                own = self.rank if len(parts) == self.job.workers else None
                local.load(name, parts, self.train_set.users.astype(np.uint64), own)

    # --- training ----------------------------------------------------------------------------------------------------

    def barrier(self, name: str, report: Report | None = None) -> Release:
        """Wait for every worker that is alive; returns the sum of all reports."""
        self.events.write("progress", state="waiting")
        while True:
            self._memory.finish()  # nothing else is to be done while waiting
            answer = self._coordinator.ask(Arrive(name, report or Report()), self.config.network.barrier_timeout_s)
            assert isinstance(answer, Release)
            if answer.cut is not None:
                self._remember(answer.cut)
            if answer.barrier == name or not answer.barrier.startswith(f"{CHECKPOINT} "):
                return answer

    def begin(self, epoch: int) -> int | None:
        """Wait until an epoch begins, and return which: this one, or in a later life the one that the others begin.

        None: they have come to the end of the job.
        """
        release = self.barrier(JOIN if self._is_late else f"{JOIN} {epoch}")
        if release.barrier == OVER:
            return None
        self._servers.cohort = release.workers
        if self._is_late:
            epoch = int(release.barrier.partition(" ")[2])
            log.warning("this worker was started again; it goes on with epoch %d", epoch)
            self.refresh()
            self._is_late = False
        return epoch

    def train(self, epoch: int) -> Totals:
        """One epoch over this client's samples, everything sent."""
        self._story.state("training", epoch)
        resumed, self._resumed = self._resumed, None
        at = resumed if resumed is not None and resumed.epoch == epoch else Standing(epoch, 0, False, Totals())
        if not at.is_trained:
            runner = self.config.runner
            batches = self._batches(epoch, at.step)
            stand_still = partial(self._stand_still, epoch)
            rests = Rests(runner.save_checkpoint_interval, stand_still, self._memory.advance)
            self._trainer.epoch(epoch, batches, runner.print_interval, self._story.progress, at.step, at.totals, rests)
            self._dump.parameters(epoch)
        self._standing = Standing(epoch, self._steps(), True, at.totals)
        return at.totals

    def refresh(self) -> None:
        """After a barrier: take the servers' state."""
        for home in self._homes.values():
            home.refresh()

    def report_of(self, totals: Totals) -> Report:
        """What this worker measured, as counts that add up."""
        return Report(
            {
                "samples": np.array([totals.samples], np.int64),
                "loss": np.array([totals.loss], np.float64),
                "auc": np.array(totals.auc.counts),
            }
        )

    def _refused(self, reason: str) -> None:
        self._story.refused(reason)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def evaluate(self, epoch: int, full: bool) -> Evaluation | None:
        """Rank this client's own held-out items with the servers' state and its private rows; None without test set."""
        if self.test_set is None:
            return None
        self._story.state("evaluating", epoch + 1)
        return evaluate(
            model_score(self.model, self.device, self.config.runner.pure_bf16),
            self.test_set,
            self.train_set.interactions,
            self.train_set.num_items,
            self.config.evaluation.k,
            full,
            self._warm(self.test_set.users),
        )

    def _warm(self, users: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Whether each user's private row has been trained; None when users are not private."""
        local = self._homes.get("local")
        for table in local.tables.values() if isinstance(local, LocalHome) else ():
            if isinstance(table, PrivateTable) and self._feature(table.spec.name) == "user_input":
                return table.warm(users.astype(np.uint64))
        return None

    def _feature(self, table: str) -> str:
        sparse = [p.parameter for p in self.placed if isinstance(p.parameter, SparseParameter)]
        return next((p.embedding.feature for p in sparse if p.spec.name == table), "")

    # --- saving ------------------------------------------------------------------------------------------------------

    def folder_of(self, epoch: int) -> Path:
        """Where the model after `epoch` epochs is saved."""
        return self.job.models / str(epoch)

    def save(self, epoch: int) -> None:
        """Save the whole model: each client its private tables, then one worker the servers' shares and the manifest.

        Who writes the manifest is the first of those alive; when it is lost meanwhile, the next one begins anew.
        Nobody trains meanwhile.
        """
        folder, mode = self.folder_of(epoch), self.config.runner.saves
        retract_manifest(folder)
        local = self._homes.get("local")
        own = save_private(folder, self.job, self.rank, local) if isinstance(local, LocalHome) else {}
        private = self.barrier(f"saved private {epoch}", Report(files=own))
        alive = private.workers
        while True:
            writer = min(alive)
            if self.rank == writer:
                files = {**private.report.files, **self._servers.save(epoch, mode)}
                complete(folder, manifest_of(self.job, self.placed, epoch, files, private.workers))
                if mode != "all":
                    self._servers.settle(epoch, mode)
                log.info("saved the model after epoch %d: %s", epoch, folder)
            alive = self.barrier(f"saved {epoch}").workers
            if writer in alive:
                break
        if isinstance(local, LocalHome):
            local.settle(mode)

    def shrink(self, day: int) -> None:
        """Let every table with an accessor forget: shows and clicks decay, rows of a low score or unseen for long go.

        day: a number that grows from call to call, the same at all workers, which all call it. Where models are not
        saved as a batch, which ends a day by itself, rows that stay have been unseen for one day more.
        """
        is_day = self.config.runner.saves != "batch"
        alive = self.barrier(f"shrink {day}").workers
        if isinstance(local := self._homes.get("local"), LocalHome):
            local.shrink(is_day)
        while True:
            writer = min(alive)
            if self.rank == writer:
                self._servers.shrink(day, is_day)
            alive = self.barrier(f"shrunk {day}").workers
            if writer in alive:
                return

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def first_epoch(self) -> int:
        """The epoch that this run begins with."""
        return self._standing.epoch

    def checkpoint(self, epoch: int) -> None:
        """Between two epochs: everybody stands still for a checkpoint, when there are any. `epoch`: epochs done."""
        self._standing = Standing(epoch, 0, False, Totals())
        if self.config.runner.save_checkpoint_interval:
            self.barrier(f"{CHECKPOINT} {epoch} 0")

    def restore_private(self) -> bool:
        """Take the private tables from this worker's newest own part of a checkpoint, if there is one.

        For a worker that was started again alone; what it trained since then is gone. The others hold the rest.
        """
        local = self._homes.get("local")
        return isinstance(local, LocalHome) and self._memory.restore_private(local, self._specs)

    def _stand_still(self, epoch: int, done: int, totals: Totals) -> None:
        self._standing = Standing(epoch, done, False, totals)
        self.barrier(f"{CHECKPOINT} {epoch} {done}")

    def _remember(self, cut: Cut) -> None:
        """Everybody stands still: the servers first, then this worker's own part."""
        self._servers.cut(cut)
        self._memory.write(cut, self._standing, self._homes.values(), self._specs, self._samples)

    def _take_up(self) -> None:
        """Go on from a checkpoint."""
        standing = self._memory.take_up(self._homes.values(), self._specs, self._samples)
        if standing is None:
            manifest = read_complete(Path(self.job.resume_from))
            log.warning("this worker was lost before the checkpoint was made: it takes part from the next epoch on")
            standing = Standing(manifest.epoch, 0, bool(manifest.step), Totals())
            self.restore_private()
        self._standing = self._resumed = standing
        log.info("goes on from %s: epoch %d, step %d", self.job.resume_from, standing.epoch, standing.step)

    @property
    def _specs(self) -> list[TableSpec]:
        return [p.parameter.spec for p in self.placed]

    @property
    def _samples(self) -> tuple[int, int]:
        """Samples of an epoch and users, by which a client's files are known again."""
        return self.train_set.samples, len(self.train_set.users)

    # --- leaving -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Say good-bye to everybody, in good order."""
        self._memory.finish()
        if self._memory.last_cut:
            self._heartbeat.wait_checkpoint(self._memory.last_cut, self.config.network.barrier_timeout_s)
        network = self.config.network
        patience_s = min(network.request_timeout_s, max(network.lease_s, 3 * network.retry_s))
        self._servers.detach(patience_s)
        try:
            self._coordinator.ask(Leave(), patience_s)
        except (PeerLost, RoleFailed) as error:  # it may have ended because of this very message
            log.warning("good-bye without an answer: %s", error)
        self._story.state("done", self.config.runner.epochs)

    def close(self) -> None:
        """Let go of everything, in whatever state."""
        self._heartbeat.stop()
        self._servers.close()
        self._coordinator.close()
        self._carrier.shut_down()
        self.events.close()


def _device(use_gpu: bool) -> str:
    if not use_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            "runner.use_gpu is set, but torch finds no CUDA device here; set it to False or use that host"
        )
    return "cuda"
