"""A party's checkpoints within a run: when they are written, at which steps it can begin, and how it goes back to one.

Law 1: whoever writes checkpoints can go back from the very first step: the untrained nets are written, too.
Law 2: the parties are never more than one checkpoint apart, so two are always kept: one of them all have.
Law 3: what was kept of a step that the parties went back behind is gone: it is of a course that was not taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from flps.party.kept import KeptBack
from flps.split.checkpoint import drop_after, steps_in
from flps.split.model import FLModel

log = logging.getLogger(__name__)
LEAST = 2


class Checkpoints:
    """Those of one party's nets."""

    def __init__(
        self,
        models: Mapping[str, FLModel],
        folder: Path | None,
        earlier: Path | None = None,
        every: int = 0,
        keep: int = LEAST,
        mark: Callable[[str], None] = lambda moment: None,
        kept_back: KeptBack | None = None,
    ) -> None:
        """folder: where they are written; None: none are. earlier: those of a run that this one goes on from. every:
        steps between two; 0: at the end of each epoch only. keep: how many stay. mark: told of `saving`, for each net.
        kept_back: what the party owes the others.
        """
        self._models = list(models.values())
        self._names = [model.ckpt_name for model in self._models]
        self._folder, self._earlier = folder, earlier
        self._every, self._keep = every, max(keep, LEAST)
        self._mark = mark
        self._kept_back = kept_back if kept_back is not None else KeptBack({})

    def steps(self) -> list[int]:
        """Where this party can begin: its checkpoints, and 0 when it has not gone from there and is not to go on."""
        steps = set(self._in(self._folder) or self._in(self._earlier))
        is_new = not any(model.global_step for model in self._models)
        return sorted(steps | ({0} if is_new and self._earlier is None else set()))

    def go_back(self, step: int) -> None:
        """Be at a step that `steps` named; what was under way is dropped."""
        for model in self._models:
            model.drop_step()
        self._kept_back.take_up({})
        folder = self._folder if self._in(self._folder) else self._earlier
        if folder is not None and step in self._in(folder):
            for model in self._models:
                model.load_ckpt("train", folder, step)
                self._kept_back.take_up(model.position.get("kept back", {}))
            log.info("goes on from step %d", step)
        if self._folder is not None:
            for name in self._names:
                drop_after(self._folder, name, step)
            if step == 0 or folder != self._folder:  # from here on the own folder has all
                self._write(dict(self._models[0].position) or {"epoch": 0, "step": 0})

    def keep_if_due(self, epoch: int, number: int, steps: int) -> None:
        """Step `number` of an epoch of `steps` is done."""
        if self._folder is not None and (number == steps or (self._every and number % self._every == 0)):
            self._write({"epoch": epoch, "step": number}, self._mark)

    def _write(self, position: dict[str, int], mark: Callable[[str], None] = lambda moment: None) -> None:
        assert self._folder is not None
        for model in self._models:
            mark("saving")
            model.position = {**position, "kept back": self._kept_back.state()}
            model.save_ckpt(self._folder, self._keep)

    def _in(self, folder: Path | None) -> list[int]:
        return steps_in(folder, self._names) if folder is not None and folder.is_dir() else []
