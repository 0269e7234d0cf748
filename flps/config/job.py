"""What the launcher hands to every role of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from flps.config.types import Config

Security = Literal["unix", "curve", "plain", "loopback"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one configuration: who takes part, and where they meet."""

    run_id: str  # random hex, stands in every message
    run_dir: str  # absolute path of log/run-<time>
    config_dir: str  # absolute folder of the yaml; relative paths in it start here
    config: Config
    workers: int
    servers: tuple[str, ...]  # endpoints by rank
    coordinator: str  # endpoint of the membership authority: the coordinator's, or server 0's without one
    coordinators: int  # 0 or 1
    security: Security
    key_dir: str = ""  # CURVE keys, when security is "curve"
    trainer: str = ""  # a user's trainer script, absolute
    resume_from: str = ""  # absolute folder of the checkpoint that this run goes on from, on this host
    checkpoint: str = ""  # its identity, the same on every host
    faults: str = ""  # scripted faults, as `flps.faults.Faults` reads them

    @property
    def models(self) -> Path:
        """Folder of the saved models: inside the run folder, or on storage that all hosts share."""
        return Path(self.run_dir) / self.config.runner.model_save_path

    @property
    def checkpoints(self) -> Path:
        """Folder of this run's checkpoints: inside the run folder, or where the configuration says."""
        return Path(self.run_dir) / self.config.runner.checkpoint_path
