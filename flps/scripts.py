"""Python files of a user's own: models, trainers, readers."""

from __future__ import annotations

import importlib.util
import logging
import sys
import traceback
import zlib
from pathlib import Path
from types import ModuleType

from flps.errors import ConfigError

log = logging.getLogger(__name__)


def load_script(path: Path) -> ModuleType:
    """Import a file by its path, under a name of its own.

    Raises ConfigError that names the file, the line and what was raised there.
    """
    path = path.resolve()
    name = f"flps_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file, its name should end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        sys.modules.pop(name, None)
        log.debug("%s cannot be imported", path, exc_info=True)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
