"""What of a saved model this worker writes: its private tables, and for all of them the export and the manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flps.checkpoint import FORMAT, Manifest, export, write_manifest
from flps.config.job import Job
from flps.table.files import write_tables
from flps.worker.homes import LocalHome
from flps.worker.parameters import DenseParameter, Placed

log = logging.getLogger(__name__)


def save_private(folder: Path, job: Job, rank: int, local: LocalHome) -> dict[str, str]:
    """Write this client's private tables; returns file -> sha256. Raises ResourceError."""
    name = f"private-{rank}-of-{job.workers}.safetensors"
    return {name: write_tables(folder / name, local.dump(job.config.runner.saves))}


def complete(folder: Path, manifest: Manifest) -> None:
    """Export the shared part, where all of it is at hand, and write the manifest. Raises ResourceError."""
    elsewhere = [name for name in manifest.files if name.startswith("shared-") and not (folder / name).exists()]
    if elsewhere:
        log.warning(
            "%s lie on their servers' hosts: bring them into %s, or name a model_save_path that all hosts share",
            ", ".join(elsewhere),
            folder,
        )
    else:
        manifest = msgspec.structs.replace(manifest, files={**manifest.files, **export(folder, manifest)})
    write_manifest(folder, manifest)


def manifest_of(
    job: Job, placed: Sequence[Placed], epoch: int, files: dict[str, str], clients: Sequence[int]
) -> Manifest:
    """The manifest of the model after `epoch` epochs. `files`: name -> sha256; `clients`: ranks of those that saved."""
    config = job.config
    dense = [p.parameter for p in placed if isinstance(p.parameter, DenseParameter)]
    return Manifest(
        format=FORMAT,
        epoch=epoch,
        model=config.model,
        hyper_parameters=config.hyper_parameters,
        tables=tuple(p.parameter.spec for p in placed),
        dense={p.spec.name: {n: list(s) for n, s in zip(p.pack.names, p.pack.shapes, strict=True)} for p in dense},
        files=files,
        workers=job.workers,
        clients=tuple(clients),
        save_mode=config.runner.saves,
    )
