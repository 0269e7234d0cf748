"""Configuration: the types of a job, and how a yaml becomes one."""

from flps.config.types import Config, Evaluation, Initializer, Network, Runner, TableParameters

__all__ = ["Config", "Evaluation", "Initializer", "Network", "Runner", "TableParameters"]
