"""Ids and weights equal those of a plain reading of the original's rules, row by row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.data.criteo_ids import Counts, Statistics, hashes_of
from flps.data.criteo_text import Categories, Layout, read_lines
from flps.errors import DataError

LAYOUT = Layout(2, 3)
Row = list[str]
KNOWN = [1760245841805064774, 15920079977298304993]

number = st.one_of(st.just(""), st.integers(-3, 50).map(str), st.floats(0, 9, width=16).map(str))
category = st.sampled_from(["", "a", "007", "7", "dd", "12345678"])
rows = st.lists(st.tuples(number, number, category, category, category).map(list), min_size=1, max_size=60)


def plainly(lines: list[Row], training: list[bool], threshold: int) -> tuple[list[list[int]], list[list[float]], int]:
    """The rules of the module's docstring, as slowly as they are said."""
    learned = [row for row, mine in zip(lines, training, strict=True) if mine]
    maxima = [max([float(row[c]) for row in learned if row[c]] + [0.0]) for c in range(2)]
    ids: dict[tuple[int, str], int] = {}
    for column in range(2, 5):
        for text, count in Counter(row[column] for row in learned).items():  # in order of the first row
            if count > threshold:
                ids[column, text] = 5 + len(ids)
    made, weights = [], []
    for row in lines:
        made.append([0, 1, *(ids.get((column, row[column]), column) for column in range(2, 5))])
        scaled = [float(row[c] or 0) / (maxima[c] if maxima[c] > 0 else 1.0) for c in range(2)]
        weights.append([*scaled, 1.0, 1.0, 1.0])
    return made, weights, 5 + len(ids)


@settings(max_examples=60)
@given(lines=rows, threshold=st.integers(0, 4), seed=st.integers(0, 99), block_bytes=st.integers(40, 300))
def test_equal_to_the_plain_rules(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Row], threshold: int, seed: int, block_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("ids") / "train.txt"
    path.write_text("".join("1\t" + "\t".join(row) + "\n" for row in lines))
    training = np.random.default_rng(seed).random(len(lines)) < 0.7
    statistics = Statistics(LAYOUT)
    for block in read_lines(path, LAYOUT, block_bytes=block_bytes):
        statistics.learn(block, training[block.first : block.first + len(block.labels)])
    vocabulary = statistics.vocabulary(threshold)
    made = [vocabulary.convert(block) for block in read_lines(path, LAYOUT, block_bytes=block_bytes)]
    ids, weights, size = plainly(lines, training.tolist(), threshold)
    np.testing.assert_array_equal(np.concatenate([part.ids for part in made]), ids)
    np.testing.assert_array_equal(np.concatenate([part.values for part in made]), np.array(weights, np.float32))
    assert vocabulary.size == size
    assert statistics.rows == training.sum()


def test_counts_are_merged_seldom_and_rightly() -> None:
    counts, plain = Counts(), Counter[str]()
    rng = np.random.default_rng(3)
    for row in range(0, 4000, 40):
        texts = np.array([str(n) for n in rng.integers(0, 500, 30)] + ["x"], object)
        codes = rng.integers(0, 31, 40)
        plain.update(texts[codes])
        counts.add(Categories(codes, texts), row)
    counts.merge()
    assert dict(zip(counts.hashes.tolist(), counts.counts.tolist(), strict=True)) == {
        int(hashes_of(np.array([text], object))[0]): count for text, count in plain.items()
    }
    assert len(counts.frequent(int(np.median(counts.counts)))) < len(plain)


def test_a_hash_is_the_same_on_every_machine() -> None:
    assert hashes_of(np.array(["", "05db9164"], object)).tolist() == KNOWN


def test_what_is_its_own_id(tmp_path: Path) -> None:
    layout = Layout(1, 1)
    path = tmp_path / "train.txt"
    path.write_text("1\t5\t40\n0\t5\t40\n1\t5\t9\n")
    (lines,) = read_lines(path, layout)
    statistics = Statistics(layout)
    statistics.learn(lines, np.ones(3, bool))
    vocabulary = statistics.vocabulary(1, skip_id_convert=True)
    assert vocabulary.convert(lines).ids.tolist() == [[0, 40], [0, 40], [0, 1]]
    path.write_text("1\t5\tx\n0\t5\tx\n")
    (lines,) = read_lines(path, layout)
    statistics.learn(lines, np.ones(2, bool))
    with pytest.raises(DataError, match="column C1 has the category 'x'"):
        statistics.vocabulary(1, skip_id_convert=True).convert(lines)
