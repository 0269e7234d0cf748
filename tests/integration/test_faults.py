"""flrun --faults: what is lost, doubled and late changes no number; what strikes is told; what cannot be is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flps.faults import Faults

# Each end loses and doubles; some messages overtake others.
BAD = Faults().drop(5).duplicate(5).reorder(5).delay(1, up_to_ms=3).drop(3, on="server")


def job(folder: Path, mode: str, epochs: int = 1) -> dict[str, Any]:
    return {
        "runner": {
            "sync_mode": mode,
            "epochs": epochs,
            "local_sparse": ["user_embedding"],
            "test_data_dir": str(folder / "fl_test_data"),
        },
        "network": {"retry_s": 0.05, "heartbeat_s": 0.1, "lease_s": 10.0},
    }


@pytest.mark.parametrize("servers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_bad_network_gives_the_same_tables(shards: Callable[..., Path], federate: Any, servers: int) -> None:
    folder = shards(3)
    settings = job(folder, "sync")
    good = federate(folder, settings, workers=3, servers=servers)
    bad = federate(folder, settings, workers=3, servers=servers, faults=str(BAD))
    want, got = good.parameters(), bad.parameters()
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[name], got[name]) for name in want)
    assert good.events("eval")[-1]["hr"] == bad.events("eval")[-1]["hr"]
    assert good.events("fault") == []
    counts: dict[str, int] = {}
    for event in bad.events("fault"):
        counts[event["fault"]] = counts.get(event["fault"], 0) + event["messages"]
    assert counts.keys() == {"drop=5%", "duplicate=5%", "reorder=5%", "drop=3%@server"}
    assert min(counts.values()) > 3
    assert bad.events("lost") == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["async", "geo"])
def test_other_modes_come_to_their_end_over_a_bad_network(
    shards: Callable[..., Path], federate: Any, mode: str
) -> None:
    folder = shards(3)
    saved = federate(folder, job(folder, mode), workers=3, servers=2, faults=str(BAD))
    lines = sum(len(path.read_text().splitlines()) for path in (folder / "fl_train_data").iterdir())
    assert [event["samples"] for event in saved.events("epoch")] == [lines]


def test_a_kill_at_a_step_is_told_and_ends_the_job(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(2)
    flrun.write(job(folder, "sync", epochs=50), folder)
    code, out, err = flrun("--worker_num=2", "--faults=kill=server:0@step12; delay=1ms")
    assert code == 4, (out, err)
    assert "server.0 was killed by SIGKILL, so the job was stopped" in err
    assert re.search(r"server\.0: fault on purpose: kill=server:0@step12", out), out
    assert "WARNING fault on purpose: kill=server:0@step12" in flrun.logs()["serverlog.0"]
    (event,) = flrun.saved.events("fault")
    assert (event["role"], event["rank"], event["fault"]) == ("server", 0, "kill=server:0@step12")
    assert flrun.is_clean()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--faults=drop=5"], "--faults 'drop=5': '5' is no amount of drop; expected pieces divided by ';'"),
        (["--faults=kill=worker:2@5s"], "there is no worker:2, the job has 2 of them"),
        (["--faults=kill=worker:1@5s", "--in_process"], "all roles are threads of one process"),
    ],
)
def test_what_cannot_strike_is_refused(shards: Callable[..., Path], flrun: Any, flags: list[str], says: str) -> None:
    flrun.write({}, shards(2))
    code, _, err = flrun("--worker_num=2", *flags)
    assert code == 2
    assert says in err
    assert not (flrun.folder / "log").exists()


def test_a_dry_run_shows_them(shards: Callable[..., Path], flrun: Any) -> None:
    flrun.write({}, shards(2))
    code, out, _ = flrun("--worker_num=2", "--dry_run", "--faults=drop=5% ;partition=worker:1@10s+10s")
    assert code == 0
    assert "faults    drop=5%; partition=worker:1@10s..20s" in out


@pytest.mark.slow
def test_each_life_has_its_kill_and_the_tables_are_the_same(shards: Callable[..., Path], flrun: Any) -> None:
    """Over a bad network, too: what was answered is not lost, what is repeated is not applied twice."""
    folder = shards(2)
    flrun.write(job(folder, "sync", epochs=2), folder)
    code, out, err = flrun("--worker_num=2")
    assert code == 0, (out, err)
    want = flrun.saved.parameters()
    kills = Faults().kill("server", 0, at_step=10).kill("server", 0, at_step=8).kill("server", 0, at="saving")
    flags = ["--max_restarts=3", "-o", "runner.durability=log", f"--faults={kills.drop(3).duplicate(3)}"]
    code, out, err = flrun("--worker_num=2", *flags)
    assert code == 0, (out, err)
    assert [event["incarnation"] for event in flrun.saved.events("restarted")] == [2, 3, 4]
    struck = [event["fault"] for event in flrun.saved.events("fault") if event["fault"].startswith("kill")]
    assert struck == [str(item) for item in kills.items]
    got = flrun.saved.parameters()
    assert want.keys() == got.keys()
    assert all(np.array_equal(want[name], got[name]) for name in want)
    assert flrun.is_clean()


@pytest.mark.slow
def test_faults_by_the_clock(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(3)
    flrun.write(job(folder, "geo", epochs=100000), folder)
    text = "stop=worker:0@1s..2s; partition=worker:1@1s..2s; kill=server:0@4s"
    code, out, err = flrun("--worker_num=3", "--coordinator_num=1", f"--faults={text}")
    assert code == 4, (out, err)
    assert {event["fault"] for event in flrun.saved.events("fault")} == set(text.split("; "))
    assert flrun.saved.events("lost") == []
    assert flrun.is_clean()
