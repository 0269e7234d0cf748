"""A private table never hands out an array that a message could hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flps.errors import PrivacyError
from flps.frames import encode
from flps.message import VERSION, Envelope, Push, Rows, Start
from flps.nn import Embedding, PrivateTable, apply_gradients
from flps.privacy import PrivateArray, owner_of, reveal
from flps.table import Adam, SparseTable, TableSpec

SPEC = TableSpec(name="user_embedding", kind="sparse", dim=3, rule=Adam(0.1), bound=20)


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def test_it_is_the_plain_table_with_private_answers() -> None:
    private, plain = PrivateTable(SPEC), SparseTable(SPEC)
    for table in (private, plain):
        table.push(keys(3, 4, 3), np.ones((3, 3), np.float32))
    assert np.array_equal(reveal(private.pull(keys(3, 4, 5))), plain.pull(keys(3, 4, 5)))
    assert len(private) == len(plain) == 3


def test_no_answer_can_be_sent() -> None:
    table = PrivateTable(SPEC)
    table.push(keys(1), np.ones((1, 3), np.float32))
    handed_out = {"pull": table.pull(keys(1, 2)), "pull of nothing": table.pull(keys()), **table.dump()}
    assert {"keys", "values", "state.0"} <= handed_out.keys()
    for what, array in handed_out.items():
        assert type(array) is PrivateArray, what
        assert owner_of(array) == "user_embedding"
        for body in (Rows((array,)), Start((Push(0, None, array),))):
            with pytest.raises(PrivacyError, match="table 'user_embedding' is private"):
                encode(Envelope(VERSION, "run", "worker:0", 1, 1, body))


def test_no_public_method_hands_out_a_plain_array_of_rows() -> None:
    """What is told without the type is which rows are trained, and how many."""
    table = PrivateTable(SPEC)
    assert table.push(keys(1), np.ones((1, 3), np.float32)) is None  # type: ignore[func-returns-value]
    assert table.load(table.dump()) is None  # type: ignore[func-returns-value]
    assert table.warm(keys(1, 2)).dtype == bool
    assert table.settle("delta") is table.shrink(True) is None  # type: ignore[func-returns-value]
    for_its_own_disk = {"content"}  # holds no array, and no message can hold it
    wanted = {"spec", "columns", "pull", "push", "warm", "dump", "load", "settle", "shrink", *for_its_own_disk}
    assert {name for name in dir(table) if not name.startswith("_")} == wanted


def test_private_gradients_may_be_pushed() -> None:
    table, plain = PrivateTable(SPEC), SparseTable(SPEC)
    table.push(keys(1), table.pull(keys(1)))
    plain.push(keys(1), plain.pull(keys(1)))
    assert np.array_equal(reveal(table.pull(keys(1))), plain.pull(keys(1)))


def test_warm_rows_are_those_trained_or_loaded() -> None:
    table = PrivateTable(SPEC)
    table.pull(keys(7, 8))
    table.push(keys(3, 7), np.ones((2, 3), np.float32))
    assert table.warm(keys(3, 7, 8, 9)).tolist() == [True, True, False, False]
    again = PrivateTable(SPEC)
    dumped = table.dump()
    again.load(dumped, reveal(dumped["keys"]) != 3)
    assert again.warm(keys(3, 7, 8, 9)).tolist() == [False, True, False, False]


def test_dump_and_load_go_on_as_before() -> None:
    table, again = PrivateTable(SPEC), PrivateTable(SPEC)
    table.push(keys(1, 2, 19), np.ones((3, 3), np.float32))
    table.pull(keys(5))
    again.load(table.dump())
    for one in (table, again):
        one.push(keys(1, 5), np.full((2, 3), 0.5, np.float32))
    everything = np.arange(20, dtype=np.uint64)
    assert np.array_equal(reveal(table.pull(everything)), reveal(again.pull(everything)))


def test_an_embedding_trains_on_it_as_on_a_plain_one() -> None:
    private, plain = (Embedding("user_embedding", 3, rows=20, rule=Adam(0.1)) for _ in range(2))
    private.table = PrivateTable(private.spec)
    for step in range(5):
        for embedding in (private, plain):
            embedding(torch.tensor([1, 2, step])).pow(2).sum().backward()
            apply_gradients(embedding)
    assert np.array_equal(reveal(private.table.pull(keys(1, 2, 4))), plain.table.pull(keys(1, 2, 4)))
