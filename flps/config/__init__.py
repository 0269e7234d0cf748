"""Configuration: the types of a job, and how a yaml becomes one."""

from flps.config.load import load
from flps.config.types import EMBEDDED, Config, Evaluation, Initializer, Network, Runner, TableParameters

__all__ = ["EMBEDDED", "Config", "Evaluation", "Initializer", "Network", "Runner", "TableParameters", "load"]
