"""From the yaml's `model:` to the function that builds it.

Built-in models are a table in this file; a user's own model is named `path/to/model.py:build` or
`package.module:build`.
Law: nothing here imports torch before a model is asked for, so that a configuration is checked in no time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from flps.config import SplitModel
from flps.errors import ConfigError
from flps.models.ctr_dnn.hyper import CtrDnnHyperParameters
from flps.models.ncf.hyper import NcfHyperParameters
from flps.models.wide_deep.options import PRESETS, NetworkConfig
from flps.scripts import load_script
from flps.split.seat import Seat

if TYPE_CHECKING:
    from torch import nn

Builder: TypeAlias = "Callable[[Mapping[str, Any], int], nn.Module]"


class BuiltIn(NamedTuple):
    """A model that comes with flps."""

    module: str  # holds `build(hyper_parameters: schema, seed: int) -> nn.Module`
    schema: type[msgspec.Struct]


BUILT_IN: Mapping[str, BuiltIn] = {
    "ncf": BuiltIn("flps.models.ncf.build", NcfHyperParameters),
    "ctr_dnn": BuiltIn("flps.models.ctr_dnn.build", CtrDnnHyperParameters),
}


def _wide_deep_nets(values: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The yaml files of the leader's and of a follower's nets that the original's keys name."""
    if not values["simu_tee"]:
        return (values["leader_bottom_yaml_path"], values["leader_top_yaml_path"]), (
            values["follower_bottom_yaml_path"],
        )
    leader = ("leader_bottom_tee_yaml_path", "leader_tee_yaml_path", "leader_top_tee_yaml_path")
    return tuple(values[key] for key in leader), (values["follower_bottom_tee_yaml_path"],)


SPLIT: Mapping[str, SplitModel] = {
    "wide_deep": SplitModel("flps.models.wide_deep.parties", NetworkConfig, PRESETS, _wide_deep_nets)
}


def schemas() -> dict[str, type[msgspec.Struct]]:
    """Name of each built-in model -> the type of its hyper_parameters, as `flps.config.load` wants it."""
    return {name: model.schema for name, model in BUILT_IN.items()}


def resolve(name: str, config_dir: str | Path = ".") -> Builder:
    """The function that makes the model called `name` from its hyper_parameters and a seed.

    name: a built-in model, `path/to/model.py:build` (a relative path is looked for in the working folder, then in
    `config_dir`, the yaml's folder) or `package.module:build`. A user's `build` gets the
    hyper_parameters as they stand in the yaml.

    Raises ConfigError when there is no such model, file, module or function, or when importing it fails.
    """
    if name in BUILT_IN:
        return _built_in(BUILT_IN[name])
    return _own(name, Path(config_dir), BUILT_IN, "(hyper_parameters, seed)` that returns a torch module")


def resolve_split(name: str, config_dir: str | Path = ".") -> Callable[[Mapping[str, Any], Seat], Any]:
    """The function that makes a party of the split model called `name` from its hyper_parameters and its seat.

    name, config_dir and errors: as `resolve`. What the function returns is a `flps.party.role.Brought`.
    """
    if name in SPLIT:
        return _built_in(SPLIT[name])
    return _own(name, Path(config_dir), SPLIT, "(hyper_parameters, seat)` that returns what a party brings")


def _own(name: str, config_dir: Path, built_in: Mapping[str, Any], wanted: str) -> Callable[..., Any]:
    """A user's function."""
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function.isidentifier():
        close = get_close_matches(name, built_in, n=1)
        hint = f"did you mean {close[0]}?" if close else f"built in: {', '.join(built_in)};"
        raise ConfigError(
            f"model {name!r} is unknown; {hint} your own is named path/to/model.py:build or package.module:build"
        )
    module = _load_file(name, place, config_dir) if place.endswith(".py") else _load_module(name, place)
    build = getattr(module, function, None)
    if not callable(build):
        raise ConfigError(
            f"model {name!r}: {module.__file__} has no function {function!r}; it wants `def {function}{wanted}"
        )
    return build  # type: ignore[no-any-return]


def _built_in(model: BuiltIn | SplitModel) -> Callable[[Mapping[str, Any], Any], Any]:
    build = importlib.import_module(model.module).build

    def build_from_mapping(hyper_parameters: Mapping[str, Any], place: Any) -> Any:
        try:
            checked = msgspec.convert(dict(hyper_parameters), model.schema)
        except msgspec.ValidationError as error:
            raise ConfigError(f"hyper_parameters: {error}") from error
        return build(checked, place)

    return build_from_mapping


def _load_file(name: str, place: str, config_dir: Path) -> ModuleType:
    candidates = [Path.cwd() / place, config_dir / place]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        tried = " nor ".join(dict.fromkeys(str(candidate.resolve()) for candidate in candidates))
        raise ConfigError(f"model {name!r}: there is no file {tried}")
    try:
        return load_script(path)
    except ConfigError as error:
        raise ConfigError(f"model {name!r}: {error}") from error


def _load_module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:  # whatever a user's module may raise
        raise ConfigError(
            f"model {name!r}: module {place!r} cannot be imported: {type(error).__name__}: {error}; "
            "a file is named with its ending, path/to/model.py:build"
        ) from error
