"""The rows of a leader and several followers, over the links of split training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flps.errors import ProtocolError
from flps.psi.curve import to_points
from flps.psi.parties import Lane, Order, _checked, follow, in_all, lead, places_of
from flps.psi.protocol import Alignment
from flps.split.communicator import in_process

RNG = np.random.default_rng(5)


def aligned(tables: list[list[str]], order: Order) -> list[Alignment]:
    """What the leader and the followers of these ids end with."""
    names = ["leader", *"abc"[: len(tables) - 1]]
    links = in_process(*names, threads=True, timeout_s=20)
    points = [to_points(ids) for ids in tables]
    with ThreadPoolExecutor(len(tables)) as pool:
        try:
            others = [pool.submit(follow, points[n], links[n], "leader", 1) for n in range(1, len(tables))]
            return [lead(points[0], links[0], names[1:], order, 1), *(other.result(30) for other in others)]
        finally:
            list(pool.map(lambda link: link.close(), links))


def ids_of(tables: list[list[str]], found: list[Alignment]) -> list[list[str]]:
    return [[ids[row] for row in one.rows] for ids, one in zip(tables, found, strict=True)]


@pytest.mark.parametrize("followers", [1, 3])
def test_all_end_with_the_rows_of_all_in_the_order_of_the_leaders_table(followers: int) -> None:
    tables = [[str(n) for n in RNG.permutation(60)[:45]] for _ in range(1 + followers)]
    found = aligned(tables, "leader")
    wanted = [name for name in tables[0] if all(name in ids for ids in tables[1:])]
    assert wanted
    assert ids_of(tables, found) == [wanted] * len(tables)
    assert len({one.digest for one in found}) == 1
    assert {one.matched for one in found} == {len(wanted)}


def test_by_chance_it_is_another_order_each_time_and_the_same_at_all() -> None:
    tables = [[str(n) for n in range(40)], [str(n) for n in range(5, 60)]]
    first, second = aligned(tables, "chance"), aligned(tables, "chance")
    for found in (first, second):
        leader, follower = ids_of(tables, found)
        assert leader == follower
        assert sorted(map(int, leader)) == list(range(5, 40))
    assert ids_of(tables, first) != ids_of(tables, second)
    assert first[0].digest != second[0].digest


def test_nothing_in_common_is_said_by_no_rows() -> None:
    found = aligned([["a", "b"], ["c"]], "chance")
    assert [len(one.rows) for one in found] == [0, 0]


def test_rows_of_all_and_where_they_stand() -> None:
    pairs = [Alignment(np.array(rows), "00", None) for rows in ([5, 1, 7, 2], [2, 9, 7, 5], [7, 5, 3])]
    rows = in_all(pairs, "leader")
    assert rows.tolist() == [5, 7]
    assert sorted(in_all(pairs, "chance").tolist()) == [5, 7]
    for pair in pairs:
        assert pair.rows[places_of(pair, rows)].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("places", "digest"),
    [
        (torch.tensor([0, 3]), torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([-1]), torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([1, 1]), torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([1.0]), torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([[1]]), torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([1]), torch.zeros(31, dtype=torch.uint8)),
        (None, torch.zeros(32, dtype=torch.uint8)),
        (torch.tensor([1]), None),
    ],
)
def test_a_leader_chooses_of_what_both_have(places: torch.Tensor | None, digest: torch.Tensor | None) -> None:
    with pytest.raises(ProtocolError, match="leader"):
        _checked(places, digest, 3, "leader")
    chosen, made = _checked(torch.tensor([2, 0]), torch.arange(32, dtype=torch.uint8), 3, "leader")
    assert (chosen.tolist(), made) == ([2, 0], bytes(range(32)))


def test_what_is_no_message_of_an_alignment_is_refused() -> None:
    leader, follower = in_process()
    follower.send_tensors("leader", {"activation": torch.zeros(3)})
    with pytest.raises(ProtocolError, match="follower does not align ids"):
        Lane(leader, "follower").receive(0.0)
    for links in (leader, follower):
        links.close()
