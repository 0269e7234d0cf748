"""The run's folder and its links."""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from pathlib import Path

import pytest

from flps.errors import ResourceError
from flps.launch.logs import formatter, last_lines, link_newest, log_name, make_run_dir, run_name, write_roles


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    wanted = tmp_path / "log" / run_name(datetime(2026, 11, 21, 10, 0, 0))
    made = [make_run_dir(wanted) for _ in range(3)]
    assert [folder.name for folder in made] == [
        "run-20261121-100000",
        "run-20261121-100000-2",
        "run-20261121-100000-3",
    ]
    assert all(folder.is_dir() for folder in made)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file is in the way")
    with pytest.raises(ResourceError, match="cannot make the run folder"):
        make_run_dir(tmp_path / "log" / "run-1")


def test_links_show_the_newest_run_and_forget_a_larger_one(tmp_path: Path) -> None:
    first, second = make_run_dir(tmp_path / "run-1"), make_run_dir(tmp_path / "run-2")
    for folder, workers in ((first, 3), (second, 1)):
        names = [log_name("worker", rank) for rank in range(workers)]
        for name in names:
            (folder / name).write_text(folder.name)
        link_newest(folder, names, whole_job=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-1", "run-2", "workerlog.0"]
    assert os.readlink(tmp_path / "workerlog.0") == "run-2/workerlog.0"
    assert (tmp_path / "workerlog.0").read_text() == "run-2"
    assert (first / "workerlog.2").read_text() == "run-1"


def test_a_part_of_a_job_leaves_other_links_alone(tmp_path: Path) -> None:
    first, second = make_run_dir(tmp_path / "run-1"), make_run_dir(tmp_path / "run-2")
    link_newest(first, ["workerlog.0", "serverlog.0"], whole_job=False)
    link_newest(second, ["workerlog.1"], whole_job=False)
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {
        "workerlog.0",
        "workerlog.1",
        "serverlog.0",
    }


def test_a_file_in_the_place_of_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "workerlog.0").write_text("of another launcher")
    run_dir = make_run_dir(tmp_path / "run-1")
    assert link_newest(run_dir, ["workerlog.0", "workerlog.1"], whole_job=True) == ["workerlog.0"]
    assert (tmp_path / "workerlog.0").read_text() == "of another launcher"
    assert (tmp_path / "workerlog.1").is_symlink()


def test_roles_are_listed(tmp_path: Path) -> None:
    rows = [{"role": "worker", "rank": 0, "pid": 7, "host": "h", "log": "l", "endpoint": ""}]
    write_roles(tmp_path, rows)
    assert json.loads((tmp_path / "roles.json").read_text()) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["roles.json"]


def test_the_last_lines(tmp_path: Path) -> None:
    log_file = tmp_path / "workerlog.0"
    assert last_lines(log_file) == []
    log_file.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % number for number in range(100)))
    assert last_lines(log_file) == [f"line {number}" for number in range(85, 100)]
    assert last_lines(log_file, 1) == ["line 99"]


def test_a_line_has_time_role_and_level() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "epoch %d", (3,), None)
    record.created, record.msecs = datetime(2026, 11, 21, 10).timestamp(), 123
    assert formatter("worker.3").format(record) == "2026-11-21 10:00:00,123 worker.3 INFO epoch 3"
