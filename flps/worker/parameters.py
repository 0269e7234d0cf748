"""A model's parameters as tables: which there are, where each lives, and how a push changes it.

Every embedding is a sparse table. All shared dense parameters together are one dense table, `dense`; those that the
config makes private are another, `dense_private`, which stays here.
"""

from __future__ import annotations

import difflib
import fnmatch
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flps.config.types import Config, TableParameters, table_name
from flps.errors import ConfigError
from flps.nn import DensePack, Embedding
from flps.table import Initializer, TableSpec, distinct, make_rule

Features: TypeAlias = Mapping[str, NDArray[Any]]
Keys: TypeAlias = NDArray[np.uint64]
Rows: TypeAlias = NDArray[np.floating[Any]]
Update = Literal["step", "window"]


class SparseParameter:
    """An embedding and its table's description."""

    def __init__(self, embedding: Embedding, spec: TableSpec) -> None:
        self.embedding = embedding
        self.spec = spec

    def keys(self, batch: Features) -> Keys:
        """The sorted, unique keys that a batch looks up."""
        return distinct(batch[self.embedding.feature].astype(np.int64, copy=False).view(np.uint64), self.spec.bound)[0]

    def gradient(self) -> tuple[Keys, Rows] | None:
        """Keys and gradients of this step; None when nothing was looked up."""
        return self.embedding.take_gradient()


class DenseParameter:
    """Some dense parameters as one tensor, and its table's description."""

    def __init__(self, pack: DensePack, spec: TableSpec) -> None:
        self.pack = pack
        self.spec = spec

    def gradient(self) -> Rows:
        """The gradient (dim,) of this step."""
        return self.pack.take_gradient()


Parameter: TypeAlias = SparseParameter | DenseParameter


class Placed(NamedTuple):
    """A parameter and where it lives; `update` says how a shared one travels."""

    parameter: Parameter
    placement: Literal["shared", "private"]
    update: Update


def place(model: nn.Module, config: Config) -> list[Placed]:
    """Every parameter of the model with its table and its place. Raises ConfigError for tables that are not there."""
    default: Update = "window" if config.runner.sync_mode == "geo" else "step"
    embeddings = [module for module in model.modules() if isinstance(module, Embedding)]
    _expect_tables(config, [embedding.name for embedding in embeddings] + ["dense", "dense_private"])
    placed = [_place_embedding(embedding, config, default) for embedding in embeddings]
    private = [
        name
        for name, _ in model.named_parameters()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.runner.private)
    ]
    shared = [name for name, _ in model.named_parameters() if name not in private]
    placed += (
        [Placed(_pack(model, shared, "dense", config), "shared", _update("dense", config, default))] if shared else []
    )
    placed += [Placed(_pack(model, private, "dense_private", config), "private", default)] if private else []
    return placed


def _place_embedding(embedding: Embedding, config: Config, default: Update) -> Placed:
    spec = embedding.spec
    settings = config.table_parameters.get(spec.name, TableParameters())
    init = (
        spec.init
        if settings.initializer is None
        else Initializer(settings.initializer.kind, settings.initializer.scale)
    )
    spec = msgspec.structs.replace(
        spec,
        rule=rule_of(config, settings),
        init=init,
        seed=(config.seed * 1_000_003 + zlib.crc32(spec.name.encode())) % 2**62,
        dtype=settings.dtype or spec.dtype,
    )
    placement = config.placement(spec.name) or embedding.placement
    return Placed(SparseParameter(embedding, spec), placement, _update(spec.name, config, default))


def _pack(model: nn.Module, names: Sequence[str], table: str, config: Config) -> DenseParameter:
    settings = config.table_parameters.get(table, TableParameters())
    if settings.dtype == "float64":
        model.to(torch.float64)
    pack = DensePack(model, names)
    dtype = settings.dtype or "float32"
    return DenseParameter(
        pack, TableSpec(name=table, kind="dense", dim=pack.size, rule=rule_of(config, settings), dtype=dtype)
    )


def rule_of(config: Config, settings: TableParameters) -> Any:
    """The rule of a table: what `table_parameters` says, else `hyper_parameters.optimizer`."""
    optimizer = dict(config.hyper_parameters.get("optimizer") or {})
    name = settings.rule or optimizer.pop("class", None) or "adam"
    own = {key: value for key, value in msgspec.structs.asdict(settings).items() if isinstance(value, float)}
    same_rule = settings.rule is None or settings.rule == config.hyper_parameters.get("optimizer", {}).get("class")
    inherited = optimizer if same_rule else {"learning_rate": optimizer.get("learning_rate")}
    return make_rule(name, **{**inherited, **own})


def _update(table: str, config: Config, default: Update) -> Update:
    update = getattr(config.table_parameters.get(table), "update", None) or default
    if update == "window" and default == "step":
        raise ConfigError(
            f"table_parameters.{table}.update: window needs sync_mode geo; {config.runner.sync_mode} sends each step"
        )
    return update


def _expect_tables(config: Config, known: Sequence[str]) -> None:
    asked: Iterable[str] = [
        *config.table_parameters,
        *map(table_name, config.runner.local_sparse),
        *map(table_name, config.runner.remote_sparse),
    ]
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"the model has no table {name!r}, it has {', '.join(known)}{hint}")
