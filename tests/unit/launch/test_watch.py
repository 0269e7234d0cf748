"""The state machine of a run: tables of what happens, and how the run ends."""

from __future__ import annotations

import signal
from itertools import permutations

import pytest

from flps.launch.plan import Role
from flps.launch.watch import Restart, Verdict, Watch, how_it_ended

SERVER, COORDINATOR = Role("server", 0, "h"), Role("coordinator", 0, "h")
W0, W1, W2 = (Role("worker", rank, "h") for rank in range(3))
ALL = (SERVER, COORDINATOR, W0, W1, W2)


def watch(local: tuple[Role, ...] = ALL, workers: int = 3, min_workers: int = 1) -> Watch:
    return Watch(local=local, workers=workers, min_workers=min_workers, start_deadline=60, grace_s=10)


def come_up(state: Watch) -> Watch:
    for role in state.local:
        state.ready(role)
    return state


def end(state: Watch, *codes: tuple[Role, int], now: float = 1) -> Verdict:
    for role, code in codes:
        state.ended(role, code, now)
    return state.result()


@pytest.mark.parametrize("order", list(permutations(ALL, 5))[::17])
def test_all_end_well_in_any_order(order: tuple[Role, ...]) -> None:
    state = come_up(watch())
    assert end(state, *((role, 0) for role in order)) == Verdict(0, "done")
    assert not state.alive
    assert not state.stopping


@pytest.mark.parametrize(
    ("role", "code", "exit_code", "says"),
    [
        (W1, 1, None, ""),
        (W1, -9, None, ""),
        (W1, 4, None, ""),
        (W1, 2, 2, "worker.1 ended with exit code 2"),
        (W1, 6, 6, "worker.1 ended with exit code 6"),
        (W1, 5, 5, "worker.1 ended with exit code 5"),
        (SERVER, 1, 4, "server.0 ended with exit code 1"),
        (SERVER, -9, 4, "server.0 was killed by SIGKILL"),
        (SERVER, 2, 2, "server.0 ended with exit code 2"),
        (COORDINATOR, 6, 6, "coordinator.0 ended with exit code 6"),
        (COORDINATOR, 4, 4, "coordinator.0 ended with exit code 4"),
        (COORDINATOR, 3, 4, "coordinator.0 ended with exit code 3"),
    ],
)
def test_what_one_bad_end_means(role: Role, code: int, exit_code: int | None, says: str) -> None:
    state = come_up(watch())
    state.ended(role, code, 1)
    if exit_code is None:
        assert not state.stopping
        result = end(state, *((other, 0) for other in ALL if other != role))
        assert (result.exit_code, result.culprit) == (3, role)
        assert "worker.1 was lost" in result.reason
    else:
        assert state.stopping
        assert state.verdict is not None
        assert (state.verdict.exit_code, state.verdict.culprit) == (exit_code, role)
        assert says in state.verdict.reason


def test_too_few_workers_stop_the_job() -> None:
    state = come_up(watch(min_workers=2))
    state.ended(W0, 1, 1)
    assert not state.stopping
    state.ended(W2, -9, 2)
    assert state.stopping
    assert state.result() == Verdict(
        4,
        "worker.2 was killed by SIGKILL; 1 of 3 workers are left, network.min_workers is 2, so the job was stopped",
        W2,
    )


def test_the_first_verdict_stands() -> None:
    state = come_up(watch())
    state.ended(SERVER, 1, 1)
    first = state.verdict
    result = end(state, (W0, 2), (W1, -15), (COORDINATOR, 6), (W2, 143))
    assert result is first
    state.interrupted(signal.SIGINT)
    assert state.result() is first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts(number: signal.Signals) -> None:
    state = watch()
    state.interrupted(number)
    assert state.stopping
    assert end(state, *((role, 143) for role in ALL)) == Verdict(130, f"interrupted by {number.name}")


def test_who_does_not_come_up_is_named() -> None:
    state = watch()
    for role in (SERVER, COORDINATOR, W1):
        state.ready(role)
    state.tick(59.9)
    assert state.verdict is None
    assert state.next_deadline() == 60
    state.tick(60)
    assert state.verdict == Verdict(5, "worker.0, worker.2 did not come up in time", W0)


def test_who_is_up_or_has_ended_is_not_late() -> None:
    state = watch()
    for role in ALL[:-1]:
        state.ready(role)
    state.ended(W2, 0, 1)
    state.tick(1000)
    assert state.verdict is None
    assert state.next_deadline() is None


