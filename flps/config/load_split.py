"""A split job's yaml, the overrides and the flags of the command line become a `SplitConfig`, or one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from flps.config.load import complain_of_model, is_own_model
from flps.config.source import Complaints, KeyPath, Source, read
from flps.config.split import SplitConfig
from flps.config.split_check import contradictions
from flps.config.typed import typed

NEEDS = "a split job needs at least `job: split`"


class SplitModel(NamedTuple):
    """What must be known of a built-in model to read a job of it, and to play it."""

    module: str  # holds `build(hyper_parameters: schema, seat: Seat)`, which makes a party
    schema: type[msgspec.Struct]  # of its hyper_parameters
    presets: Mapping[str, msgspec.Struct]  # of that type
    nets: Callable[[Mapping[str, Any]], tuple[tuple[str, ...], tuple[str, ...]]]  # yaml files: leader's, a follower's


def load_split(
    path: str | Path,
    overrides: Sequence[str] = (),
    settings: Sequence[str] = (),
    models: Mapping[str, SplitModel] | None = None,
) -> SplitConfig:
    """Read one split job.

    path: the yaml file. overrides: `key=value` with a dotted key, applied in order. settings: `key=value` of
    hyper_parameters, as the flags `--key=value` say them; they win. models: the built-in ones. Their hyper_parameters
    come back complete, from the preset; what is also said elsewhere (seed, data, nets) is the same in both places.

    Raises ConfigError with every complaint, each with file and line or the flag it came from.
    """
    complaints = Complaints()
    source = read(Path(path), overrides, complaints, NEEDS)
    for setting in settings:
        source.override(f"hyper_parameters.{setting}", f"--{setting}")
    config = typed(source, SplitConfig, source.values)
    if config is not None:
        model = _model(source, config, models or {})
        config = _complete(source, config, model) if model is not None else config
        for paths, text in contradictions(config):
            if not any(map(complaints.touch, paths)):
                source.complain(paths[0], text)
    complaints.raise_if_any()
    assert config is not None
    return config


def _model(source: Source, config: SplitConfig, models: Mapping[str, SplitModel]) -> SplitModel | None:
    """The built-in model that is meant, if it is one."""
    if not models or is_own_model(config.model) or source.complaints.touch(("model",)):
        return None
    if config.model not in models:
        complain_of_model(source, config.model, models)
    return models.get(config.model)


def _complete(source: Source, config: SplitConfig, model: SplitModel) -> SplitConfig:
    """The config with the model's hyper_parameters checked and complete, and in agreement with the job's own keys."""
    said = config.hyper_parameters
    part = typed(source, model.schema, said, ("hyper_parameters",))
    if part is None:
        return config
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(part))  # what JSON has: lists, no tuples
    preset = msgspec.json.decode(msgspec.json.encode(model.presets[config.preset]))
    values |= {key: value for key, value in preset.items() if key not in said}
    seed, values["seed"] = _same(source, "seed", config.seed, "seed", values, said)
    rows, values["data_path"] = _same(source, "data", config.data or None, "data_path", values, said)
    config = msgspec.structs.replace(config, hyper_parameters=values, seed=seed, data=rows)
    return _with_nets(source, config, model)


def _same(
    source: Source, key: str, value: Any, model_key: str, values: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[Any, Any]:
    """What the job's key and the model's key both mean; a complaint where they say different things."""
    if value is None:
        return values[model_key], values[model_key]
    if model_key in said and values[model_key] != value:
        other = source.origin(("hyper_parameters", model_key))
        source.complain((key,), f"{value!r}, but hyper_parameters.{model_key} is {values[model_key]!r} ({other})")
    return value, value


def _with_nets(source: Source, config: SplitConfig, model: SplitModel) -> SplitConfig:
    """Parties that name no nets have those that the hyper_parameters name; a complaint where both name some."""
    named = model.nets(config.hyper_parameters)
    usual = model.nets(msgspec.to_builtins(model.presets[config.preset]))

    def nets(path: KeyPath, said: tuple[str, ...], which: int) -> tuple[str, ...]:
        if said and named[which] not in (usual[which], said):
            other = ", ".join(named[which])
            source.complain((*path, "nets"), f"names other nets than hyper_parameters does ({other}): leave one out")
        return said or named[which]

    parties = config.parties
    leader = msgspec.structs.replace(parties.leader, nets=nets(("parties", "leader"), parties.leader.nets, 0))
    followers = tuple(
        msgspec.structs.replace(one, nets=nets(("parties", "followers", rank), one.nets, 1))
        for rank, one in enumerate(parties.followers)
    )
    parties = msgspec.structs.replace(parties, leader=leader, followers=followers)
    return msgspec.structs.replace(config, parties=parties)
