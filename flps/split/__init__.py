"""Training one model over parties that hold different columns of the same rows.

schema, terms          a party's yaml, every complaint at once, and what the parties must agree on
yaml_types, yaml_check what may stand in it
model                  FLModel: one net of one party, stepped forward and back
forward, gradients     one forward and one backward of it, whatever its optimizers ask for
step, updates          what is asked of a step, and who moves which parameters by it
optimizers             by name; FTRL and AdamWeightDecay
scale                  loss scale, static and dynamic; a step that overflows is skipped
guard, privacy         labels, activations and gradients before somebody else sees them
compress               how tensors are packed for other parties
checkpoint             a net, its optimizers and random streams on the disk
course                 what a party does in a step, from what all nets take and give

communicator           a party's links to the others: send, receive, agree
exchange, links, wires each message once, in order, over a socket or within one process
agreement, parties     do the parties fit together, from which step do they go on; who is who
tensors, codec         tensors as messages, packed or plain

What a user's loop takes is here, too: `from flps.split import FLModel, FLYamlData, VerticalFederatedCommunicator,
ServerConfig, SSLConfig, CompressConfig`. It is looked up when it is asked for, since the launcher reads yaml files
without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flps.compression import CompressConfig
    from flps.split.communicator import VerticalFederatedCommunicator
    from flps.split.model import FLModel
    from flps.split.parties import ServerConfig, SSLConfig
    from flps.split.schema import FLYamlData

__all__ = ["CompressConfig", "FLModel", "FLYamlData", "SSLConfig", "ServerConfig", "VerticalFederatedCommunicator"]
_HOMES = {
    "CompressConfig": "flps.compression",
    "FLModel": "flps.split.model",
    "FLYamlData": "flps.split.schema",
    "SSLConfig": "flps.split.parties",
    "ServerConfig": "flps.split.parties",
    "VerticalFederatedCommunicator": "flps.split.communicator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
