"""A yaml file and the overrides of the command line become a `Config`, or one error that says all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from flps.config.check import contradictions
from flps.config.source import Complaints, Source, read
from flps.config.typed import typed
from flps.config.types import Config

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


def _with_hyper_parameters(source: Source, config: Config, schemas: Mapping[str, type[msgspec.Struct]]) -> Config:
    """The config with its hyper_parameters checked and completed, where the model's type is known."""
    if not schemas or _BUILDER.match(config.model) or source.complaints.touch(("model",)):
        return config
    if config.model not in schemas:
        close = get_close_matches(config.model, schemas, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"built in are {', '.join(schemas)};"
        source.complain(
            ("model",), f"no model is called {config.model!r}; {hint} your own is named path/to/model.py:build"
        )
        return config
    part = typed(source, schemas[config.model], config.hyper_parameters, ("hyper_parameters",))
    if part is None:
        return config
    complete = msgspec.json.decode(msgspec.json.encode(part))  # what JSON has: lists, no tuples
    return msgspec.structs.replace(config, hyper_parameters=complete)
