"""Random numbers that follow from a secret key and from what they are for, and from nothing else.

AES-256 is a keyed random function of the 16 bytes that it is given: to one without the key its output looks like coins
that were tossed for each input anew, whatever inputs and outputs he has seen. A generator for simulations (Philox, the
Mersenne twister) makes no such promise, and its state can be computed from its output.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.errors import ConfigError
from flps.split.privacy.check import WrongType, WrongValue

KEY_BYTES = 32
Seed: TypeAlias = int | bytes | None


class Chance:
    """The random numbers of one mechanism."""

    def __init__(self, seed: Seed, purpose: str) -> None:
        """seed: a whole number, or at least 16 bytes; None: fresh from the operating system, as one should.

        purpose: keeps mechanisms apart that were given the same seed; at most 16 letters.
        """
        _expect_cipher()
        self._purpose = purpose.encode()
        self.key = secrets.token_bytes(KEY_BYTES) if seed is None else self._derived(_seed_bytes(seed))

    def _derived(self, seed: bytes) -> bytes:
        return hashlib.blake2b(seed, digest_size=KEY_BYTES, person=self._purpose).digest()

    def of_rows(self, rows: NDArray[np.uint64], values: NDArray[np.uint64], name: str) -> NDArray[np.uint64]:
        """(N, 2) random words, those of row i following from (key, name, rows[i], values[i]) alone."""
        key = hashlib.blake2b(name.encode(), digest_size=KEY_BYTES, key=self.key, person=b"rows").digest()
        blocks = np.stack((rows, values), axis=1).astype("<u8")
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # one block: a random function
        return np.frombuffer(cipher.update(blocks.tobytes()), "<u8").reshape(-1, 2)

    def of_names(self, names: list[str]) -> NDArray[np.uint64]:
        """(N,): a number for each name, by keyed BLAKE2b."""
        hashed = [hashlib.blake2b(name.encode(), digest_size=8, key=self.key).digest() for name in names]
        return np.frombuffer(b"".join(hashed), "<u8")

    def stream(self, number: int, count: int) -> NDArray[np.uint64]:
        """(count,) random words, those of the `number`-th use."""
        start = number.to_bytes(8, "big") + bytes(8)
        key = hashlib.blake2b(self.key, digest_size=KEY_BYTES, person=b"stream").digest()
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        cipher = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
        return np.frombuffer(cipher.update(bytes(8 * count)), "<u8")

    def normal(self, number: int, count: int) -> NDArray[np.float64]:
        """(count,) standard normal numbers of the `number`-th use, by Box and Muller (1958)."""
        pairs = -(-count // 2)
        words = (self.stream(number, 2 * pairs) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        length, angle = np.sqrt(-2 * np.log1p(-words[:pairs])), 2 * np.pi * words[pairs:]
        return np.concatenate((length * np.cos(angle), length * np.sin(angle)))[:count]

    def state(self) -> Tensor:
        """(32,) uint8: the key. Whoever has it takes the noise off."""
        return torch.tensor(list(self.key), dtype=torch.uint8)

    def take_up(self, state: Tensor) -> None:
        """Go on with the key of a checkpoint."""
        if state.dtype != torch.uint8 or state.shape != (KEY_BYTES,):
            raise WrongValue(f"a key is {KEY_BYTES} bytes, got {tuple(state.shape)} of {state.dtype}")
        self.key = bytes(state.tolist())


def _seed_bytes(seed: Any) -> bytes:
    if type(seed) is int and seed >= 0:
        return seed.to_bytes(max(8, (seed.bit_length() + 7) // 8), "little")
    if isinstance(seed, bytes) and len(seed) >= 16:
        return seed
    raise WrongType(f"seed must be a whole number from 0, at least 16 bytes, or None, got {type(seed).__name__}")


def _expect_cipher() -> None:
    """Raises ConfigError when the package that has the cipher is not there: it is an extra."""
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("noise on labels, activations and gradients needs cryptography: pip install 'flps[split]'")
