"""Whatever strikes whom in which phase, a run ends right or with the documented exit code, and leaves nothing behind.

    role     worker, server, coordinator
    phase    connecting, pulling, pushing, barrier, saving, evaluating, ending
    fault    kill        SIGKILL
             pause       SIGSTOP for 5 s, within the lease
             silence     SIGSTOP for 5 s, longer than the lease
             cut         its links carry nothing for 2 s, within the lease
             severed     its links carry nothing for 4 s, longer than the lease
             restart     SIGKILL, with --max_restarts=1 and durability log

The faults are flrun's own (`--faults`), so they strike at the very message that a phase begins with.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flps.checkpoint import read_files, read_manifest

PHASES = ("connecting", "pulling", "pushing", "barrier", "saving", "evaluating", "ending")
AT_ONCE = 4
CASE_S = 60.0
EPOCHS = 2

# Phases are long enough for the signs of life that stand for some of them, at the servers and at the coordinator.
SLOW = """
import time
from flps.worker import FLClient

class Slow(FLClient):
    def train(self, epoch):
        totals = super().train(epoch)
        if self.session.rank == 0:
            time.sleep(0.4)
        return totals

    def infer(self, epoch, is_last):
        time.sleep(0.4)
        return super().infer(epoch, is_last)
"""


class Case(NamedTuple):
    role: str
    phase: str
    fault: str

    @property
    def moment(self) -> str:
        """The phase as the role sees it; the coordinator sees neither pulls nor pushes, but that there is training."""
        as_seen = {
            ("worker", "pushing"): "pushing5",
            ("worker", "barrier"): "barrier2",
            ("server", "pushing"): "pushing5",
            ("coordinator", "pulling"): "training",
            ("coordinator", "pushing"): "training3",
            ("coordinator", "barrier"): "barrier5",
        }
        return as_seen.get((self.role, self.phase), self.phase)

    @property
    def flag(self) -> str:
        who = "worker:1" if self.role == "worker" else f"{self.role}:0"
        return {
            "kill": f"kill={who}@{self.moment}",
            "restart": f"kill={who}@{self.moment}",
            "pause": f"stop={who}@{self.moment}+5s",
            "silence": f"stop={who}@{self.moment}+5s",
            "cut": f"partition={who}@{self.moment}+2s",
            "severed": f"partition={who}@{self.moment}+4s",
        }[self.fault]

    @property
    def flags(self) -> list[str]:
        restart = ["--max_restarts=1", "-o", "runner.durability=log"]
        return [f"--faults={self.flag}", *(restart if self.fault == "restart" else [])]

    @property
    def is_equal(self) -> bool:
        """Whether the model is that of an undisturbed run: a worker that was away has missed some of its steps."""
        return self.fault != "restart" or self.role != "worker" or self.phase in ("connecting", "ending")

    @property
    def network(self) -> dict[str, float]:
        lease_s = 2.0 if self.fault in ("kill", "silence", "severed") else 12.0
        # Who dies before its hello is missed at the end of this time.
        start_s = 15.0 if self.fault == "kill" and self.phase == "connecting" else 30.0
        return {
            "heartbeat_s": 0.1,
            "lease_s": lease_s,
            "retry_s": 0.2,
            "request_timeout_s": 20.0,
            "start_timeout_s": start_s,
        }


# (role, phase, fault) -> exit codes; "*" is every phase. See docs/exit-codes.md.
EXPECTED: dict[tuple[str, str, str], set[int]] = {
    ("worker", "*", "kill"): {3},
    ("server", "*", "kill"): {4},
    ("coordinator", "*", "kill"): {4},
    ("worker", "*", "pause"): {0},
    ("server", "*", "pause"): {0},
    ("coordinator", "*", "pause"): {0},
    ("worker", "*", "cut"): {0},
    ("server", "*", "cut"): {0},
    ("coordinator", "*", "cut"): {0},
    ("worker", "*", "severed"): {3},
    ("server", "*", "severed"): {4},
    ("coordinator", "*", "severed"): {4},
    ("worker", "*", "restart"): {0},
    ("server", "*", "restart"): {0},
    ("coordinator", "*", "restart"): {0},
    ("worker", "*", "silence"): {3},
    ("server", "*", "silence"): {4},
    ("coordinator", "*", "silence"): {4},
    # Who has not said hello yet has until start_timeout_s.
    ("worker", "connecting", "silence"): {0},
    ("server", "connecting", "silence"): {0},
    ("coordinator", "connecting", "silence"): {0},
    # All is saved by then: whoever has said good-bye does not mind.
    ("coordinator", "ending", "silence"): {0, 4},
    # The same; and a worker waits for the answer to its good-bye about as long as the lease, so that it is a matter of
    # moments whether the server is missed before the last one has left. The model is held to be equal all the same.
    ("server", "ending", "silence"): {0, 4},
    ("server", "ending", "severed"): {0, 4},
}


def expected(case: Case) -> set[int]:
    return EXPECTED.get(case, EXPECTED[case._replace(phase="*")])


class Arena:
    """Runs cases, several at a time, each in a folder of its own."""

    def __init__(self, flrun: Any, shards: Path) -> None:
        self._flrun, self._shards = flrun, shards
        self._numbers = itertools.count()  # socket paths are short
        self._lock = threading.Lock()
        self._whole: dict[str, np.ndarray[Any, Any]] | None = None

    def run(self, name: str, network: dict[str, float], *flags: str) -> tuple[Any, int, str]:
        """One run; (its folder and processes, exit code, what it printed)."""
        folder, runtime = self._flrun.folder / name, self._flrun.runtime / str(next(self._numbers))
        folder.mkdir()
        runtime.mkdir(mode=0o700)
        run = type(self._flrun)(folder, runtime)
        (folder / "slow.py").write_text(SLOW)
        runner = {
            "sync_mode": "sync",
            "epochs": EPOCHS,
            "save_interval": 1,
            "train_batch_size": 12,
            "local_sparse": ["user_embedding"],
            "test_data_dir": str(self._shards / "fl_test_data"),
        }
        run.write({"runner": runner, "network": network}, self._shards)
        code, out, err = run.finish(run.start("slow.py", "--worker_num=3", "--coordinator_num=1", *flags), CASE_S)
        return run, code, out + err

    def undisturbed(self) -> dict[str, np.ndarray[Any, Any]]:
        """What the job gives when nothing strikes."""
        with self._lock:
            if self._whole is None:
                run, code, said = self.run("undisturbed", Case("worker", "pulling", "pause").network)
                assert code == 0, said
                self._whole = run.saved.parameters(EPOCHS)
                run.runtime.rmdir()
            return self._whole

    def complaints(self, case: Case) -> list[str]:
        """Everything that is not as it must be after this case."""
        name = f"{'-'.join(case)}"
        try:
            run, code, said = self.run(name, case.network, *case.flags)
        except Exception as error:
            return [f"{name}: {error!r}"]
        found = list(self._look_at(run, case, code))
        return [f"{name} ({case.flag}), exit code {code}: {text}\n{said[-600:]}" for text in found]

    def _look_at(self, run: Any, case: Case, code: int) -> Iterable[str]:
        if code not in expected(case):
            yield f"expected {sorted(expected(case))}"
        if [event["fault"] for event in run.saved.events("fault")] != [case.flag]:
            yield f"struck: {run.saved.events('fault')}"
        if not run.is_clean():
            yield f"left behind: {run.processes()} {list(run.runtime.iterdir())}"
        else:
            run.runtime.rmdir()
        yield from self._look_at_models(run, case, code)
        if code == 0 and case.phase != "ending" and run.saved.events("lost"):
            yield f"ended well, but {run.saved.events('lost')}"

    def _look_at_models(self, run: Any, case: Case, code: int) -> Iterable[str]:
        """What looks complete is complete; what ended well is what an undisturbed run gives, bit for bit."""
        for epoch in run.saved.epochs():
            folder = run.saved.folder(epoch)
            manifest = read_manifest(folder)
            for kind in ("shared", "private"):
                read_files(folder, manifest, kind)
        if code in (0, 3) and run.saved.epochs() != list(range(1, EPOCHS + 1)):
            yield f"saved are {run.saved.epochs()}"
        if code == 0 and case.is_equal:
            whole, got = self.undisturbed(), run.saved.parameters(EPOCHS)
            if whole.keys() != got.keys() or any(not np.array_equal(whole[name], got[name]) for name in whole):
                yield "other numbers than an undisturbed run"


@pytest.fixture
def arena(flrun: Any, shards: Callable[..., Path]) -> Arena:
    return Arena(flrun, shards(3))


def play(arena: Arena, cases: Iterable[Case]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pool.submit(arena.undisturbed)
        complaints = [text for found in pool.map(arena.complaints, cases) for text in found]
    assert not complaints, "\n\n".join(complaints)


DAILY = (  # a killed worker and a restarted server are in test_processes.py and test_restarts.py
    Case("server", "saving", "kill"),
    Case("coordinator", "evaluating", "kill"),
    Case("worker", "barrier", "cut"),
    Case("server", "pushing", "cut"),
    Case("worker", "pulling", "silence"),
)


def test_a_few_of_all_cases(arena: Arena) -> None:
    play(arena, DAILY)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "pause", "silence", "cut", "restart"])
@pytest.mark.parametrize("role", ["worker", "server", "coordinator"])
def test_every_phase(arena: Arena, role: str, fault: str) -> None:
    play(arena, [Case(role, phase, fault) for phase in PHASES])


@pytest.mark.slow
def test_a_link_that_stays_cut(arena: Arena) -> None:
    roles, phases = ("worker", "server", "coordinator"), ("pulling", "pushing", "barrier", "saving")
    cases = [Case(role, phase, "severed") for role in roles for phase in phases]
    play(arena, [*cases, Case("server", "ending", "severed")])
