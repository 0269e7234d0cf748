"""Starts split jobs of Wide & Deep for benchmarks, as `flrun` does for everybody, and reads what the parties said."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import federation
import yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "wide_deep"
NETS = ("leader_bottom", "leader_top", "follower_bottom")
Event = dict[str, Any]
Net = dict[str, Any]
Edit = Callable[[str, Net], None]  # changes a net's yaml: the file's name without its end, and what is in it


def configuration(preset: str, runner: Mapping[str, Any], hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """configs/wide_deep/job.yaml with some keys set otherwise."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "job.yaml").read_text())
    config["preset"] = preset
    config["runner"] |= runner
    config["hyper_parameters"] |= hyper_parameters
    return config


def run(config: dict[str, Any], *flags: str, edit: Edit = lambda name, net: None) -> list[Event]:
    """All events of one run of leader and follower on this machine. Ends the benchmark when it fails.

    edit: gets each net's yaml before the parties read it.
    """
    with tempfile.TemporaryDirectory() as folder:
        nets = Path(folder) / "nets"
        nets.mkdir()
        for net in NETS:
            config["hyper_parameters"][f"{net}_yaml_path"] = str(edited(f"{net}.yaml", nets, edit))
        return federation.run(Path(folder) / "run", config, *flags)


def edited(file: str, folder: Path, edit: Edit) -> Path:
    """A net's yaml in the folder, after the change."""
    net: Net = yaml.safe_load((CONFIGS / file).read_text())
    edit(Path(file).stem, net)
    path = folder / file
    path.write_text(yaml.safe_dump(net, sort_keys=False))
    return path


def of_party(events: list[Event], party: str, kind: str) -> list[Event]:
    """What one party, `leader` or `follower`, said of one kind."""
    return [event for event in events if event["role"] == party and event["event"] == kind]
