"""A yaml file and the overrides of the command line become a `Config`, or one error that says all that is wrong.

The yaml's `job:` says which kind it is, and so by which types it is read: `kind_of`, then `load` or `load_split`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from flps.config.check import contradictions
from flps.config.source import Complaints, Source, read
from flps.config.typed import typed
from flps.config.types import Config
from flps.errors import ConfigError

_BUILDER = re.compile(r"[^:]+:[A-Za-z_]\w*\Z")


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    schemas: Mapping[str, type[msgspec.Struct]] | None = None,
) -> Config:
    """Read one job.

    path: the yaml file. overrides: `key=value` with a dotted key, applied in order, the value read as yaml.
    schemas: built-in model name -> the struct of its hyper_parameters; a built-in model's hyper_parameters are checked
    against it and come back complete, with its defaults filled in. Without it models are taken as they are named.

    Raises ConfigError with every complaint, each with file and line or the flag it came from. A key's known
    misspelling is read with a logged warning.
    """
    complaints = Complaints()
    source = read(Path(path), overrides, complaints)
    config = typed(source, Config, source.values)
    if config is not None:
        config = _with_hyper_parameters(source, config, schemas or {})
        for paths, text in contradictions(config):
            if not any(map(complaints.touch, paths)):
                source.complain(paths[0], text)
    complaints.raise_if_any()
    assert config is not None
    return config


def kind_of(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """The kind of a job, as far as it can be read; who loads it complains of the rest."""
    try:
        kind = read(Path(path), overrides, Complaints()).values.get("job")
    except ConfigError:
        kind = None
    return kind if isinstance(kind, str) else "federation"


def _with_hyper_parameters(source: Source, config: Config, schemas: Mapping[str, type[msgspec.Struct]]) -> Config:
    """The config with its hyper_parameters checked and completed, where the model's type is known."""
    if not schemas or is_own_model(config.model) or source.complaints.touch(("model",)):
        return config
    if config.model not in schemas:
        complain_of_model(source, config.model, schemas)
        return config
    part = typed(source, schemas[config.model], config.hyper_parameters, ("hyper_parameters",))
    if part is None:
        return config
    complete = msgspec.json.decode(msgspec.json.encode(part))  # what JSON has: lists, no tuples
    return msgspec.structs.replace(config, hyper_parameters=complete)


def complain_of_model(source: Source, name: str, built_in: Iterable[str]) -> None:
    """Note that no built-in model is called that."""
    close = get_close_matches(name, built_in := list(built_in), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"built in are {', '.join(built_in)};"
    source.complain(("model",), f"no model is called {name!r}; {hint} your own is named path/to/model.py:build")


def is_own_model(name: str) -> bool:
    """Whether a model is named as `path/to/model.py:build` or `package.module:build`."""
    return _BUILDER.match(name) is not None
