"""What a run leaves on disk to be taken up again.

model.py    saved models: the tables after an epoch, and one standalone state dict
run.py      checkpoints: everything that every role remembers at one moment of a run
record.py   the small files of both
"""

from flps.checkpoint.model import (
    EXPORT,
    FORMAT,
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
from flps.checkpoint.record import MANIFEST

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
