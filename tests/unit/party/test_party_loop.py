"""The loop of a party: what it tells and measures, that a run that was interrupted ends as one that was not, and what
parties say that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flps.errors import ConfigError, FlpsError
from flps.party.agreed import fits
from flps.party.loop import ReadAhead


def test_it_tells_how_far_it_is_and_measures_what_one_process_would(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path)
    assert run.play() == []
    assert [epoch for epoch, _ in run.measures] == [0, 1]
    assert run.measures[-1][1] == run.auc_of_the_whole()
    steps = run.told["leader"][-1].steps
    assert [one.step for one in run.told["leader"][:3]] == [4, 8, min(12, steps)]
    assert run.told["follower"][-1].epoch == 1
    sent = 2 * party_run.batch_size * 4
    for one in run.told["follower"]:
        came, went = one.bytes_per_step
        assert sent <= came < sent + 2000
        assert sent <= went < sent + 2000


@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(party_run: Any, tmp_path: Path, parts: int) -> None:
    whole, first, second = (
        party_run(tmp_path, folder, epochs, micro_batches=(parts, parts))
        for folder, epochs in ((None, 2), (tmp_path / "kept", 1), (tmp_path / "kept", 2))
    )
    before = {name: held.clone() for name, held in whole.state.items()}
    assert [*whole.play(), *first.play(), *second.play()] == []
    changed = [name for name, held in whole.state.items() if not torch.equal(held, before[name])]
    assert len(changed) == len(before) - 2  # all but each party's Wide_b
    assert all(torch.equal(second.state[name], held) for name, held in whole.state.items())
    assert second.measures == whole.measures  # the epoch that had ended is measured again


def test_parties_of_other_batches_end_with_the_same_words(party_run: Any, tmp_path: Path) -> None:
    failed = party_run(tmp_path, batch_sizes=(256, 128)).play()
    assert [type(error) for error in failed] == [ConfigError, ConfigError]
    assert str(failed[0]) == str(failed[1])
    assert "rows of a batch: leader has 256, follower has 128" in str(failed[0])


def test_parties_must_cut_their_batches_alike_and_have_room_for_the_parts(party_run: Any, tmp_path: Path) -> None:
    failed = party_run(tmp_path, micro_batches=(2, 4)).play()
    assert "micro-batches: leader has 2, follower has 4" in str(failed[0])
    failed = party_run(tmp_path, micro_batches=(12, 12)).play()
    assert "micro_batches 12: 13 messages of a step may be under way" in str(failed[0])


def test_a_step_that_was_under_way_leaves_nothing_behind(party_run: Any, tmp_path: Path) -> None:
    run = party_run(tmp_path)
    _, follower = run.parties[1]
    (model,) = follower._models.values()
    batch = next(follower._train.batches())
    model.window = 4
    out = model.forward_one_step(batch)
    sens = {"loss": {name: torch.ones_like(held) for name, held in out.items() if "l2" not in name}}
    model.backward_one_step(sens=sens, update=False)
    model.forward_one_step(batch)
    follower._kept.go_back(0)
    with pytest.raises(FlpsError, match="without gradients"):
        model.update_one_step()
    assert not model._waiting
    for links, _ in run.parties:
        links.close(linger_s=0)


def test_a_party_that_describes_no_nets_is_refused() -> None:
    assert fits({"leader": {"told by leader": {"rows": [], "nets": ["top"]}}})[0].startswith("a party tells what is no")
    assert fits({"leader": {}, "follower": {}})[0].startswith("a party tells what is no")


def test_reading_ahead_changes_no_order() -> None:
    batches = ReadAhead({"x": torch.tensor([n])} for n in range(4))
    seen = []
    for batch in batches:
        seen.append(int(batch["x"]))
        for _ in range(int(batch["x"])):
            batches.read()
    assert seen == [0, 1, 2, 3]
