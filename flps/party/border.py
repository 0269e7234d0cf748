"""What may cross between two parties in a step, beyond its names: refused here with the numbers, before a net sees it.

Law: a tensor that crosses has a row for each row of the batch, or is a single number; its gradient has its form. What
would be wrong is told by who sees it first, in words that mean the same at either end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from flps.compression import NotFinite
from flps.errors import ProtocolError
from flps.split.scale import is_finite

_ONE_JOB = "are the nets and yaml files of all parties of one job?"


def expect_finite(tensors: Mapping[str, Tensor], receiver: str, what: str) -> None:
    """Activations or gradients (`what`) are about to be sent. Raises NotFinite for NaN and infinity."""
    if is_finite(tensors.values()):
        return
    for name, tensor in tensors.items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise NotFinite(
                f"{receiver} was to get the {what} {name} of shape {_shape(tensor)}, but {bad} of its "
                f"{tensor.numel()} numbers are NaN or infinite: lower the learning rate, or look at the rows that went "
                "in"
            )


def expect_rows(tensors: Mapping[str, Tensor], sender: str, rows: int, trained: Iterable[str]) -> None:
    """Activations that `sender` sent, where a batch has so many rows. trained: names of those whose gradient goes back.
    Raises ProtocolError.
    """
    wanted = set(trained)
    for name, tensor in tensors.items():
        if tensor.ndim and len(tensor) != rows:
            raise ProtocolError(
                f"{sender} sent the activation {name} of shape {_shape(tensor)}, expected {rows} rows as the batch of "
                f"the others has: {_ONE_JOB}"
            )
        if name in wanted and not tensor.is_floating_point():
            raise ProtocolError(
                f"{sender} sent the activation {name} as {_type(tensor)}, expected a floating type, since its gradient "
                f"goes back: {_ONE_JOB}"
            )


def expect_forms(gradients: Mapping[str, Tensor], sender: str, sent: Mapping[str, Tensor]) -> None:
    """Gradients that `sender` sent, of what was `sent` to it. Raises ProtocolError."""
    for name, gradient in gradients.items():
        made = sent[name]
        if (gradient.shape, gradient.dtype) != (made.shape, made.dtype):
            raise ProtocolError(
                f"{sender} sent the gradient of {name} as {_type(gradient)} of shape {_shape(gradient)}, expected "
                f"{_type(made)} of shape {_shape(made)}, as {name} had: {_ONE_JOB}"
            )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
