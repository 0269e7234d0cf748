"""A model's parameters as tables: which there are, where each lives, and how a push changes it.

Every embedding is a sparse table. All shared dense parameters together are one dense table, `dense`; those that the
config makes private are another, `dense_private`, which stays here. Of a model that two parties train, each part's
dense parameters are a table of their own, `dense_a` and `dense_b`.
"""

from __future__ import annotations

import difflib
import fnmatch
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flps.config.tables import TableParameters
from flps.config.typed import expected, fields_of
from flps.config.types import Config, table_name
from flps.errors import ConfigError
from flps.nn import DensePack, Embedding
from flps.table import Initializer, TableSpec, make_rule
from flps.table.accessor import Accessor, Counts
from flps.table.rules import ALIASES, OF_PADDLE, RULES, AnyRule

Keys: TypeAlias = NDArray[np.uint64]
Rows: TypeAlias = NDArray[np.floating[Any]]
Update = Literal["step", "window"]
DENSE, DENSE_PRIVATE = "dense", "dense_private"
_PADDLE_RANGE = 1e-4  # rows of Paddle's parameter server begin within it
_OF_SUMS = ("sum", "summary")  # what is pushed to them is no gradient
_TRAINED_BY = [name for name in RULES if name not in _OF_SUMS]
_SETTINGS = sorted({key for name in _TRAINED_BY for key in RULES[name].__struct_fields__})
_KINDS = {field.name: field.type for field in fields_of(TableParameters)}


class SparseParameter:
    """An embedding and its table's description."""

    def __init__(self, embedding: Embedding, spec: TableSpec) -> None:
        self.embedding = embedding
        self.spec = spec

    def gradient(self) -> tuple[Keys, Rows] | None:
        """Keys and gradients of this step; None when nothing was looked up."""
        return self.embedding.take_gradient()

    @property
    def counts(self) -> Counts | None:
        """Shows, clicks and slots (N, 3) of the keys that `gradient` gave last; None for a table without accessor."""
        return self.embedding.counts


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


def place(model: nn.Module, config: Config, parts: Sequence[str] = ()) -> list[Placed]:
    """Every parameter of the model with its table and its place.

    parts: attributes of the model that different parties train; each has a dense table of its own.
    Raises ConfigError for names that mean nothing in this model, for settings without effect, and for models with
    persistent buffers.
    """
    _expect_no_buffers(model)
    embeddings = [module for module in model.modules() if isinstance(module, Embedding)]
    private, shared = _divide(model, embeddings, config.runner.private)
    tables = _by_part(shared, parts) if parts else {DENSE: shared} if shared else {}
    _expect_tables(config, [e.name for e in embeddings], [*tables, *[DENSE_PRIVATE] * bool(private)])
    placed = [_place_embedding(embedding, config) for embedding in embeddings]
    for table, names in tables.items():
        placed.append(Placed(_pack(model, names, table, config), "shared", _update(table, "shared", config)))
    if private:
        pack = _pack(model, private, DENSE_PRIVATE, config)
        placed.append(Placed(pack, "private", _update(DENSE_PRIVATE, "private", config)))
    return placed


