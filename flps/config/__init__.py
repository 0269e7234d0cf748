"""Configuration: the types of a job, and how a yaml becomes one."""

from flps.config.load import load
from flps.config.tables import Initializer, TableParameters
from flps.config.types import EMBEDDED, Config, Evaluation, Network, Runner

__all__ = ["EMBEDDED", "Config", "Evaluation", "Initializer", "Network", "Runner", "TableParameters", "load"]
