"""construct_local_dataset: what the original's loops take, and a position to go on from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from flps.data.criteo_like import Shape
from flps.data.criteo_parties import PartyRows
from flps.errors import ConfigError
from flps.models.wide_deep.dataset import PartyDataset, Position, construct_local_dataset
from flps.models.wide_deep.options import SMALL

CONFIG = msgspec.structs.replace(SMALL, batch_size=100)
SHAPE = Shape(rows=700)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sets(cache: Path) -> tuple[PartyDataset, PartyDataset]:
    return construct_local_dataset(CONFIG, cache_dir=cache, shape=SHAPE)


def test_sizes_names_shapes(sets: tuple[PartyDataset, PartyDataset]) -> None:
    ds_train, ds_eval = sets
    assert (ds_train.get_dataset_size(), ds_eval.get_dataset_size(), ds_train.get_batch_size()) == (6, 1, 100)
    item = next(iter(ds_train.create_dict_iterator()))
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in item.items()} == {
        "id_hldr": ((100, 20), torch.int32),
        "wt_hldr": ((100, 20), torch.float32),
        "label": ((100, 1), torch.float32),
        "id_hldr0": ((100, 19), torch.int32),
        "wt_hldr0": ((100, 19), torch.float32),
        "row_ids": ((100,), torch.int64),
    }


def test_each_for_is_an_epoch_in_its_own_order(sets: tuple[PartyDataset, PartyDataset]) -> None:
    train_iter = sets[0].create_dict_iterator()
    epochs = [[item["id_hldr0"] for item in train_iter] for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [6, 6, 6]
    assert not torch.equal(epochs[0][0], epochs[1][0])
    whole = [torch.cat(epoch).flatten().sort().values for epoch in epochs]
    assert torch.equal(whole[0], whole[2])
    eval_iter = sets[1].create_dict_iterator()
    first, second = ([item["label"] for item in eval_iter] for _ in range(2))
    assert torch.equal(first[0], second[0])


def test_an_iterator_put_back_goes_on_as_if_never_interrupted(sets: tuple[PartyDataset, PartyDataset]) -> None:
    whole = sets[0].create_dict_iterator()
    expected = [item["id_hldr"] for _ in range(2) for item in whole]
    stopped = sets[0].create_dict_iterator()
    for _ in zip(range(4), stopped, strict=False):
        pass
    assert stopped.position == Position(0, 4)
    assert torch.equal(next(iter(stopped))["id_hldr"], expected[4])
    stopped.position = Position(0, 4)
    resumed = sets[0].create_dict_iterator()
    resumed.position = stopped.position
    rest = [item["id_hldr"] for _ in range(2) for item in resumed]
    assert all(torch.equal(one, other) for one, other in zip(rest, expected[4:], strict=True))
    assert resumed.position == Position(2, 0)


def test_a_party_alone_and_parties_that_are_not_aligned(cache: Path, sets: tuple[PartyDataset, PartyDataset]) -> None:
    alone, _ = construct_local_dataset(CONFIG, (1,), cache_dir=cache, shape=SHAPE)
    mine, both = next(alone.batches()), next(sets[0].batches())
    assert list(mine) == ["id_hldr0", "wt_hldr0", "row_ids"]
    assert torch.equal(mine["id_hldr0"], both["id_hldr0"])
    leader, follower = sets[0].parties
    with pytest.raises(ConfigError, match=r"not aligned \(600, 300 rows\)"):
        PartyDataset([leader, follower.aligned(follower.row_ids[:300])], 10)
    with pytest.raises(ConfigError, match="600 rows make no batch of 601"):
        PartyDataset([leader], 601)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"vocab_size": 50}, "ids, but vocab_size is 50"),
        ({"leader_field_size": 19}, "20 columns, but leader_field_size"),
    ],
)
def test_nets_that_cannot_take_the_rows(cache: Path, wrong: dict[str, int], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        construct_local_dataset(msgspec.structs.replace(CONFIG, **wrong), cache_dir=cache, shape=SHAPE)


def test_rows_of_a_prepared_folder(cache: Path, sets: tuple[PartyDataset, PartyDataset]) -> None:
    (folder,) = cache.iterdir()
    given, _ = construct_local_dataset(msgspec.structs.replace(CONFIG, data_path=str(folder)))
    assert torch.equal(next(given.batches())["id_hldr"], next(sets[0].batches())["id_hldr"])
    assert PartyRows.open(folder / "leader").digest() == given.parties[0].digest()
