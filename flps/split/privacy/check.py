"""What is refused, by errors that are also ValueError and TypeError: code written for the original catches those."""

from __future__ import annotations

import logging
import math
from typing import Any

from flps.errors import ConfigError

log = logging.getLogger(__name__)
EPS_MAX = 100.0


class WrongValue(ConfigError, ValueError):
    """A setting or a tensor has a value that cannot be."""


class WrongType(ConfigError, TypeError):
    """A setting or a tensor is of a type that cannot be."""


def number(name: str, value: Any, least: float = 0.0) -> float:
    """A finite number of at least `least`."""
    if type(value) not in (int, float):
        raise WrongType(f"parameter {name} must be an int or a float number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise WrongValue(f"parameter {name} must be finite, got {value}")
    if value < least:
        raise WrongValue(f"parameter {name} cannot be {'negative' if least == 0 else f'below {least}'}, got {value}")
    return float(value)


def epsilon(value: Any) -> float:
    """An epsilon from 0; beyond 100 it becomes that, as in the original."""
    eps = number("eps", value)
    if eps > EPS_MAX:
        log.info("eps of %g is cut to %g", eps, EPS_MAX)
    return min(eps, EPS_MAX)


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    found = number(name, value)
    if found == 0:
        raise WrongValue(f"parameter {name} must be above 0")
    return found
