"""One run of a net: from batches to named inputs, through the net, to named outputs.

Law: inputs are detached from whatever made them. A net's graph is its own, it ends at the net's inputs and parameters.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from flps.errors import ConfigError, FlpsError, ProtocolError

log = logging.getLogger(__name__)
Batch: TypeAlias = Mapping[str, Any]  # input -> Tensor or NumPy array
Tensors: TypeAlias = "OrderedDict[str, Tensor]"


@dataclass
class Forward:
    """A run whose graph is kept."""

    inputs: Tensors  # by name, in the yaml's order
    leaves: dict[str, Tensor]  # those of the inputs that may be asked for their gradient
    outputs: Tensors  # with their graph
    has_graph: bool  # whether it ran with gradients
    taken: Tensors = field(default_factory=OrderedDict)  # the inputs before labels were noised


class WithLoss(nn.Module):
    """A net and its loss as one: the last input is the label, the loss is the only output."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, *inputs: Tensor) -> Tensor:
        """loss(network(every input but the last), the last)."""
        return self.loss(self.network(*inputs[:-1]), inputs[-1])


class Intake:
    """Picks a net's inputs out of the batches: the party's own, and what came from another net."""

    def __init__(self, net: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """entries: the yaml's `inputs`."""
        self._net = net
        self._sources = {str(entry["name"]): str(entry.get("source", "local")) for entry in entries}
        self._forms: dict[str, tuple[int, torch.dtype]] = {}  # of what came from elsewhere: dimensions, type

    def take(self, local: Batch | None, remote: Batch | None, device: torch.device) -> Tensors:
        """The inputs in the yaml's order; what came from elsewhere wins. Raises ConfigError, ProtocolError."""
        local, remote = local or {}, remote or {}
        inputs: Tensors = OrderedDict()
        for name in self._sources:
            if name in remote:
                inputs[name] = self._expected(name, as_tensor(self._net, name, remote[name]))
            elif name in local:
                inputs[name] = as_tensor(self._net, name, local[name])
            else:
                raise self._missing(name, local, remote)
        return OrderedDict((name, tensor.to(device)) for name, tensor in inputs.items())

    def _expected(self, name: str, tensor: Tensor) -> Tensor:
        """Refuse what has changed its form on the way: broadcasting would hide it."""
        form = (tensor.dim(), tensor.dtype)
        before = self._forms.setdefault(name, form)
        if form != before:
            raise ProtocolError(
                f"{self._net}: input {name!r} came as {form[0]} dimensions of {form[1]} (shape {tuple(tensor.shape)}), "
                f"so far as {before[0]} of {before[1]}"
            )
        return tensor

    def _missing(self, name: str, local: Batch, remote: Batch) -> FlpsError:
        source = self._sources[name]
        message = (
            f"FLModel: {self._net}: missing input data {name!r} (source: {source}); "
            f"the local batch has {_listed(local)}, from elsewhere came {_listed(remote)}"
        )
        return ProtocolError(message) if source == "remote" and remote else ConfigError(message)


def as_tensor(net: str, name: str, value: object) -> Tensor:
    """A tensor of what a batch holds under a name, without its graph. Raises ConfigError."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if not isinstance(value, Tensor):
        raise ConfigError(f"{net}: {name!r} is a {type(value).__name__}, expected a tensor or a NumPy array")
    return value.detach()


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or hold the same; NaN where the other has NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    other = other.to(one.device)
    return torch.equal(one, other) or (
        can_have_gradient(one)
        and torch.equal(one.nan_to_num(), other.nan_to_num())
        and torch.equal(one.isnan(), other.isnan())
    )


def run(
    net: str, network: nn.Module, inputs: Tensors, leaves: Iterable[str], names: Sequence[str], place: str
) -> Forward:
    """One forward.

    leaves: inputs that may be asked for their gradient; those of an integer type have none. names: of the outputs;
    place: file and line where they stand. Raises ConfigError when the net gives another number of outputs, FlpsError
    when it fails; ProtocolError when a tensor from elsewhere was among its inputs.
    """
    made = {name: inputs[name].detach().requires_grad_() for name in leaves if can_have_gradient(inputs[name])}
    if not torch.is_grad_enabled():
        made = {}
    try:
        answer = network(*(made.get(name, tensor) for name, tensor in inputs.items()))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        said = ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items())
        log.error("%s: %s", net, error)  # it may name values, and an FlpsError is told to the other parties
        raise FlpsError(f"{net}: the net failed on its inputs {said}; the log of this party says how") from error
    outputs = named(net, answer, names, place)
    return Forward(inputs, made, outputs, torch.is_grad_enabled())


def named(net: str, answer: object, names: Sequence[str], place: str) -> Tensors:
    """What a net answered, by the yaml's names of its outputs; a net with one output may answer the bare tensor."""
    if isinstance(answer, Mapping):
        answer = tuple(answer.values())
    given = tuple(answer) if isinstance(answer, tuple | list) else (answer,)
    if len(given) != len(names):
        raise ConfigError(f"{place}: {net} has {len(given)} outputs, its yaml names {len(names)}: {', '.join(names)}")
    for name, tensor in zip(names, given, strict=True):
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{place}: output {name!r} of {net} is a {type(tensor).__name__}, expected a tensor")
    return OrderedDict(zip(names, given, strict=True))


def can_have_gradient(tensor: Tensor) -> bool:
    """Whether numbers of its type can be differentiated."""
    return tensor.is_floating_point() or tensor.is_complex()


def _listed(batch: Batch) -> str:
    return ", ".join(map(repr, batch)) or "nothing"