def test_servers_have_a_deadline_once_all_workers_ended() -> None:
    state = come_up(watch())
    end(state, (W0, 0), (W1, 0))
    assert state.next_deadline() is None
    state.ended(W2, 0, 100)
    assert state.next_deadline() == 110
    assert state.overdue(109) == []
    assert set(state.overdue(110)) == {SERVER, COORDINATOR}
    assert state.overdue(111) == []
    assert end(state, (SERVER, 143), (COORDINATOR, -9)).exit_code == 0
    assert len(state.notes) == 2


def test_servers_wait_for_workers_of_other_hosts() -> None:
    state = come_up(watch(local=(SERVER, W0)))
    state.ended(W0, 0, 1)
    assert state.next_deadline() is None
    assert end(state, (SERVER, 0)).exit_code == 0


def test_a_loss_on_another_host_is_a_loss() -> None:
    state = come_up(watch(local=(SERVER, COORDINATOR)))
    state.lost("worker.7", "its lease ended", 5)
    state.lost("worker.7", "its lease ended", 6)
    result = end(state, (SERVER, 0), (COORDINATOR, 0))
    assert (result.exit_code, result.culprit) == (3, None)
    assert result.reason.count("worker.7") == 1


@pytest.mark.parametrize("name", ["worker.7", "server.3"])
def test_who_never_came_up_elsewhere_stops_the_job(name: str) -> None:
    state = come_up(watch(local=(SERVER, COORDINATOR), workers=10))
    state.lost(name, "did not come up within 60 s", 61, came_up=False)
    assert state.stopping
    assert state.result() == Verdict(5, f"{name} did not come up within 60 s, so the job was stopped")


def test_a_worker_that_failed_before_it_came_up_is_a_loss() -> None:
    state = come_up(watch())
    state.ended(W1, 1, 1)
    state.lost("worker.1", "did not come up within 60 s", 61, came_up=False)
    assert end(state, *((role, 0) for role in ALL if role != W1)).exit_code == 3


def test_a_worker_that_was_given_up_must_be_gone_by_its_deadline() -> None:
    state = come_up(watch())
    state.lost("worker.1", "its lease ended", 20)
    assert state.next_deadline() == 30
    assert state.overdue(30) == [W1]
    result = end(state, (W1, -9), (W0, 0), (W2, 0), (SERVER, 0), (COORDINATOR, 0))
    assert (result.exit_code, result.culprit) == (3, W1)


def test_a_server_that_was_given_up_stops_the_job() -> None:
    state = come_up(watch(local=(W0, W1, W2)))
    state.lost("server.0", "its lease ended", 1)
    assert state.stopping
    assert state.result() == Verdict(4, "server.0 was given up: its lease ended, so the job was stopped")


@pytest.mark.parametrize("role", [SERVER, W1])
def test_who_ended_well_here_is_not_lost(role: Role) -> None:
    state = come_up(watch())
    state.ended(role, 0, 1)
    state.lost(role.name, "no sign of life", 4)
    assert end(state, *((other, 0) for other in ALL if other != role)).exit_code == 0


def test_a_loss_is_counted_once() -> None:
    state = come_up(watch(min_workers=2))
    state.lost("worker.1", "its lease ended", 1)
    state.ended(W1, 4, 2)
    assert state.verdict is None
    assert len(state.losses) == 1


def test_a_host_whose_workers_all_failed_has_failed() -> None:
    state = come_up(watch(local=(W0, W1), workers=10))
    result = end(state, (W0, 4), (W1, 4))
    assert result.exit_code == 4
    assert result.reason.startswith("no worker ended well; worker.0 was lost")


def test_an_error_of_the_launcher_is_a_verdict() -> None:
    state = watch()
    state.failed(OSError("no more processes"), 1)
    assert state.result() == Verdict(1, "no more processes")
    assert state.stopping


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "ended with exit code 3"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")],
)
def test_codes_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def restartable(max_restarts: int = 2, *, keeps_state: bool = True, min_workers: int = 1) -> Watch:
    return come_up(
        Watch(
            local=ALL, workers=3, min_workers=min_workers, start_deadline=60, grace_s=10, max_restarts=max_restarts,
            start_s=30, keeps_state=keeps_state,
        )
    )  # fmt: skip


@pytest.mark.parametrize("role", [SERVER, COORDINATOR, W1])
@pytest.mark.parametrize("code", [-9, 1, 4, 255])
def test_who_dies_is_started_again_while_it_may_be(role: Role, code: int) -> None:
    state = restartable()
    for life in (2, 3):
        state.ended(role, code, 100)
        assert state.restarts() == [Restart(role, life, how_it_ended(code), 3 - life)]
        assert state.restarts() == []
        assert role in state.alive
        state.ready(role)
    state.ended(role, code, 100)
    assert state.restarts() == []
    assert role not in state.alive
    if role == W1:
        assert state.verdict is None
        assert state.losses["worker.1"].endswith("after 2 restarts (--max_restarts)")
    else:
        assert state.verdict is not None
        assert state.verdict.exit_code == 4
        assert "after 2 restarts (--max_restarts), so the job was stopped" in state.verdict.reason


