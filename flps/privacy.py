"""What is private, as a type.

Law 1: whatever a private table hands out is a `PrivateArray`, and so is what NumPy computes from one: views, copies,
sums, joined and picked arrays. Writing such a result into a plain array (`out=`) is refused.
Law 2: the message encoder refuses the type, and any view of one's memory, by the table's name.
Law 3: only the owner's own process unwraps it, by `reveal`, for computing and for its own disk. A plain copy made by
hand (`np.array(rows)`, `plain[:] = rows`) is an unwrapping too, and has no place outside this file's callers.
"""

from __future__ import annotations

from collections.abc import ValuesView
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.errors import PrivacyError


class PrivateArray(np.ndarray):
    """An array that must not leave its owner; `owner` names the table that it came from."""

    owner: str

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", "unknown")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        owner = owner_of(inputs) or self.owner
        into = options.get("out", ())
        if any(not isinstance(array, PrivateArray) for array in into if array is not None):
            raise PrivacyError(f"table {owner!r} is private: its rows may not be written into a plain array")
        if into:
            options["out"] = tuple(map(_reveal_one, into))
        result = getattr(ufunc, method)(*map(_reveal_one, inputs), **options)
        if method == "at":
            return None
        return into[0] if into and len(into) == 1 else _conceal_all(result, owner)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return _conceal_all(result, owner_of((args, kwargs)) or self.owner)


def conceal(array: NDArray[Any], owner: str) -> PrivateArray:
    """A view of `array` that is marked as belonging to the private table `owner`."""
    private = array.view(PrivateArray)
    private.owner = owner
    return private.view()  # a view of a view: NumPy lets plain views of it keep a private one as their base (law 2)


def reveal(array: NDArray[Any]) -> NDArray[Any]:
    """The plain array, for computing and for the owner's own disk."""
    return array.view(np.ndarray)


def owner_of(value: Any) -> str | None:
    """The owner of the private memory that an array shows, or of the first such array in a nest of them."""
    if isinstance(value, np.ndarray):
        while value is not None and not isinstance(value, PrivateArray):
            value = value.base if isinstance(value, np.ndarray) else None
        return None if value is None else str(value.owner)
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, list | tuple | ValuesView):
        return next(filter(None, map(owner_of, value)), None)
    return None


def _reveal_one(value: Any) -> Any:
    return reveal(value) if isinstance(value, PrivateArray) else value


def _conceal_all(result: Any, owner: str) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(_conceal_all(part, owner) for part in result) if type(result) in (tuple, list) else result
    return conceal(result, owner) if isinstance(result, np.ndarray) and not isinstance(result, PrivateArray) else result