def _divide(model: nn.Module, embeddings: Sequence[Embedding], patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the private and of the shared dense parameters."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            sparse = pattern in (embedding.name for embedding in embeddings)
            hint = "; a sparse table is made private by runner.local_sparse" if sparse else _nearest(pattern, names)
            there = ", ".join(names) or "none"
            raise ConfigError(f"runner.private: {pattern!r} matches no dense parameter, the model has {there}{hint}")
    private = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return private, [name for name in names if name not in private]


def _by_part(names: Sequence[str], parts: Sequence[str]) -> dict[str, list[str]]:
    """Dense table -> its parameters; a part without parameters has none."""
    nobodys = [name for name in names if name.partition(".")[0] not in parts]
    if nobodys:
        raise ConfigError(
            f"the model's parameter {nobodys[0]} belongs to neither party: a model of two parties has all that is "
            f"trained in its parts {' and '.join(parts)}"
        )
    tables = {f"{DENSE}_{part}": [name for name in names if name.partition(".")[0] == part] for part in parts}
    return {table: own for table, own in tables.items() if own}


def _place_embedding(embedding: Embedding, config: Config) -> Placed:
    spec = embedding.spec
    settings = config.table_parameters.get(spec.name, TableParameters())
    rule = rule_of(config, spec.name)
    spec = msgspec.structs.replace(
        spec,
        rule=rule,
        init=_initializer(settings, embedding, rule),
        seed=(config.seed * 1_000_003 + zlib.crc32(spec.name.encode())) % 2**62,
        dtype=settings.dtype or spec.dtype,
        accessor=_accessor(settings),
        memory_bytes_max=settings.memory_bytes_max,
    )
    embedding.is_counted = spec.accessor is not None
    placement = config.placement(spec.name) or embedding.placement
    return Placed(SparseParameter(embedding, spec), placement, _update(spec.name, placement, config))


def _accessor(settings: TableParameters) -> Accessor | None:
    if settings.accessor is None:
        return None
    said = msgspec.to_builtins(settings.accessor)
    if settings.accessor.entry is not None:
        said["entry"] = {"kind": said["entry"]["kind"], **settings.accessor.entry.own()}
    return msgspec.convert(said, Accessor)


def _initializer(settings: TableParameters, embedding: Embedding, rule: AnyRule) -> Initializer:
    """How rows begin: as the config says, else as the model says, else as Paddle's rules have it."""
    said, half_width = settings.initializer, settings.initial_range
    if said is not None and half_width is not None:
        raise ConfigError(
            f"table_parameters.{embedding.name}: initial_range is short for an initializer; keep one of the two"
        )
    if said is not None:
        return Initializer(said.kind, said.scale)
    if half_width is None and embedding.begins_by_default and rule.name in OF_PADDLE:
        half_width = _PADDLE_RANGE
    return embedding.spec.init if half_width is None else Initializer("uniform", half_width)


def _pack(model: nn.Module, names: Sequence[str], table: str, config: Config) -> DenseParameter:
    settings = config.table_parameters.get(table, TableParameters())
    hints = {
        "placement": "runner.private names the private ones of",
        "memory_bytes_max": "no disk holds",
        "accessor": "nobody counts shows of",
    }
    for key in ("placement", "initializer", "initial_range", "memory_bytes_max", "accessor"):
        if getattr(settings, key) is not None:
            hint = hints.get(key, "the model's code draws")
            raise ConfigError(f"table_parameters.{table}.{key} has no effect: {hint} the dense parameters")
    rule = rule_of(config, table)
    if settings.dtype == "float64":
        model.to(torch.float64)
    pack = DensePack(model, names)
    return DenseParameter(
        pack, TableSpec(name=table, kind="dense", dim=pack.size, rule=rule, dtype=settings.dtype or "float32")
    )


def rule_of(config: Config, table: str) -> AnyRule:
    """The rule of a table: what `table_parameters` says, else `hyper_parameters.optimizer`, else adam.

    A setting that neither names is the rule's own default. Raises ConfigError for rules that there are not, and for
    settings that the rule does not know or cannot be run with.
    """
    settings = config.table_parameters.get(table, TableParameters())
    optimizer = _optimizer(config)
    everywhere = optimizer.pop("class", "adam")
    name = settings.rule or everywhere
    name, everywhere = ALIASES.get(name, name), ALIASES.get(everywhere, everywhere)
    where = f"table_parameters.{table}" if settings.rule else "hyper_parameters.optimizer.class"
    if name in _OF_SUMS:
        raise ConfigError(
            f"{where}: the rule {name} adds what is pushed, here raw gradients, so the loss would grow; "
            f"use one of {', '.join(_TRAINED_BY)}"
        )
    own = {key: value for key in _SETTINGS if (value := getattr(settings, key)) is not None}
    for key in own:
        if key not in RULES[name].__struct_fields__:
            raise ConfigError(
                f"table_parameters.{table}.{key} has no effect: the rule {name} knows "
                f"{', '.join(RULES[name].__struct_fields__)}"
            )
    inherited = optimizer if name == everywhere else {"learning_rate": optimizer.get("learning_rate")}
    try:
        return make_rule(name, **{**inherited, **own})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _optimizer(config: Config) -> dict[str, Any]:
    """`hyper_parameters.optimizer`, checked: a user's own model has no schema that has done so."""
    where = "hyper_parameters.optimizer"
    optimizer = config.hyper_parameters.get("optimizer") or {}
    if not isinstance(optimizer, Mapping):
        raise ConfigError(f"{where}: expected keys and values, for example {{class: adam}}, got {optimizer!r}")
    return {key: _setting(f"{where}.{key}", key, value) for key, value in optimizer.items() if value is not None}


def _setting(where: str, key: str, value: Any) -> Any:
    """One of the optimizer's keys as the type that it has in `table_parameters`."""
    if key == "class":
        if not isinstance(value, str) or ALIASES.get(value, value) not in RULES:
            raise ConfigError(f"{where}: expected one of {', '.join(_TRAINED_BY)}, got {value!r}")
        return value
    if key not in _SETTINGS:
        hint = _nearest(str(key), _SETTINGS)
        raise ConfigError(f"{where}: there is no such key, there are class, {', '.join(_SETTINGS)}{hint}")
    try:
        return getattr(msgspec.convert({key: value}, TableParameters), key)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: expected {expected(_KINDS[key])}, got {value!r}") from error


def _update(table: str, placement: str, config: Config) -> Update:
    default: Update = "window" if config.runner.sync_mode == "geo" else "step"
    said = config.table_parameters.get(table, TableParameters()).update
    if said and placement == "private":
        raise ConfigError(f"table_parameters.{table}.update has no effect: a private table is not sent")
    if said == "window" and default == "step":
        raise ConfigError(
            f"table_parameters.{table}.update: window needs sync_mode geo; {config.runner.sync_mode} sends each step"
        )
    return said or default


def _expect_tables(config: Config, sparse: Sequence[str], dense: Sequence[str]) -> None:
    """Every table that the config names is one of the model's, and of the kind that the key is about."""
    for key, name in _asked(config):
        known = [*sparse, *dense] if key == "table_parameters" else sparse
        if name in known:
            continue
        if name in (DENSE, DENSE_PRIVATE):
            hint = "; runner.private says which dense parameters are private"
        else:
            hint = _nearest(name, known)
        kind = "table" if key == "table_parameters" else "sparse table"
        raise ConfigError(f"{key}: the model has no {kind} {name!r}, it has {', '.join(known) or 'none'}{hint}")


def _asked(config: Config) -> Iterator[tuple[str, str]]:
    """The keys of the config that name tables, and which."""
    yield from (("table_parameters", name) for name in config.table_parameters)
    yield from (("runner.local_sparse", table_name(name)) for name in config.runner.local_sparse)
    yield from (("runner.remote_sparse", table_name(name)) for name in config.runner.remote_sparse)


def _expect_no_buffers(model: nn.Module) -> None:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = [name for name in model.state_dict() if name not in parameters]
    if buffers:
        raise ConfigError(
            f"the model has the buffer {buffers[0]}; buffers are neither exchanged nor saved: use a layer without "
            "(LayerNorm for BatchNorm), or register it with persistent=False when it can be computed anew"
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
