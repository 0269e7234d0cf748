"""What a run leaves on disk to be taken up again.

    model.py   saved models: the tables after an epoch, and one standalone state dict
"""

from flps.checkpoint.model import (
    EXPORT,
    FORMAT,
    MANIFEST,
    Manifest,
    Tables,
    dense_parameters,
    epochs,
    export,
    read_files,
    read_manifest,
    retract_manifest,
    write_manifest,
)

__all__ = [
    "EXPORT",
    "FORMAT",
    "MANIFEST",
    "Manifest",
    "Tables",
    "dense_parameters",
    "epochs",
    "export",
    "read_files",
    "read_manifest",
    "retract_manifest",
    "write_manifest",
]
