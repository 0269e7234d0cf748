"""Saved models: complete or not there; what is not as it was written is refused; one standalone export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from flps.checkpoint import (
    EXPORT,
    FORMAT,
    MANIFEST,
    Manifest,
    epochs,
    export,
    read_files,
    read_manifest,
    retract_manifest,
    write_manifest,
)
from flps.checkpoint.record import sealed
from flps.errors import DataError, ResourceError
from flps.table import Adam, DenseTable, Initializer, SparseTable, Sum, TableSpec
from flps.table.files import read_tables, read_tensors, write_tables

ITEMS = TableSpec(name="items", kind="sparse", dim=2, rule=Adam(), bound=12, seed=4)
WORDS = TableSpec(name="words", kind="sparse", dim=3, rule=Sum(), seed=5, init=Initializer("uniform", 1.0))
DENSE = TableSpec(name="dense", kind="dense", dim=7, rule=Adam())
USERS = TableSpec(name="users", kind="sparse", dim=2, rule=Adam(), bound=9)
SHAPES = {"layer.weight": [2, 3], "scale": []}


def keys(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def saved(folder: Path, servers: int = 2) -> Manifest:
    """A model on some servers and one client: some rows trained, the manifest written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    edges = [7 * rank // servers for rank in range(servers + 1)]
    for rank in range(servers):
        items, words = SparseTable(ITEMS), SparseTable(WORDS)
        block = np.arange(edges[rank], edges[rank + 1], dtype=np.float32)
        dense = DenseTable(msgspec.structs.replace(DENSE, dim=block.size))
        dense.start_with(block)
        for table, numbers in ((items, (1, 2, 10)), (words, (5, 2**64 - 1, 8))):
            mine = keys(*(number for number in numbers if number % servers == rank))
            table.push(mine, np.repeat(mine[:, None] % 7, table.spec.dim, 1).astype(np.float32))
        name = f"shared-{rank}-of-{servers}.safetensors"
        files[name] = write_tables(folder / name, {"items": items.dump(), "words": words.dump(), "dense": dense.dump()})
    users = SparseTable(USERS)
    users.push(keys(3), np.ones((1, 2), np.float32))
    name = "private-0-of-1.safetensors"
    files[name] = write_tables(folder / name, {"users": users.dump()})
    manifest = Manifest(
        format=FORMAT, epoch=3, model="ncf", hyper_parameters={"mf_dim": 8}, tables=(ITEMS, WORDS, DENSE, USERS),
        dense={"dense": SHAPES}, files=files,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return manifest


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = saved(tmp_path / "3")
    assert read_manifest(tmp_path / "3") == manifest
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_without_a_manifest_is_no_saved_model(tmp_path: Path) -> None:
    saved(tmp_path / "3")
    retract_manifest(tmp_path / "3")
    retract_manifest(tmp_path / "3")
    with pytest.raises(DataError, match=r"is not a saved model: it has no manifest.json"):
        read_manifest(tmp_path / "3")
    with pytest.raises(DataError, match="is not a saved model"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"format": "1"}, r"cannot read .*Expected `int`"),
        ({"tables": [{"name": "x"}]}, "cannot read"),
        ({"files": None}, "cannot read"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    saved(tmp_path)
    path = tmp_path / MANIFEST
    path.write_bytes(sealed({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=reason):
        read_manifest(tmp_path)


@pytest.mark.parametrize("end", [0, 1, 50, -2])
def test_a_cut_manifest_is_refused(tmp_path: Path, end: int) -> None:
    saved(tmp_path)
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match="cannot read"):
        read_manifest(tmp_path)


def test_epochs_are_those_of_complete_models(tmp_path: Path) -> None:
    for epoch in ("10", "2", "latest"):
        saved(tmp_path / epoch, 1)
    (tmp_path / "7").mkdir()
    assert epochs(tmp_path) == [2, 10]
    assert epochs(tmp_path / "nowhere") == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    manifest = saved(tmp_path / "3")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write"):
        write_manifest(tmp_path / "file" / "3", manifest)
    write_manifest(tmp_path / "new" / "3", manifest)  # its files may all lie on other hosts
    assert epochs(tmp_path / "new") == [3]
    with pytest.raises(ResourceError, match=r"cannot write .*is there room"):
        write_tables(tmp_path / "file" / "x.safetensors", {})


# --- files -----------------------------------------------------------------------------------------------------------


def test_tables_come_back_bit_for_bit(tmp_path: Path) -> None:
    table = SparseTable(ITEMS)
    table.push(keys(3, 1), np.ones((2, 2), np.float32))
    write_tables(tmp_path / "t", {"a/b": table.dump(), "empty": SparseTable(WORDS).dump()})
    back = read_tables(tmp_path / "t")
    assert set(back) == {"a/b", "empty"}
    for part, array in table.dump().items():
        assert np.array_equal(back["a/b"][part], array)
        assert back["a/b"][part].dtype == array.dtype
    assert back["empty"]["values"].shape == (0, 3)


def test_files_of_a_kind_are_read_by_owner(tmp_path: Path) -> None:
    manifest = saved(tmp_path, 3)
    shared = read_files(tmp_path, manifest, "shared")
    assert {table: len(parts) for table, parts in shared.items()} == {"items": 3, "words": 3, "dense": 3}
    assert np.concatenate([part["values"] for part in shared["dense"]]).tolist() == list(range(7))
    assert list(read_files(tmp_path, manifest, "private")) == ["users"]


def test_owners_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    manifest = saved(tmp_path, 11)
    dense = read_files(tmp_path, manifest, "shared")["dense"]
    assert np.concatenate([part["values"] for part in dense]).tolist() == list(range(7))


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_every_flipped_bit_is_noticed(tmp_path: Path, kind: str) -> None:
    manifest = saved(tmp_path)
    path = tmp_path / next(name for name in manifest.files if name.startswith(kind))
    content = path.read_bytes()
    for place in (0, 9, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match=f"{path.name} is not what was saved: its sha256 differs"):
            read_files(tmp_path, manifest, kind)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="is not what was saved"):
        read_files(tmp_path, manifest, kind)
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read .*{path.name}: No such file"):
        read_files(tmp_path, manifest, kind)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(DataError, match="x is not a safetensors file"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize("name", ["shared-x-of-1.safetensors", "shared-.safetensors", "private-0/../../etc"])
def test_a_manifest_that_names_odd_files_is_refused(tmp_path: Path, name: str) -> None:
    manifest = saved(tmp_path)
    odd = msgspec.structs.replace(manifest, files={**manifest.files, name: "0"})
    write_manifest(tmp_path, odd)
    with pytest.raises(DataError, match="names a file"):
        read_manifest(tmp_path)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_the_export_is_the_shared_part_as_one_state_dict(tmp_path: Path, servers: int) -> None:
    manifest = saved(tmp_path, servers)
    files = export(tmp_path, manifest)
    assert list(files) == [EXPORT]
    state = read_tensors(tmp_path / EXPORT, files[EXPORT])
    assert set(state) == {"items.weight", "words.keys", "words.weight", "layer.weight", "scale"}
    assert state["layer.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["scale"].shape == ()
    assert state["scale"] == 6
    items, words = SparseTable(ITEMS), SparseTable(WORDS)
    items.push(keys(1, 2, 10), np.array([[1, 1], [2, 2], [3, 3]], np.float32))
    assert np.array_equal(state["items.weight"], items.pull(np.arange(12, dtype=np.uint64)))  # untouched rows, too
    assert state["words.keys"].tolist() == [5, 8, 2**64 - 1]
    pushed = (state["words.keys"] % np.uint64(7)).astype(np.float32)
    assert np.array_equal(state["words.weight"], words.pull(state["words.keys"]) + pushed[:, None])


def test_the_export_does_not_depend_on_the_number_of_servers(tmp_path: Path) -> None:
    contents = []
    for servers in (1, 3):
        folder = tmp_path / str(servers)
        export(folder, saved(folder, servers))
        contents.append(safetensors.numpy.load_file(folder / EXPORT))
    assert contents[0].keys() == contents[1].keys()
    assert all(np.array_equal(contents[0][name], contents[1][name]) for name in contents[0])


def test_a_damaged_model_is_not_exported(tmp_path: Path) -> None:
    manifest = saved(tmp_path)
    path = tmp_path / "shared-1-of-2.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match="is not what was saved"):
        export(tmp_path, manifest)
    assert not (tmp_path / EXPORT).exists()
