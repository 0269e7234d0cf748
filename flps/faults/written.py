"""Faults as a whole: the flag's text, and the same written by a test as calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flps.errors import ConfigError
from flps.faults.items import Cut, Item, Strike, Wear, Who, number_text, read, time_text

# What a role cannot see: no message of it passes there.
UNSEEN = {
    "coordinator": ("pulling", "pushing", "step"), "server": ("training",), "worker": (),
    "leader": ("training",), "follower": ("training",),
}  # fmt: skip


@dataclass(frozen=True)
class Faults:
    """A list of faults; its text is the flag's: `Faults.parse(str(faults)) == faults`."""

    items: tuple[Item, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Faults:
        """What `--faults` says. Raises ConfigError that names the piece and the grammar."""
        return cls(tuple(read(piece.strip()) for piece in text.split(";") if piece.strip()))

    def __str__(self) -> str:
        return "; ".join(map(str, self.items))

    # --- for tests: one method per kind, each returns a longer list --------------------------------------------------

    def kill(
        self,
        role: str,
        rank: int | None = None,
        *,
        at_step: int = 0,
        at_epoch: int = -1,
        after_s: float = 0,
        at: str = "",
    ) -> Faults:
        """SIGKILL at a step, an epoch, after some seconds, or `at` a phase ("saving", "saving3")."""
        return self._and(f"kill={Who(role, rank)}@{_when_text(at_step, at_epoch, after_s, at)}")

    def stop(
        self,
        role: str,
        rank: int | None = None,
        *,
        for_s: float,
        at_step: int = 0,
        at_epoch: int = -1,
        after_s: float = 0,
        at: str = "",
    ) -> Faults:
        """SIGSTOP for `for_s` seconds; when: as in `kill`."""
        return self._and(f"stop={Who(role, rank)}@{_when_text(at_step, at_epoch, after_s, at)}+{time_text(for_s)}")

    def partition(
        self,
        role: str,
        rank: int | None = None,
        *,
        to: str = "",
        from_s: float = 0,
        until_s: float = 0,
        at: str = "",
        for_s: float = 0,
    ) -> Faults:
        """Cut the links of a role (`to`: only those to that other one) from second `from_s` to `until_s` of its life,
        or from the first message of phase `at` for `for_s` seconds.
        """
        where = f"{Who(role, rank)}" + (f"-{to}" if to else "")
        span = f"{at}+{time_text(for_s)}" if at else f"{time_text(from_s)}..{time_text(until_s)}"
        return self._and(f"partition={where}@{span}")

    def drop(self, percent: float, on: str = "") -> Faults:
        """Lose messages by chance. `on`: a role or a link, as in the flag."""
        return self._and(_on(f"drop={number_text(percent)}%", on))

    def duplicate(self, percent: float, on: str = "") -> Faults:
        """Send messages twice by chance."""
        return self._and(_on(f"duplicate={number_text(percent)}%", on))

    def reorder(self, percent: float, on: str = "") -> Faults:
        """Let messages be overtaken by chance."""
        return self._and(_on(f"reorder={number_text(percent)}%", on))

    def delay(self, ms: float, up_to_ms: float = 0, on: str = "") -> Faults:
        """Hold every message for `ms`, or for a time drawn from ms..up_to_ms."""
        upper = f"..{time_text(up_to_ms / 1000)}" if up_to_ms else ""
        return self._and(_on(f"delay={time_text(ms / 1000)}{upper}", on))

    def rate(self, mbit: float, on: str = "") -> Faults:
        """Let each link carry so many Mbit/s each way."""
        return self._and(_on(f"rate={number_text(mbit)}mbit", on))

    def _and(self, piece: str) -> Faults:
        return Faults((*self.items, read(piece)))

    # --- for the launcher --------------------------------------------------------------------------------------------

    def check(self, counts: dict[str, int], in_process: bool) -> None:
        """Raises ConfigError for roles that the job does not have, moments that a role does not see, and kills or stops
        of threads. `counts`: role -> how many the job has.
        """
        for item in self.items:
            whole = (item.who,) if isinstance(item, Strike) else tuple(item.where)
            for who in filter(None, whole):
                count = counts.get(who.role, 0)
                if (who.rank or 0) >= count:
                    raise ConfigError(f"--faults {item}: there is no {who}, the job has {count} of them")
            if isinstance(item, Strike) and in_process:
                raise ConfigError(
                    f"--faults {item}: with --in_process all roles are threads of one process, so a {item.kind} would "
                    "strike them all; leave --in_process out"
                )
            hosts = counts.get("coordinator") == 0  # server 0 sees what a coordinator sees
            if not isinstance(item, Wear) and not (hosts and whole[0] in (Who("server"), Who("server", 0))):
                self._check_seen(item, whole)

    @staticmethod
    def _check_seen(item: Strike | Cut, whole: Sequence[Who | None]) -> None:
        seers = [who.role for who in whole if who is not None]
        unseen = [role for role in seers if item.when.kind in UNSEEN[role]]
        if len(unseen) == len(seers):
            raise ConfigError(f"--faults {item}: a {unseen[0]} does not see {item.when.kind}, choose another moment")


def _when_text(at_step: int, at_epoch: int, after_s: float, at: str) -> str:
    said = [f"step{at_step}"] * bool(at_step) + [f"epoch{at_epoch}"] * (at_epoch >= 0)
    said += [time_text(after_s)] * bool(after_s) + [at] * bool(at)
    if len(said) != 1:
        raise ConfigError(f"a fault wants one of at_step, at_epoch, after_s and at, got {' and '.join(said) or 'none'}")
    return said[0]


def _on(piece: str, where: str) -> str:
    return f"{piece}@{where}" if where else piece
