"""flps: models trained where data may not be moved."""

__version__ = "0.1.0"
