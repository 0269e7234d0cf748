"""geo: parameters trained here and exchanged every `geo_step` steps as deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from flps.message import Push
from flps.remote import Servers
from flps.table import TableSpec
from flps.table.accessor import COUNTS_WIDTH, Counts, merge_counts
from flps.table.counted import scaled
from flps.table.files import TensorFile
from flps.table.replica import DenseReplica, SparseReplica, servers_spec
from flps.table.snapshot import Content
from flps.worker.homes import Step
from flps.worker.parameters import DenseParameter, Keys, Parameter, Rows, SparseParameter
from flps.worker.upcoming import Upcoming


class SparseWindow:
    """An embedding with its own copy of the rows and the servers' copy."""

    def __init__(self, parameter: SparseParameter, number: int) -> None:
        self._parameter = parameter
        self._number = number
        self._replica = SparseReplica(parameter.spec)
        self._counted: list[tuple[Keys, Counts]] = []  # of the steps of this window, where they are counted

    def step(self) -> None:
        """Train the own copy by this step's gradient."""
        gradient = self._parameter.gradient()
        if gradient is None:
            return
        keys, rows = gradient
        accessor, counts = self._parameter.spec.accessor, self._parameter.counts
        if accessor is not None and counts is not None:
            self._counted.append((keys, counts))
            if accessor.show_scale:
                rows = scaled(self._parameter.spec.rule, rows, counts)
        self._replica.push(keys, rows, unique=True)

    def show_own(self) -> None:
        """The model sees the copy that is trained here."""
        self._parameter.embedding.table = self._replica

    def show_servers(self) -> None:
        """The model sees what the servers hold."""
        self._parameter.embedding.table = self._replica.servers_view

    def delta(self) -> Push:
        """What was trained here since the last window."""
        keys, rows = self._replica.delta()
        return Push(self._number, keys, rows, self._counts(keys))

    def _counts(self, keys: Keys) -> Counts | None:
        """What was counted of these keys (N,) since the last window."""
        if self._parameter.spec.accessor is None:
            return None
        counts = np.zeros((keys.size, COUNTS_WIDTH), np.float32)
        if self._counted:
            once, merged = merge_counts(*map(np.concatenate, zip(*self._counted, strict=True)))
            places = np.searchsorted(once, keys).clip(max=once.size - 1)
            counts = np.where((once[places] == keys)[:, None], merged[places], counts)
        self._counted = []
        return counts

    def sent(self, delta: Push, applied: Rows) -> None:
        """The servers added `applied` for `delta`."""
        assert delta.keys is not None
        self._replica.sent(delta.keys, applied)

    def keep(self, delta: Push) -> None:
        """A server refused it: what is sound goes with the next window, what is no number is forgotten."""
        assert delta.keys is not None
        self._replica.keep(delta.keys, delta.values)

    def content(self) -> Content:
        """What this worker remembers of it."""
        name, content = self._parameter.spec.name, self._replica.content(self._parameter.spec.name)
        if self._parameter.spec.accessor is None:
            return content
        keys = np.concatenate([np.zeros(0, np.uint64), *(keys for keys, _ in self._counted)])
        counts = np.concatenate([np.zeros((0, COUNTS_WIDTH), np.float32), *(counts for _, counts in self._counted)])
        return content.joined(Content({}, {f"counted/{name}": {"keys": keys, "counts": counts}}))

    def take_up(self, file: TensorFile) -> None:
        """Remember what `content` gave."""
        name = self._parameter.spec.name
        self._replica.take_up(name, file)
        if self._parameter.spec.accessor is not None:
            keys, counts = file.read(f"counted/{name}", "keys"), file.read(f"counted/{name}", "counts")
            self._counted = [(keys, counts)] if keys.size else []

    def receive(self, changed: Push) -> None:
        """Others changed rows."""
        assert changed.keys is not None
        self._replica.receive(changed.keys, changed.values)


