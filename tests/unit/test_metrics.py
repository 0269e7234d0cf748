"""Counts add up, bounds hold, events survive torn lines and many writers."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import ndcg_score, roc_auc_score

from flps.errors import FlpsError, ResourceError
from flps.metrics import AucHistogram, EventLog, EventReader, Ranking, ranks_of

UNIT = st.floats(0, 1, width=32)
SAMPLES = st.lists(st.tuples(UNIT, st.booleans()), min_size=2, max_size=60).filter(
    lambda samples: len({label for _, label in samples}) == 2
)


def histogram_of(samples: list[tuple[float, bool]], bins: int) -> AucHistogram:
    histogram = AucHistogram(bins)
    histogram.add([score for score, _ in samples], [label for _, label in samples])
    return histogram


# -- AUC ----------------------------------------------------------------------------------------------------------


@given(SAMPLES, st.sampled_from([1, 2, 7, 64, 4096]))
def test_auc_is_within_its_stated_error_of_the_exact_one(samples: list[tuple[float, bool]], bins: int) -> None:
    histogram = histogram_of(samples, bins)
    exact = roc_auc_score([label for _, label in samples], [score for score, _ in samples])
    assert abs(histogram.value() - exact) <= histogram.error() + 1e-12


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=2, max_size=50))
def test_auc_is_exact_where_equal_scores_alone_share_a_bin(samples: list[tuple[int, bool]]) -> None:
    labels = [label for _, label in samples]
    if len(set(labels)) < 2:
        return
    scores = [score / 16 for score, _ in samples]
    histogram = histogram_of(list(zip(scores, labels, strict=True)), 16)
    assert histogram.value() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(SAMPLES, st.integers(0, 59))
def test_auc_of_parts_merged_has_the_bits_of_the_whole(samples: list[tuple[float, bool]], cut: int) -> None:
    whole, left, right = (histogram_of(part, 32) for part in (samples, samples[:cut], samples[cut:]))
    right.merge(left)
    assert np.array_equal(right.counts, whole.counts)
    assert right.value() == whole.value()


@given(SAMPLES)
def test_auc_turned_round_is_one_minus(samples: list[tuple[float, bool]]) -> None:
    turned = histogram_of([(score, not label) for score, label in samples], 128)
    assert turned.value() == pytest.approx(1 - histogram_of(samples, 128).value(), abs=1e-12)


def test_auc_travels_as_counts() -> None:
    histogram = histogram_of([(0.2, False), (0.9, True), (1.0, True)], 8)
    copy = AucHistogram.from_counts(histogram.counts.astype(np.uint32))
    assert np.array_equal(copy.counts, histogram.counts)
    assert copy.value() == 1.0
    copy.clear()
    assert copy.counts.sum() == 0
    assert histogram.counts.sum() == 3


def test_auc_counts_are_not_for_others_to_write() -> None:
    with pytest.raises(ValueError, match="read-only"):
        AucHistogram(4).counts[0, 0] = 1


def test_auc_of_one_class_or_nothing_is_nan() -> None:
    histogram = AucHistogram(4)
    histogram.add([], [])
    assert math.isnan(histogram.value())
    assert math.isnan(histogram.error())
    histogram.add([0.1, 0.2], [1, 1])
    assert math.isnan(histogram.value())


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.01, 1.01])
def test_auc_refuses_a_score_that_is_no_probability(score: float) -> None:
    histogram = AucHistogram(4)
    with pytest.raises(FlpsError, match="1 of 2 scores"):
        histogram.add([0.5, score], [0, 1])
    assert histogram.counts.sum() == 0


@pytest.mark.parametrize(
    "counts", [np.zeros((3, 4), int), np.zeros(4, int), np.zeros((2, 4)), [[0, -1], [0, 0]], np.zeros((2, 0), int)]
)
def test_auc_refuses_counts_that_are_none(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="AUC counts want"):
        AucHistogram.from_counts(counts)


def test_auc_refuses_unequal_lengths_bins_and_no_bins() -> None:
    with pytest.raises(ValueError, match="as many labels"):
        AucHistogram().add([0.5], [0, 1])
    with pytest.raises(ValueError, match="do not add up"):
        AucHistogram(4).merge(AucHistogram(8))
    with pytest.raises(ValueError, match="at least 1 bin"):
        AucHistogram(0)


# -- ranking ------------------------------------------------------------------------------------------------------

TABLES = arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 15)), elements=st.integers(0, 5))


@given(TABLES, st.data())
def test_rank_is_the_number_of_valid_negatives_at_or_above(scores: np.ndarray, draw: st.DataObject) -> None:
    valid = draw.draw(arrays.arrays(bool, (scores.shape[0], scores.shape[1] - 1)))
    expected = [
        sum(1 for other, counts in zip(row[1:], mask, strict=True) if counts and other >= row[0])
        for row, mask in zip(scores, valid, strict=True)
    ]
    assert ranks_of(scores[:, 0], scores[:, 1:], valid).tolist() == expected
    ranking = Ranking.from_scores(scores[:, 0], scores[:, 1:], valid, k=3)
    assert ranking.hits == sum(rank < 3 for rank in expected)
    gains = [math.log(2) / math.log(rank + 2) if rank < 3 else 0.0 for rank in expected]
    assert ranking.ndcg == pytest.approx(np.mean(gains), abs=1e-12)
    assert ranking.hr == pytest.approx(np.mean([rank < 3 for rank in expected]))


@given(st.integers(0, 10_000))
def test_ndcg_equals_scikit_learns_without_ties(seed: int) -> None:
    scores = np.random.default_rng(seed).permuted(np.tile(np.arange(100.0), (5, 1)), axis=1)
    truth = np.zeros_like(scores)
    truth[:, 0] = 1
    expected = ndcg_score(truth, scores, k=10)
    assert Ranking.from_scores(scores[:, 0], scores[:, 1:]).ndcg == pytest.approx(expected, abs=1e-12)


def test_a_constant_model_hits_nobody() -> None:
    ranking = Ranking.from_scores(np.zeros(7), np.zeros((7, 99)))
    assert (ranking.hr, ranking.ndcg, ranking.users, ranking.k) == (0.0, 0.0, 7, 10)


def test_a_perfect_model_and_a_user_without_negatives_have_rank_0() -> None:
    ranking = Ranking.from_scores([1.0, 0.0], [[0.0], [9.0]], [[True], [False]])
    assert (ranking.hr, ranking.ndcg) == (1.0, 1.0)


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(0, 40))
def test_rankings_merged_are_the_ranking_of_all(ranks: list[int], cut: int) -> None:
    left, right = Ranking.from_ranks(ranks[:cut], k=5), Ranking.from_ranks(ranks[cut:], k=5)
    assert left.merge(right) == right.merge(left) == Ranking.from_ranks(ranks, k=5)


def test_ranking_survives_the_wire() -> None:
    ranking = Ranking.from_ranks([0, 3, 99])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ranking), type=Ranking) == ranking
    assert msgspec.json.decode(msgspec.json.encode(ranking), type=Ranking) == ranking


def test_no_users_have_no_quality() -> None:
    assert math.isnan(Ranking().hr)
    assert math.isnan(Ranking().ndcg)


def test_ranking_refuses_nan_but_not_where_nobody_looks() -> None:
    nan = float("nan")
    with pytest.raises(FlpsError, match="2 scores to rank are NaN"):
        Ranking.from_scores([nan, 1.0], [[0.0], [nan]])
    assert Ranking.from_scores([1.0], [[nan]], [[False]]).hits == 1


def test_ranking_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3, 4\)"):
        ranks_of(np.zeros(2), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="mask of that shape"):
        ranks_of(np.zeros(3), np.zeros((3, 4)), np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="do not add up"):
        Ranking.from_ranks([1], k=5).merge(Ranking.from_ranks([1], k=10))


# -- events -------------------------------------------------------------------------------------------------------


def test_events_come_back_as_written(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    reader = EventReader(path)
    assert reader.poll() == []
    log = EventLog(path, "worker", 3, clock=lambda: 12.5)
    log.write("progress", step=np.int64(7), loss=np.float32(0.5), auc=float("nan"), client_auc={0: 0.25}, word="ä\n")
    (event,) = reader.poll()
    assert event == {
        "time": 12.5, "role": "worker", "rank": 3, "event": "progress",
        "step": 7, "loss": 0.5, "auc": None, "client_auc": {"0": 0.25}, "word": "ä\n",
    }  # fmt: skip
    assert reader.poll() == []
    log.write("end", result="done")
    assert [event["event"] for event in reader.poll()] == ["end"]
    log.close()
    log.close()
    assert [json.loads(line)["event"] for line in Path(path).read_text().splitlines()] == ["progress", "end"]


@given(st.data())
def test_reader_fed_in_pieces_gives_every_event_once(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("events") / "metrics.jsonl"
    text = b"".join(msgspec.json.encode({"step": step, "name": "ü"}) + b"\n" for step in range(5))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader, seen = EventReader(str(path)), []
    with path.open("wb", buffering=0) as file:
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            file.write(text[start:stop])
            seen += [event["step"] for event in reader.poll()]
    assert seen == [0, 1, 2, 3, 4]
    assert reader.skipped_lines == 0


def test_reader_counts_and_passes_over_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event":"ready"}\n{"event":"pro{"event":"end"}\n[1]\n\xff\xfe\n{"event":"end"}\n')
    reader = EventReader(str(path))
    assert [event["event"] for event in reader.poll()] == ["ready", "end"]
    assert reader.skipped_lines == 3


def test_many_writers_share_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")

    def write(rank: int) -> None:
        log = EventLog(path, "worker", rank)
        for step in range(100):
            log.write("progress", step=step, padding="x" * 500)
        log.close()

    writers = [threading.Thread(target=write, args=(rank,)) for rank in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    reader = EventReader(path)
    events = reader.poll()
    assert reader.skipped_lines == 0
    for rank in range(4):
        assert [event["step"] for event in events if event["rank"] == rank] == list(range(100))


def test_events_own_fields_are_not_taken(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "metrics.jsonl"), "server", 0)
    with pytest.raises(ValueError, match="may not set rank, time"):
        log.write("lost", rank=1, time=2)
    with pytest.raises(NotImplementedError, match="may not be a object"):
        log.write("ready", thing=object())
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_file_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot write events"):
        EventLog(str(tmp_path / "missing" / "metrics.jsonl"), "server", 0)
    log = EventLog(str(tmp_path / "metrics.jsonl"), "server", 0)
    log.close()
    with pytest.raises(ResourceError, match="cannot write events"):
        log.write("ready")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_a_resource_error() -> None:
    log = EventLog("/dev/full", "server", 0)
    with pytest.raises(ResourceError, match="No space left"):
        log.write("ready")
    log.close()
