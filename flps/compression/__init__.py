"""Tensors in fewer bytes, for the cut between the parties of a split job: what is chosen, packed and unpacked.

`compress(name, array, config, feedback)` gives a `Packed`, `expand(packed)` the tensor again. The codecs are in
`codecs.py`, their way to the wire in `packed.py`, bits in a row in `bits.py`. Rows of the federation's tables have
their own form, `flps.packing`, of which the codec `int8` is made.

Law 1: how far an expanded tensor is from what it was is bounded, and stands at its codec; the bound is a test.
Law 2: a tensor with NaN or infinity is refused by its name, never turned into numbers.
Law 3: `expand` trusts nothing: whatever a peer can send wrong is a ProtocolError, before anything is allocated for it.
"""

from __future__ import annotations

from flps.compression.codecs import compress, expand
from flps.compression.config import CompressConfig
from flps.compression.feedback import Feedback
from flps.compression.packed import Kind, NotFinite, Packed

__all__ = ["CompressConfig", "Feedback", "Kind", "NotFinite", "Packed", "compress", "expand"]