def test_who_was_started_again_may_end_well() -> None:
    state = restartable()
    state.ended(SERVER, -9, 1)
    state.ended(W0, -9, 1)
    assert [restart.role for restart in state.restarts()] == [SERVER, W0]
    assert end(state, *((role, 0) for role in ALL)) == Verdict(0, "done")


@pytest.mark.parametrize("code", [2, 5, 6])
@pytest.mark.parametrize("role", [SERVER, W1])
def test_what_the_user_must_mend_is_not_tried_again(role: Role, code: int) -> None:
    state = restartable()
    state.ended(role, code, 1)
    assert state.restarts() == []
    assert state.verdict is not None
    assert state.verdict.exit_code == code
    assert "restarts" not in state.verdict.reason


@pytest.mark.parametrize("role", [SERVER, COORDINATOR])
def test_without_a_journal_there_is_nothing_to_start_again(role: Role) -> None:
    state = restartable(keeps_state=False)
    state.ended(W0, -9, 1)
    assert [restart.role for restart in state.restarts()] == [W0]
    state.ended(role, -9, 1)
    assert state.restarts() == []
    assert state.verdict is not None
    assert "with runner.durability off its state died with it" in state.verdict.reason


def test_who_was_given_up_stays_lost() -> None:
    state = restartable()
    state.lost("worker.1", "its lease ended", 20)
    state.ended(W1, 4, 21)
    assert state.restarts() == []
    assert list(state.losses) == ["worker.1"]


def test_nobody_is_started_again_while_all_are_stopped() -> None:
    state = restartable()
    state.ended(W0, -9, 1)
    state.interrupted(signal.SIGINT)
    assert state.restarts() == []
    state.ended(W1, -15, 2)
    assert state.restarts() == []


def test_who_is_started_again_has_its_own_time_to_come_up() -> None:
    state = restartable()
    state.ended(W0, -9, 100)
    state.restarts()
    assert state.next_deadline() == 130
    state.tick(129)
    assert state.verdict is None
    state.tick(130)
    assert state.verdict == Verdict(5, "worker.0 did not come up in time", W0)


def test_a_server_that_dies_after_all_workers_is_started_again() -> None:
    """It may hold what it has not told yet; started again it finds that all have left, and ends."""
    state = restartable()
    end(state, (W0, 0), (W1, 0), (W2, 0), (SERVER, -9))
    assert [restart.role for restart in state.restarts()] == [SERVER]
    assert end(state, (SERVER, 0), (COORDINATOR, 0)).exit_code == 0


LEADER, F0, F1 = Role("leader", 0, "h"), Role("follower", 0, "h"), Role("follower", 1, "h")


def parties(max_restarts: int = 0) -> Watch:
    """A split job, which has no worker."""
    return come_up(
        Watch(
            local=(LEADER, F0, F1), workers=0, min_workers=1, start_deadline=60, grace_s=10, keeps_state=True,
            max_restarts=max_restarts,
        )
    )  # fmt: skip


def test_parties_end_each_in_its_own_time() -> None:
    state = parties()
    state.ended(F0, 0, now=1)
    assert (state.next_deadline(), state.overdue(now=1e9)) == (None, [])  # the others may have an evaluation to do
    assert end(state, (LEADER, 0), (F1, 0)) == Verdict(0, "done")


@pytest.mark.parametrize(
    ("role", "code", "exit_code"), [(F1, -9, 4), (LEADER, -9, 4), (F0, 2, 2), (LEADER, 6, 6), (LEADER, 1, 4)]
)
def test_no_party_may_be_lost(role: Role, code: int, exit_code: int) -> None:
    state = parties()
    state.ended(role, code, now=1)
    assert state.stopping
    verdict = end(state, *((other, 143) for other in (LEADER, F0, F1) if other != role))
    assert (verdict.exit_code, verdict.culprit) == (exit_code, role)
    assert verdict.reason.startswith(f"{role.name} {how_it_ended(code)}")


def test_every_party_may_be_started_again() -> None:
    state = parties(max_restarts=1)
    for role in (LEADER, F1):
        state.ended(role, -9, now=1)
        assert state.restarts() == [Restart(role, 2, "was killed by SIGKILL", 0)]
    state.ended(F1, -9, now=2)
    assert (
        state.result().reason
        == "follower.1 was killed by SIGKILL after 1 restarts (--max_restarts), so the job was stopped"
    )
