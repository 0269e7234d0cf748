"""What the launcher hands to every role of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from flps.config.tls import TlsFiles
from flps.config.types import Config, Network

Security = Literal["unix", "curve", "plain", "loopback", "tls"]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What two members of one run must know to talk to each other, whatever kind of job it is."""

    run_id: str  # stands in every message
    security: Security
    network: Network  # deadlines and limits
    seats: dict[str, int]  # role -> how many members of it the run has
    key_dir: str = ""  # CURVE keys, when security is "curve"
    checkpoint: str = ""  # identity of the checkpoint that this run goes on from
    faults: str = ""  # scripted faults, as `flps.faults.Faults` reads them
    run_dir: str = ""  # where faults are told; needed when there are any
    seed: int = 0  # of the faults' chance
    geo_step: int = 1  # steps of a window, by which faults count steps in geo
    tls: TlsFiles | None = None  # certificates for tls:// endpoints
    config_dir: str = ""  # relative paths of certificates start here


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one configuration: who takes part, and where they meet."""

    run_id: str  # random hex, stands in every message
    run_dir: str  # absolute path of log/run-<time>
    config_dir: str  # absolute folder of the yaml; relative paths in it start here
    config: Config
    workers: int  # of both parties, in a vertical job
    servers: tuple[str, ...]  # endpoints by rank
    coordinator: str  # endpoint of the membership authority: the coordinator's, or server 0's without one
    coordinators: int  # 0 or 1
    security: Security
    key_dir: str = ""  # CURVE keys, when security is "curve"
    tls: TlsFiles | None = None  # certificates, when there are tls:// endpoints
    pairs: tuple[str, ...] = ()  # vertical: endpoint at which each heter_worker meets its worker
    trainer: str = ""  # a user's trainer script, absolute
    resume_from: str = ""  # absolute folder of the checkpoint that this run goes on from, on this host
    checkpoint: str = ""  # its identity, the same on every host
    faults: str = ""  # scripted faults, as `flps.faults.Faults` reads them

    @property
    def terms(self) -> Terms:
        """What the members of this run must know to talk to each other."""
        return Terms(
            run_id=self.run_id,
            security=self.security,
            network=self.config.network,
            seats={"worker": self.workers, "server": len(self.servers), "coordinator": self.coordinators},
            key_dir=self.key_dir,
            checkpoint=self.checkpoint,
            faults=self.faults,
            run_dir=self.run_dir,
            seed=self.config.seed,
            geo_step=self.config.runner.geo_step,
            tls=self.tls,
            config_dir=self.config_dir,
        )

    def of_pair(self, pair: int) -> Terms:
        """What the two workers of a pair must know to talk to each other; who has the labels is the leader."""
        seats = {"leader": 1, "follower": 1}
        return msgspec.structs.replace(
            self.terms, run_id=f"{self.run_id}-{pair}", seats=seats, checkpoint="", faults=""
        )

    def seat(self, role: str, rank: int) -> int:
        """The rank as which servers and coordinator know a worker: those with labels follow the others."""
        return rank + len(self.pairs) if role == "heter_worker" else rank

    @property
    def models(self) -> Path:
        """Folder of the saved models: inside the run folder, or on storage that all hosts share."""
        return Path(self.run_dir) / self.config.runner.model_save_path

    @property
    def checkpoints(self) -> Path:
        """Folder of this run's checkpoints: inside the run folder, or where the configuration says."""
        return Path(self.run_dir) / self.config.runner.checkpoint_path
