"""How tensors of one name are packed: what goes forward (activations), and what comes back (their gradients)."""

from __future__ import annotations

import dataclasses
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from typing import Any, cast

from flps.compression.packed import KINDS, Kind
from flps.errors import ConfigError


@dataclass(frozen=True)
class CompressConfig:
    """`CompressConfig("min_max", 6)`: 6 bits a number, both ways.

    Args:
        compress_type: `min_max`, `bit_pack`, `fp16`, `bf16`, `int8`, `topk` or `no_compress`.
        bit_num: bits a number of min_max and bit_pack, 1 to 8; the others do not read it.
        top_k: share of the numbers that topk keeps, in (0, 1].
        grad_compress_type, grad_bit_num, grad_top_k: the same for gradients; None: as for activations.
        error_feedback: what packing takes from a gradient goes with the next one of that name (see `Feedback` for when
            that makes sense; never for activations).

    Raises:
        ConfigError: a type that there is not, a number out of its range.
    """

    compress_type: str
    bit_num: int = 8
    _: KW_ONLY
    top_k: float = 0.1
    grad_compress_type: str | None = None
    grad_bit_num: int | None = None
    grad_top_k: float | None = None
    error_feedback: bool = False

    def __post_init__(self) -> None:
        for prefix in ("", "grad_"):
            _check_type(f"{prefix}compress_type", getattr(self, f"{prefix}compress_type"), optional=bool(prefix))
            _check_bits(f"{prefix}bit_num", getattr(self, f"{prefix}bit_num"), optional=bool(prefix))
            _check_share(f"{prefix}top_k", getattr(self, f"{prefix}top_k"), optional=bool(prefix))
        if type(self.error_feedback) is not bool:
            raise ConfigError(f"error_feedback must be true or false, got {self.error_feedback!r}")

    @property
    def kind(self) -> Kind:
        """The codec."""
        return cast(Kind, self.compress_type)

    @property
    def activations(self) -> CompressConfig:
        """What goes forward: without error feedback, which adds numbers of other rows to it."""
        return dataclasses.replace(self, error_feedback=False)

    @property
    def gradients(self) -> CompressConfig:
        """What comes back."""
        return CompressConfig(
            self.grad_compress_type or self.compress_type,
            self.grad_bit_num or self.bit_num,
            top_k=self.grad_top_k or self.top_k,
            error_feedback=self.error_feedback,
        )


def _check_type(key: str, name: Any, optional: bool) -> None:
    if (name is None and optional) or name in KINDS:
        return
    near = get_close_matches(str(name), KINDS, 1)
    raise ConfigError(f"{key} {name!r}: one of {', '.join(KINDS)}" + (f"; {near[0]}?" if near else ""))


def _check_bits(key: str, bits: Any, optional: bool) -> None:
    if not ((bits is None and optional) or (type(bits) is int and 1 <= bits <= 8)):
        raise ConfigError(f"{key} must be a whole number from 1 to 8, got {bits!r}")


def _check_share(key: str, share: Any, optional: bool) -> None:
    if not ((share is None and optional) or (type(share) in (int, float) and 0 < share <= 1)):
        raise ConfigError(f"{key} must be a number above 0, at most 1, got {share!r}")
