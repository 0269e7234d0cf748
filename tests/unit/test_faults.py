"""Faults on purpose: what the flag says, whom it strikes, and that chance is a function."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ConfigError
from flps.faults import Faults, Lane, Script, Strike, Wear
from flps.faults.items import PHASES
from flps.membership import Member

ISSUE = "kill=server:0@step120; drop=5%; delay=50ms; rate=100mbit; partition=worker:3@10s..20s"
WORKER, SERVER, COORDINATOR = Member("worker", 3), Member("server", 0), Member("coordinator", 0)


def test_calls_and_text_say_the_same() -> None:
    calls = Faults().kill("server", 0, at_step=120).drop(percent=5).delay(ms=50).rate(mbit=100)
    calls = calls.partition("worker", 3, from_s=10, until_s=20)
    assert str(calls) == ISSUE
    assert Faults.parse(ISSUE) == calls


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        (Faults(), ""),
        (Faults().kill("worker", at_epoch=0), "kill=worker@epoch0"),
        (Faults().kill("worker", 1, after_s=0.5), "kill=worker:1@500ms"),
        (Faults().kill("coordinator", 0, at="saving3"), "kill=coordinator:0@saving3"),
        (Faults().stop("worker", 1, for_s=5, at_step=50), "stop=worker:1@step50+5s"),
        (Faults().stop("server", 0, for_s=5, after_s=10), "stop=server:0@10s..15s"),
        (Faults().partition("worker", to="server:0", at="barrier", for_s=2), "partition=worker-server:0@barrier+2s"),
        (Faults().delay(10, 90, on="worker:1").duplicate(0.5), "delay=10ms..90ms@worker:1; duplicate=0.5%"),
        (Faults().reorder(2, on="worker-server:1").rate(0.25), "reorder=2%@worker-server:1; rate=0.25mbit"),
    ],
)  # fmt: skip
def test_every_kind_has_a_text_that_is_read_back(faults: Faults, text: str) -> None:
    assert str(faults) == text
    assert Faults.parse(text) == faults


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" kill = server:0@step120 ;; ", "kill=server:0@step120"),
        ("rate=500kbit; rate=1gbit", "rate=0.5mbit; rate=1000mbit"),
        ("stop=worker:0@10s+5s", "stop=worker:0@10s..15s"),
        ("kill=worker:0@saving1", "kill=worker:0@saving"),
        ("delay=1500ms", "delay=1.5s"),
    ],
)
def test_other_spellings(text: str, canonical: str) -> None:
    assert str(Faults.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("explode=server:0@5s", "'explode=server:0@5s': there is no fault 'explode'"),
        ("drop", "there is no fault 'drop'"),
        ("drop=5%; kill=serer:0@step1", "'kill=serer:0@step1': 'serer:0' names no role"),
        ("kill=server:0", "'' is no moment"),
        ("kill=server:0@step", "'step' wants a number"),
        ("kill=server:0@step0", "steps are counted from 1"),
        ("kill=server:0@lunch", "'lunch' is no moment"),
        ("stop=worker:1@step50", "'step50' is no span of time"),
        ("stop=worker:1@step50+0s", "is no span of time"),
        ("partition=@10s..20s", "'' names neither a role nor a link"),
        ("partition=worker:1@20s..10s", "'20s..10s' ends before it begins"),
        ("drop=100%", "a link that loses all is a partition"),
        ("duplicate=101%", "101% is too much"),
        ("drop=5", "'5' is no amount of drop"),
        ("delay=50", "'50' is no amount of delay"),
        ("delay=90ms..10ms", "ends before it begins"),
        ("rate=0mbit", "a rate of 0 is a partition"),
        ("rate=5mbit@everywhere", "'everywhere' names neither a role nor a link"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_grammar(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Faults.parse(text)
    assert says in str(caught.value)
    assert "expected pieces divided by ';': kill=WHO@WHEN" in str(caught.value)


who = st.builds(
    lambda role, rank: role if rank is None else f"{role}:{rank}",
    st.sampled_from(["worker", "server", "coordinator"]),
    st.none() | st.integers(0, 999),
)
time_ms = st.integers(1, 10**7)
moment = st.one_of(
    time_ms.map(lambda ms: f"{ms}ms"),
    st.integers(1, 10**6).map(lambda n: f"step{n}"),
    st.integers(0, 999).map(lambda n: f"epoch{n}"),
    st.builds(lambda phase, n: f"{phase}{n}", st.sampled_from(PHASES), st.integers(1, 99)),
)
where = who | st.builds(lambda one, other: f"{one}-{other}", who, who)
percent = st.integers(1, 9999).map(lambda n: f"{n / 100}%")
piece = st.one_of(
    st.builds(lambda w, m: f"kill={w}@{m}", who, moment),
    st.builds(lambda w, m, t: f"stop={w}@{m}+{t}ms", who, moment, time_ms),
    st.builds(lambda w, m, t: f"partition={w}@{m}+{t}ms", where, moment, time_ms),
    st.builds(lambda k, p, w: f"{k}={p}{w}", st.sampled_from(["drop", "duplicate", "reorder"]), percent,
              st.just("") | where.map("@{}".format)),
    st.builds(lambda a, b: f"delay={a}ms..{a + b}ms", time_ms, time_ms),
    st.builds(lambda n, unit, w: f"rate={n}{unit}bit@{w}", st.integers(1, 999), st.sampled_from("kmg"), where),
)  # fmt: skip


@given(st.lists(piece, max_size=5))
def test_text_of_faults_is_read_back_as_the_same(pieces: list[str]) -> None:
    faults = Faults.parse("; ".join(pieces))
    assert len(faults.items) == len(pieces)
    assert Faults.parse(str(faults)) == faults
    assert str(Faults.parse(str(faults))) == str(faults)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert Faults.parse(text) == Faults.parse(str(Faults.parse(text)))


@pytest.mark.parametrize(
    ("text", "in_process", "says"),
    [
        ("kill=worker:2@5s", False, "there is no worker:2, the job has 2 of them"),
        ("drop=5%@coordinator", False, None),
        ("drop=5%@worker:1-server:1", False, "there is no server:1"),
        ("kill=worker:1@5s", True, "with --in_process all roles are threads of one process"),
        ("stop=worker:1@5s+1s", True, "a stop would strike them all"),
        ("partition=worker:1@5s..6s; drop=5%", True, None),
        ("kill=coordinator:0@step5", False, "a coordinator does not see step"),
        ("kill=coordinator:0@training", False, None),
        ("partition=worker-coordinator@pushing+1s", False, None),
        ("kill=server:0@training", False, "a server does not see training"),
    ],
)
def test_faults_are_checked_against_the_job(text: str, in_process: bool, says: str | None) -> None:
    counts = {"worker": 2, "server": 1, "coordinator": 1}
    if says is None:
        Faults.parse(text).check(counts, in_process)
    else:
        with pytest.raises(ConfigError, match=says):
            Faults.parse(text).check(counts, in_process)


def test_a_server_that_hosts_membership_sees_what_a_coordinator_sees() -> None:
    Faults.parse("kill=server:0@training").check({"worker": 1, "server": 1, "coordinator": 0}, False)
    with pytest.raises(ConfigError, match="there is no coordinator"):
        Faults.parse("kill=coordinator@5s").check({"worker": 1, "server": 1, "coordinator": 0}, False)


# --- which end of which link -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "own", "peer", "strikes"),
    [
        ("", WORKER, SERVER, True),
        ("", SERVER, None, False),
        ("@worker", WORKER, SERVER, True),
        ("@worker:1", WORKER, SERVER, False),
        ("@server:0", WORKER, SERVER, False),
        ("@server:0", SERVER, None, True),
        ("@server", SERVER, COORDINATOR, True),
        ("@worker:3-server:0", WORKER, SERVER, True),
        ("@server:0-worker", WORKER, SERVER, True),
        ("@worker:3-server:1", WORKER, SERVER, False),
        ("@worker:3-server:0", SERVER, None, False),
    ],
)
def test_a_fault_of_a_link_strikes_at_one_end(where: str, own: Member, peer: Member | None, strikes: bool) -> None:
    script = Script(Faults.parse(f"drop=5%{where}"), own, 1, 0.0)
    assert bool(script.wears(peer)) is strikes


# --- moments and lives -----------------------------------------------------------------------------------------------


def test_a_strike_comes_once_at_its_moment_or_the_first_one_after_it() -> None:
    script = Script(Faults().kill("worker", 3, at_step=5), WORKER, 1, 0.0)
    assert script.at("step", 4, 1.0) == []
    assert script.at("epoch", 9, 1.0) == []
    assert [str(item) for item in script.at("step", 7, 1.0)] == ["kill=worker:3@step5"]
    assert script.at("step", 8, 1.0) == []


def test_messages_of_a_phase_are_counted() -> None:
    script = Script(Faults().stop("worker", for_s=1, at="saving3"), WORKER, 1, 0.0)
    assert [len(script.at("saving", 0, 1.0)) for _ in range(4)] == [0, 0, 1, 0]


def test_each_kill_is_for_a_life_of_its_own_and_the_rest_for_the_first() -> None:
    faults = Faults().kill("worker", 3, at_step=5).kill("worker", at_step=2).stop("worker", 3, for_s=1, at_step=1)
    faults = faults.kill("worker", 0, at_step=1).partition("worker", 3, at="saving", for_s=1)
    lives = [Script(faults, WORKER, life, 0.0) for life in (1, 2, 3)]
    struck = [[str(item) for item in script.at("step", 9, 1.0) + script.at("saving", 0, 1.0)] for script in lives]
    assert struck == [
        ["kill=worker:3@step5", "stop=worker:3@step1+1s", "partition=worker:3@saving+1s"],
        ["kill=worker@step2"],
        [],
    ]


def test_a_partition_begins_and_ends() -> None:
    faults = (
        Faults().partition("worker", 3, from_s=10, until_s=20).partition("worker", 3, to="server", at="saving", for_s=2)
    )
    script = Script(faults, WORKER, 1, 100.0)
    assert script.has_cuts(SERVER)
    assert [script.cut(COORDINATOR, now) is None for now in (109.9, 110.0, 119.9, 120.0)] == [True, False, False, True]
    script.at("saving", 0, 130.0)
    assert str(script.cut(SERVER, 131.9)) == "partition=worker:3-server@saving+2s"
    assert script.cut(SERVER, 132.0) is None
    assert script.cut(COORDINATOR, 131.0) is None
    assert not Script(faults, Member("worker", 0), 1, 0.0).has_cuts(SERVER)


# --- fates -----------------------------------------------------------------------------------------------------------


def fates(text: str, seed: int = 7, name: str = "a", count: int = 4000) -> list[tuple[float, ...]]:
    wears = [item for item in Faults.parse(text).items if isinstance(item, Wear)]
    lane = Lane(wears, seed, name)
    return [lane.fate(1000, float(n)).at for n in range(count)]


def test_chance_depends_on_seed_link_and_number_only() -> None:
    text = "drop=20%; duplicate=10%; delay=10ms..90ms"
    assert fates(text) == fates(text)
    assert fates(text) != fates(text, seed=8)
    assert fates(text) != fates(text, name="b")


def test_shares_are_as_asked() -> None:
    lost = sum(not at for at in fates("drop=20%"))
    doubled = sum(len(at) == 2 for at in fates("duplicate=10%"))
    overtaken = sum(at != (n,) for n, at in enumerate(fates("reorder=5%")))
    assert 700 < lost < 900
    assert 320 < doubled < 480
    assert 150 < overtaken < 250


def test_delays_are_in_their_range() -> None:
    waits = [at[0] - n for n, at in enumerate(fates("delay=10ms..90ms"))]
    assert min(waits) >= 0.01 - 1e-9
    assert max(waits) <= 0.09 + 1e-9
    assert max(waits) - min(waits) > 0.07
    assert {round(at[0] - n, 9) for n, at in enumerate(fates("delay=50ms"))} == {0.05}


def test_a_rate_makes_messages_queue() -> None:
    lane = Lane([Wear("rate", 8.0)], 0, "a")  # 1 MB/s
    assert [round(lane.fate(100_000, now).at[0], 6) for now in (0.0, 0.0, 0.05, 10.0)] == [0.1, 0.2, 0.3, 10.1]


def test_what_has_struck_is_told() -> None:
    fate = Lane([Wear("drop", 99.99), Wear("duplicate", 100)], 0, "a").fate(1, 0.0)
    assert fate.at == ()
    assert [str(cause) for cause in fate.causes] == ["drop=99.99%", "duplicate=100%"]
    assert isinstance(Faults.parse("kill=worker@5s").items[0], Strike)
