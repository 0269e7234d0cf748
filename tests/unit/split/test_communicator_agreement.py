"""What the parties settle before they begin."""

from __future__ import annotations

import pytest

from flps.errors import ProtocolError
from flps.split.agreement import Offer, Verdict, decide, read_note, same_values, write_note


@pytest.mark.parametrize(
    ("steps", "common"),
    [([(0, 100, 200), (100, 0)], 100), ([(0,), (0, 5)], 0), ([(1, 2, 3), (2, 3), (3, 2, 9)], 3)],
)
def test_all_begin_with_the_newest_step_at_which_all_can(steps: list[tuple[int, ...]], common: int) -> None:
    offers = {f"party-{n}": Offer({"rows": 3, f"nets of {n}": n}, own) for n, own in enumerate(steps)}
    told = {party: offer.summary for party, offer in offers.items()}
    assert decide(offers) == Verdict(common, "", told)  # everybody learns what all have told


def test_without_a_common_step_nobody_begins() -> None:
    steps = {"leader": tuple(range(0, 80, 10)), "bank": (5, 15), "shop": ()}
    complaint = decide({party: Offer({}, own) for party, own in steps.items()}).complaint
    assert complaint.startswith(
        "there is no step at which all parties can begin: leader can begin at step 70, 60, 50, 40, 30, ...; bank can "
        "begin at step 15, 5; shop can begin at none, since it keeps no checkpoints. Give each party"
    )


def test_what_two_parties_name_must_be_equal() -> None:
    summaries = {"leader": {"rows": 10, "labels": "yes"}, "bank": {"rows": 9, "x": 1}, "shop": {"rows": 10, "x": 1}}
    assert same_values(summaries) == ["rows: leader has 10, bank has 9, shop has 10"]
    assert same_values({"leader": {"rows": 10}, "bank": {"rows": 10, "x": [1]}}) == []
    verdict = decide({name: Offer(summary, (5,)) for name, summary in summaries.items()})
    assert verdict.complaint.splitlines()[1:] == ["  rows: leader has 10, bank has 9, shop has 10"]


def test_the_leader_may_judge_in_its_own_way() -> None:
    offers = {"leader": Offer({"ins": ["a"]}, (0,)), "bank": Offer({"outs": []}, (0,))}
    assert decide(offers).complaint == ""
    assert "a comes from nobody" in decide(offers, lambda parties: ["a comes from nobody"]).complaint


def test_a_long_value_is_cut() -> None:
    (complaint,) = same_values({"leader": {"x": "a" * 999}, "bank": {"x": "b"}})
    assert len(complaint) < 300


@pytest.mark.parametrize("note", [Offer({"rows": 10, "nets": ["a", None, 1.5]}, (0, 7)), Verdict(7), Verdict(0, "no")])
def test_notes_come_back(note: Offer | Verdict) -> None:
    assert read_note(write_note(note), "bank") == note


@pytest.mark.parametrize("text", ["", "{}", '{"type": "offer"}', '{"type": "verdict", "step": "x"}', "[" * 3000])
def test_what_is_no_note_is_the_senders_fault(text: str) -> None:
    with pytest.raises(ProtocolError, match="bank sent a note that cannot be read"):
        read_note(text, "bank")
