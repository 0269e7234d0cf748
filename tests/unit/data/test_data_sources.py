"""The four readers give the same samples; a pipe command's faults are told."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.data.batch import Rows, join
from flps.data.shards import list_shards
from flps.data.sources import Reader, ReaderType, multislot_rows
from flps.data.train import Sampling, TrainSet, open_train
from flps.errors import ConfigError, DataError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
PIPE = "python queuedataset_reader.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of one client, 300 samples."""
    rng = np.random.default_rng(0)
    for name in ("0.csv", "1.csv"):
        lines = [f"{u},{i},{u % 2}" for u, i in rng.integers(0, 20, (150, 2)).tolist()]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def reader(kind: ReaderType, pipe: str = PIPE, **more: object) -> Reader:
    path = str(CONFIGS / "config_fl.yaml")
    return Reader(kind, pipe_command=pipe, reader_path="movielens_reader", config_path=path, **more)  # type: ignore[arg-type]


def open_with(folder: Path, kind: ReaderType, sampling: Sampling) -> TrainSet:
    return open_train(folder, 0, 1, reader=reader(kind), sampling=sampling)


@pytest.mark.parametrize("negatives", ["fresh", "fixed"])
@pytest.mark.parametrize("kind", ["QueueDataset", "DataLoader", "RecDataset"])
def test_every_reader_gives_the_same_batches(folder: Path, kind: ReaderType, negatives: str) -> None:
    sampling = Sampling(batch_size=32, seed=4, negatives=negatives)  # type: ignore[arg-type]
    ours, theirs = open_with(folder, "columnar", sampling), open_with(folder, kind, sampling)
    assert theirs.samples == ours.samples
    assert theirs.steps() == ours.steps()
    np.testing.assert_array_equal(theirs.users, ours.users)
    for epoch in range(2):
        pairs = list(itertools.zip_longest(ours.epoch(epoch), theirs.epoch(epoch)))
        assert len(pairs) == ours.steps()
        for mine, other in pairs:
            for name, column in mine._asdict().items():
                np.testing.assert_array_equal(column, other._asdict()[name])
                assert column.dtype == other._asdict()[name].dtype


def test_queue_dataset_without_command_reads_natively(folder: Path) -> None:
    assert reader("QueueDataset", "").is_native
    assert not reader("QueueDataset").is_native


def test_a_small_window_keeps_every_sample_and_every_step(folder: Path) -> None:
    sampling = Sampling(batch_size=32, negatives="fixed", window=50)
    small, whole = open_with(folder, "QueueDataset", sampling), open_with(folder, "columnar", sampling)
    batches = list(small.epoch(0))
    assert len(batches) == small.steps() == whole.steps()
    assert [len(b.label) for b in batches[:-1]] == [32] * (small.steps() - 1)
    assert samples_of(small) == samples_of(whole)
    for step in (0, 1, 3, small.steps() - 1, small.steps()):
        rest = list(small.epoch(0, step))
        assert len(rest) == small.steps() - step
        for got, expected in zip(rest, batches[step:], strict=True):
            np.testing.assert_array_equal(got.item_input, expected.item_input)


def samples_of(train: TrainSet) -> list[tuple[int, int, float]]:
    return sorted(sample for batch in train.epoch(0) for sample in zip(*(c.tolist() for c in batch), strict=True))


def run_pipe(folder: Path, command: str, **more: object) -> Rows:
    files = list(list_shards(folder).values())
    return join(list(reader("QueueDataset", command, **more).rows(files)))


def test_a_command_gets_the_yaml_and_its_folder(folder: Path) -> None:
    (folder / "reader.py").write_text(
        textwrap.dedent("""
        import os, sys
        assert sys.argv[1].endswith("job.yaml"), sys.argv
        assert os.path.samefile(os.getcwd(), os.path.dirname(sys.argv[1]))
        for line in sys.stdin:
            print("1 %s 1 %s 1 %s" % tuple(line.strip().split(",")))
        """)
    )
    wanted = Reader("QueueDataset", pipe_command="python reader.py", config_path=str(folder / "job.yaml"))
    assert len(join(list(wanted.rows(list(list_shards(folder).values())))).users) == 300


def test_a_shell_pipe_is_a_command(folder: Path) -> None:
    command = "sed 's/,/ 1 /g; s/^/1 /' | cat; true"
    assert len(run_pipe(folder, command).users) == 300


