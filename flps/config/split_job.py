"""What the launcher hands to every party of one split run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flps.config.job import Job, Security, Terms
from flps.config.split import Follower, Leader, SplitConfig
from flps.config.tls import TlsFiles

SCORES = "predictions.csv"  # in the run folder
ALIGNED = "aligned"  # inside the run folder


class SplitJob(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one split job: who takes part, and where they meet."""

    run_id: str  # stands in every message
    run_dir: str  # absolute path of log/run-<time>, on this host
    config_dir: str  # absolute folder of the yaml
    config: SplitConfig  # files and folders of the parties that start on this host are absolute
    leader: str  # endpoint at which the leader listens and followers dial
    security: Security
    key_dir: str = ""  # CURVE keys, when security is "curve"
    tls: dict[str, TlsFiles] = {}  # party -> its certificates, when security is "tls" and it starts on this host
    resume_from: str = ""  # absolute folder of an earlier run's checkpoints, on this host
    faults: str = ""  # scripted faults, as `flps.faults.Faults` reads them

    def terms(self, role: str, rank: int) -> Terms:
        """What a party must know to talk to the others."""
        return Terms(
            run_id=self.run_id,
            security=self.security,
            network=self.config.network,
            seats={"leader": 1, "follower": self.followers},
            key_dir=self.key_dir,
            tls=self.tls.get(self.config.name(role, rank)),
            faults=self.faults,
            run_dir=self.run_dir,
            seed=self.config.chance,
            config_dir=self.config_dir,
        )

    @property
    def followers(self) -> int:
        """How many there are."""
        return len(self.config.parties.followers)

    @property
    def names(self) -> tuple[str, ...]:
        """What the parties are called: the leader, then the followers by rank."""
        return ("leader", *(follower.name for follower in self.config.parties.followers))

    @property
    def local_log(self) -> str:
        """What a single process that trains also writes, in the working folder, by the original's name; "": nothing."""
        if self.config.runner.task != "train":
            return ""
        return f"log_local_{str(self.config.hyper_parameters.get('device_target', 'cpu')).lower()}.txt"

    def party(self, role: str, rank: int) -> Leader | Follower:
        """What the configuration says of a party."""
        return self.config.party(role, rank)

    def checkpoints(self, role: str, rank: int) -> Path:
        """Folder of a party's checkpoints in this run; parties of one machine do not share one."""
        return Path(self.run_dir) / self.config.runner.checkpoint_path / self.config.name(role, rank)

    def earlier_checkpoints(self, role: str, rank: int) -> Path | None:
        """Folder of a party's checkpoints in the run that this one goes on from; None: it begins anew."""
        return Path(self.resume_from) / self.config.name(role, rank) if self.resume_from else None

    def aligned(self, role: str, rank: int) -> Path:
        """Folder of the rows that a party has brought into the order of all."""
        return Path(self.run_dir) / ALIGNED / self.config.name(role, rank)

    def earlier_aligned(self, role: str, rank: int) -> Path | None:
        """The same of the run that this one goes on from, or whose nets it looks at; None: it begins anew."""
        run = self.resume_from or (self.config.runner.trained_models if self.config.runner.task != "train" else "")
        return Path(run).parent / ALIGNED / self.config.name(role, rank) if run else None

    def models(self, role: str, rank: int) -> Path:
        """Folder of a party's trained nets."""
        return Path(self.run_dir) / self.config.runner.model_save_path / self.config.name(role, rank)


class _Kind(msgspec.Struct):
    job: str


class _OfKind(msgspec.Struct):
    config: _Kind


def read_job(text: bytes) -> Job | SplitJob:
    """A job of either kind from its json. Raises msgspec.MsgspecError for anything else."""
    kind = msgspec.json.decode(text, type=_OfKind).config.job
    return msgspec.json.decode(text, type=SplitJob) if kind == "split" else msgspec.json.decode(text, type=Job)