class DenseWindow:
    """Dense parameters with their own copy and the servers' copy."""

    def __init__(self, parameter: DenseParameter, number: int) -> None:
        self._pack = parameter.pack
        self._parameter = parameter
        self._number = number
        self._replica = DenseReplica(parameter.spec, parameter.pack.values())

    def step(self) -> None:
        """Train the own copy by this step's gradient."""
        self._replica.push(self._parameter.gradient())
        self.show_own()

    def show_own(self) -> None:
        """The model sees the copy that is trained here."""
        self._pack.load(self._replica.own_view)

    def show_servers(self) -> None:
        """The model sees what the servers hold."""
        self._pack.load(self._replica.servers_view)

    def delta(self) -> Push:
        """What was trained here since the last window."""
        return Push(self._number, None, self._replica.delta())

    def sent(self, delta: Push, applied: Rows) -> None:
        """The servers added `applied`."""
        self._replica.sent(applied)

    def keep(self, delta: Push) -> None:
        """A server refused it: what is no number is forgotten, the rest goes with the next window by itself."""
        self._replica.keep(delta.values)

    def content(self) -> Content:
        """What this worker remembers of it."""
        return self._replica.content(self._parameter.spec.name)

    def take_up(self, file: TensorFile) -> None:
        """Remember what `content` gave."""
        self._replica.take_up(self._parameter.spec.name, file)

    def receive(self, changed: Push) -> None:
        """Others changed values; with keys: at these places only."""
        self._replica.receive(changed.values, changed.keys)


AnyWindow: TypeAlias = SparseWindow | DenseWindow


class WindowHome:
    """Counts steps and exchanges deltas."""

    lookahead = 0

    def __init__(
        self, parameters: Sequence[Parameter], servers: Servers, numbers: dict[str, int], geo_step: int
    ) -> None:
        """`numbers`: table name -> the number that the servers know it by."""
        self._servers = servers
        self._geo_step = geo_step
        self._samples = 0
        self._steps = 0
        self._tables: dict[int, AnyWindow] = {}
        for parameter in parameters:
            number = numbers[parameter.spec.name]
            self._tables[number] = (
                SparseWindow(parameter, number)
                if isinstance(parameter, SparseParameter)
                else DenseWindow(parameter, number)
            )

    @staticmethod
    def spec(spec: TableSpec) -> TableSpec:
        """How the servers hold such a table."""
        return servers_spec(spec)

    def begin(self, epoch: int, upcoming: Sequence[Upcoming]) -> None:
        for table in self._tables.values():
            table.show_own()

    def send(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        for table in self._tables.values():
            table.step()
        self._samples += step.samples
        self._steps += 1

    def receive(self, step: Step, upcoming: Sequence[Upcoming]) -> None:
        if self._steps == self._geo_step and upcoming:
            self._exchange(step.epoch, final=False)

    def end(self, epoch: int) -> None:
        self._exchange(epoch, final=True)

    def rest(self) -> None:
        """Nothing is under way between two steps."""

    def content(self) -> Content:
        counts = np.array([self._samples, self._steps], np.int64)
        content = Content({}, {"window": {"counts": counts}})
        for table in self._tables.values():
            content = content.joined(table.content())
        return content

    def take_up(self, file: TensorFile) -> None:
        self._samples, self._steps = (int(count) for count in file.read("window", "counts"))
        for table in self._tables.values():
            table.take_up(file)

    def refresh(self) -> None:
        """Take what others sent last, and show the model the servers' state."""
        self._receive(self._servers.window(0, 0, False, [], list(self._tables)).changed)
        for table in self._tables.values():
            table.show_servers()

    def _exchange(self, epoch: int, final: bool) -> None:
        deltas = [table.delta() for table in self._tables.values()]
        exchanged = self._servers.window(epoch, self._samples, final, deltas, list(self._tables))
        self._samples = self._steps = 0
        for delta, applied in zip(deltas, exchanged.applied, strict=True):
            self._tables[delta.table].sent(delta, applied)
            if exchanged.refused:
                self._tables[delta.table].keep(delta)
        self._receive(exchanged.changed)
        for table in self._tables.values():
            table.show_own()

    def _receive(self, changed: Sequence[Push]) -> None:
        for push in changed:
            self._tables[push.table].receive(push)