@pytest.mark.parametrize("status", [1, 7])
def test_a_failing_command_is_told_with_status_and_stderr(folder: Path, status: int) -> None:
    with pytest.raises(ConfigError, match=rf"status {status}(.|\n)*no such slot"):
        run_pipe(folder, f"cat > /dev/null; echo no such slot >&2; exit {status};")


def test_a_missing_command_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="status 127"):
        run_pipe(folder, "no_such_command_at_all")


def test_a_silent_command_is_stopped(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"wrote nothing for 0\.2 s"):
        run_pipe(folder, "sleep 60;", silence_s=0.2)


def test_a_command_that_is_not_read_to_its_end_is_ended(folder: Path) -> None:
    files = list(list_shards(folder).values())
    rows: Iterator[Rows] = reader("QueueDataset", "yes 1 2 1 3 1 1; true").rows(files)
    assert len(next(rows).users) > 1000
    rows.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "line", ["1 2 1 3", "2 1 2 1 3 1 1", "1 2 2 3 1 1", "1 x 1 3 1 1", "1 2 1 3 1 9", "1 -2 1 3 1 1"]
)
def test_wrong_multislot_text_is_refused_by_line(line: str) -> None:
    text = f"1 2 1 3 1 1\n1 4 1 3 1 0\n{line}\n1 2 1 3 1 1\n"
    with pytest.raises(DataError, match="line 3 of its output"):
        list(multislot_rows([text.encode()], "cmd on 0.csv"))


@given(
    st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 99), st.integers(0, 1)), max_size=20), st.integers(1, 50)
)
def test_multislot_text_in_pieces_of_any_size(samples: list[tuple[int, int, int]], size: int) -> None:
    text = "".join(f"1 {u} 1 {i} 1 {label}\n" for u, i, label in samples).encode()
    rows = join(list(multislot_rows([text[n : n + size] for n in range(0, len(text), size)], "cmd")))
    assert list(zip(rows.users.tolist(), rows.items.tolist(), rows.labels.tolist(), strict=True)) == samples


def test_a_reader_module_that_is_not_there(folder: Path) -> None:
    nowhere = Reader("RecDataset", reader_path="no_such_reader", config_dir=str(folder))
    with pytest.raises(ConfigError, match="no module 'no_such_reader'"):
        open_train(folder, 0, 1, reader=nowhere)
    (folder / "bare.py").write_text("")
    with pytest.raises(ConfigError, match="no class RecDataset"):
        open_train(folder, 0, 1, reader=Reader("RecDataset", reader_path="bare", config_dir=str(folder)))
    with pytest.raises(ConfigError, match="train_reader_path"):
        open_train(folder, 0, 1, reader=Reader("DataLoader", config_dir=str(folder)))


def test_a_reader_that_gives_something_else(folder: Path) -> None:
    (folder / "pairs.py").write_text(
        "class RecDataset(list):\n    def __init__(self, files, config): super().__init__([(1, 2)])\n"
    )
    with pytest.raises(DataError, match="expected samples"):
        open_train(folder, 0, 1, reader=Reader("RecDataset", reader_path="pairs", config_dir=str(folder)))


def test_a_reader_gets_files_and_config(folder: Path) -> None:
    source = """
    class RecDataset:
        def __init__(self, file_list, config):
            self.samples = [(len(file_list), config["item"], 1)]
        def __iter__(self):
            return iter(self.samples)
    """
    (folder / "counts.py").write_text(textwrap.dedent(source))
    wanted = Reader("RecDataset", reader_path="counts.py", config_dir=str(folder), config={"item": 6})
    train = open_train(folder, 0, 1, reader=wanted, sampling=Sampling(num_neg=0))
    assert [b.item_input.tolist() for b in train.epoch(0)] == [[6]]
    assert train.users.tolist() == [2]


def test_columnar_only_shards_have_no_text_for_foreign_readers(tmp_path: Path) -> None:
    from flps.data.columns import write_columns

    write_columns(tmp_path / "0.flps", {"user": np.arange(3), "item": np.arange(3)}, {})
    with pytest.raises(DataError, match="reads csv files"):
        open_train(tmp_path, 0, 1, reader=reader("QueueDataset"))


def test_dataset_debug_logs_the_time_of_both(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = open_with(folder, "QueueDataset", Sampling(debug=True))
    with caplog.at_level("INFO"):
        list(train.epoch(0))
    assert "epoch 0 of client 0: reader 0." in caplog.text
