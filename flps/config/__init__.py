"""Configuration: the types of a job, and how a yaml becomes one."""

from flps.config.load import kind_of, load
from flps.config.load_split import SplitModel, load_split
from flps.config.split import SplitConfig
from flps.config.tables import Initializer, TableParameters
from flps.config.types import EMBEDDED, Config, Evaluation, Network, Runner

__all__ = [
    "EMBEDDED",
    "Config",
    "Evaluation",
    "Initializer",
    "Network",
    "Runner",
    "SplitConfig",
    "SplitModel",
    "TableParameters",
    "kind_of",
    "load",
    "load_split",
]
