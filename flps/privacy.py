"""What is private, as a type.

Law: whatever a private table hands out is a `PrivateArray`, and so is every view, copy and arithmetic result of one;
the message encoder refuses the type by the table's name. Only the owner's own process unwraps it (`reveal`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class PrivateArray(np.ndarray):
    """An array that must not leave its owner; `owner` names the table that it came from."""

    owner: str

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", "unknown")


def conceal(array: NDArray[Any], owner: str) -> PrivateArray:
    """A view of `array` that is marked as belonging to the private table `owner`."""
    private = array.view(PrivateArray)
    private.owner = owner
    return private


def reveal(array: NDArray[Any]) -> NDArray[Any]:
    """The plain array, for computing and for the owner's own disk."""
    return array.view(np.ndarray)
