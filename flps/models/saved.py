"""A saved model, put together again for scoring.

    model = load_model("log/run-.../output_model_ncf/3", client=0)
    logits = model({"user_input": users, "item_input": items})

Law: one process holds the shared part and one client's private part; rule state is not read, so it cannot train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from flps.checkpoint import Manifest, dense_parameters, read_files, read_manifest
from flps.errors import DataError
from flps.models.catalog import resolve
from flps.nn import Embedding, PrivateTable
from flps.table import SparseTable, TableSpec
from flps.table.files import Parts
from flps.table.replica import servers_spec


def load_model(folder: str | Path, client: int | None = None, config_dir: str | Path = ".") -> nn.Module:
    """The model in a saved epoch's folder, ready to score.

    client: whose private part it gets; None: private rows hold their first values, and private dense parameters those
    that the model begins with. config_dir: where a user's own model file is looked for, beside the working folder.

    Raises DataError when a file is missing or is not the one that was saved, ConfigError when the model is not known.
    """
    saved = SavedModel(Path(folder), Path(config_dir))
    if client is not None:
        saved.become(client)
    return saved.model


class SavedModel:
    """The shared part of a saved model, and one client's private part after the other."""

    def __init__(self, folder: Path, config_dir: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self.model = resolve(self.manifest.model, config_dir)(self.manifest.hyper_parameters, 0)
        if any(spec.kind == "dense" and spec.dtype == "float64" for spec in self.manifest.tables):
            self.model.to(torch.float64)
        self.model.eval()
        self._embeddings = {m.name: m for m in self.model.modules() if isinstance(m, Embedding)}
        self._parameters = dict(self.model.named_parameters())
        self._check()
        shared = read_files(folder, self.manifest, "shared")
        self._private = [spec for spec in self.manifest.tables if spec.name not in shared]
        self._first = {name: p.detach().clone() for name, p in self._parameters.items()}
        for spec in self.manifest.tables:
            if spec.name in shared:
                self._load_shared(spec, shared[spec.name])
        self.become_nobody()

    @property
    def user_rows(self) -> PrivateTable | None:
        """The private table that is looked up by user; None when there is none."""
        for spec in self._private:
            table = self._embeddings[spec.name].table if spec.kind == "sparse" else None
            if isinstance(table, PrivateTable) and self._embeddings[spec.name].feature == "user_input":
                return table
        return None

    def has_private(self, client: int) -> bool:
        """Whether this client's private part, if the model has one, is there."""
        names = [name for name in self.manifest.files if name.startswith(f"private-{client}-")]
        return not self._private or any((self.folder / name).is_file() for name in names)

    def become(self, client: int) -> None:
        """Take this client's private part. Raises DataError when its file is missing or is not the one saved."""
        self.become_nobody()
        if not self._private:
            return
        found = read_files(self.folder, self.manifest, "private", owner=client)
        for spec in self._private:
            if spec.name not in found:
                raise DataError(f"{self.folder}: the manifest names no private file of client {client}")
            if spec.kind == "dense":
                self._load_dense(spec, found[spec.name])
            else:
                table = self._embeddings[spec.name].table
                assert isinstance(table, PrivateTable)
                table.load(found[spec.name][0])

    def become_nobody(self) -> None:
        """Private parts as a client has them before it has trained."""
        for spec in self._private:
            if spec.kind == "sparse":
                self._embeddings[spec.name].table = PrivateTable(servers_spec(spec))
            else:
                for name in self.manifest.dense[spec.name]:
                    self._parameters[name].data.copy_(self._first[name])

    def _load_shared(self, spec: TableSpec, parts: Sequence[Parts]) -> None:
        if spec.kind == "dense":
            self._load_dense(spec, parts)
            return
        table = SparseTable(servers_spec(spec))
        for part in parts:
            table.load(part)
        self._embeddings[spec.name].table = table

    def _load_dense(self, spec: TableSpec, parts: Sequence[Parts]) -> None:
        values = np.concatenate([part["values"] for part in parts])
        for name, array in dense_parameters(values, self.manifest.dense[spec.name]).items():
            self._parameters[name].data.copy_(torch.from_numpy(array))

    def _check(self) -> None:
        """The model that is built here has the tables and parameters that were saved."""
        sparse = {spec.name for spec in self.manifest.tables if spec.kind == "sparse"}
        dense = {name: tuple(shape) for shapes in self.manifest.dense.values() for name, shape in shapes.items()}
        built = {name: tuple(p.shape) for name, p in self._parameters.items()}
        differ = sorted((sparse ^ self._embeddings.keys()) | {n for n, _ in dense.items() ^ built.items()})
        if differ:
            raise DataError(
                f"{self.folder} was saved by another form of model {self.manifest.model!r}: they differ in "
                f"{', '.join(differ)}"
            )
