"""A user's own trainer script: `flrun trainer.py -m x.yaml` with one class that derives from FLClient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = """
from flps.worker import FLClient


class Mine(FLClient):
    def set_basic_config(self, session, config, metrics):
        super().set_basic_config(session, config, metrics)
        print("HOOK basic", config.runner.epochs)
        self.register_handlers("infer", lambda epoch, is_last: print("HOOK infer", epoch, is_last))

    def set_train_dataset_info(self, train_dataset, file_list):
        super().set_train_dataset_info(train_dataset, file_list)
        print("HOOK train files", *(path.name for path in file_list), train_dataset.samples)

    def set_test_dataset_info(self, test_dataset, file_list):
        super().set_test_dataset_info(test_dataset, file_list)
        print("HOOK test files", *(path.name for path in file_list), len(test_dataset.users))

    def set_train_example_num(self, count):
        super().set_train_example_num(count)
        print("HOOK examples", count)

    def run(self):
        print("HOOK run")
        super().run()

    def train(self, epoch):
        print("HOOK train", epoch)
        return super().train(epoch)

    def save_model(self, epoch, workers):
        print("HOOK save", epoch, workers)
        super().save_model(epoch, workers)

    def finish(self):
        print("HOOK finish", sorted(self.metrics))
        super().finish()
"""


def test_every_hook_is_called_in_order(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(2)
    flrun.write({"runner": {"test_data_dir": str(folder / "fl_test_data"), "save_interval": 1}}, folder)
    (flrun.folder / "trainer.py").write_text(GOOD)
    code, _, err = flrun("trainer.py", "--worker_num=2")
    assert (code, err) == (0, "")
    for rank in (0, 1):
        samples = len((folder / "fl_train_data" / f"{rank}.csv").read_text().splitlines())
        hooks = [line[5:] for line in flrun.logs()[f"workerlog.{rank}"].splitlines() if line.startswith("HOOK ")]
        assert hooks == [
            "basic 2",
            f"train files {rank}.csv {samples}",
            f"test files {rank}.csv 30",
            f"examples {samples}",
            "run",
            "train 0", "save 0 [0, 1]", "infer 0 False",
            "train 1", "save 1 [0, 1]", "infer 1 True",
            "finish ['auc', 'loss']",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("x = 1\n", "found 0"),
        pytest.param(GOOD + "\n\nclass Other(FLClient):\n    pass\n", "found 2", marks=pytest.mark.slow),
        pytest.param("import no_such_module\n", "no_such_module", marks=pytest.mark.slow),  # also unit/test_scripts.py
        pytest.param("def broken(:\n", "trainer.py", marks=pytest.mark.slow),
        ("from flps.worker import FLClient\nclass Mine(FLClient):\n    def run(self):\n"
         "        self.register_handlers('trian', print)\n", "no handler 'trian'"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_used_ends_with_2(
    shards: Callable[..., Path], flrun: Any, script: str, says: str
) -> None:
    flrun.write({}, shards(2))
    (flrun.folder / "trainer.py").write_text(script)
    code, out, err = flrun("trainer.py", "--worker_num=2")
    assert code == 2, (out, err)
    assert says in out + err
    assert flrun.is_clean()


POISON = '''
from flps.worker import FLClient

BAD_STEPS = {steps}


class Poison(FLClient):
    """Worker 1's loss is NaN at some steps of its first epoch."""

    def train(self, epoch):
        model, clean, done = self.session.model, type(self.session.model).loss, [0]

        def loss(logits, batch):
            done[0] += 1
            is_bad = self.session.rank == 1 and epoch == 0 and done[0] in BAD_STEPS
            return clean(model, logits, batch) * (float("nan") if is_bad else 1.0)

        model.loss = loss
        return super().train(epoch)
'''


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("mode", ["sync", "async", "geo"])
def test_gradients_that_are_no_numbers_are_refused_and_the_job_goes_on(
    shards: Callable[..., Path], federate: Callable[..., Any], tmp_path: Path, mode: str, private: bool
) -> None:
    script = tmp_path / "poison.py"
    script.write_text(POISON.format(steps={4, 5}))
    folder = shards(2)
    runner = {"sync_mode": mode, "test_data_dir": str(folder / "fl_test_data"), "epochs": 3}
    runner |= {"local_sparse": ["user_embedding"]} if private else {}
    saved = federate(folder, {"runner": runner}, servers=2, trainer=str(script))
    counted = {event["rank"]: event["rejected_pushes"] for event in saved.events("progress") if "epochs" in event}
    assert counted[0] == 0
    assert counted[1] >= 1
    for name, array in saved.parameters().items():
        assert not (array != array).any(), name
    losses = [event["loss"] for event in saved.events("epoch")]
    assert losses[2] < losses[1] < 0.7  # it goes on learning; the first epoch's loss has no value
    assert saved.events("eval")[-1]["users"] == 60


@pytest.mark.parametrize("mode", ["sync", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("async", "geo"))])
def test_too_many_refusals_in_a_row_end_the_worker(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    settings = {
        "runner": {"sync_mode": mode, "train_batch_size": 6, "geo_step": 2},
        "network": {"max_refused": 3, "lease_s": 2.0},
    }
    flrun.write(settings, shards(2))
    (flrun.folder / "poison.py").write_text(POISON.format(steps="range(1, 1000)"))
    code, out, err = flrun("poison.py", "--worker_num=2")
    assert code == 3, (out, err)
    assert "worker.1 was lost" in err
    assert "3 pushes in a row were refused" in out
    assert "NaN" in out
    assert flrun.is_clean()
