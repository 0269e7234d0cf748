"""Faults on purpose: what `--faults` says, whom each of its items strikes, and when.

    kill=server:0@step120            a role ends itself by SIGKILL
    stop=worker:1@step50+5s          a role stands still (SIGSTOP) for 5 s
    partition=worker:3@10s..20s      a role's links carry nothing, from its 10th second to its 20th
    drop=5%  duplicate=2%  reorder=2%  delay=50ms  delay=10ms..90ms  rate=100mbit
                                     every link; with `@worker:1` the links of that role, with `@worker:1-server:0` one

WHO is `worker:3` or `worker` (all of them). WHEN is `5s` of the role's life, `step120`, `epoch2`, or the first message
of a phase as the role sees it (`saving`; `saving3`: the third). A span is `WHEN+TIME` or `TIME..TIME`.

Law 1: pure code; time is an argument, and chance a function of (seed, link, number of the message).
Law 2: a fault of a link strikes at one end of it, both ways: at the role that it names, else at the end that dialled.
Law 3: the n-th kill of a role is for its n-th life; stops and partitions are for the first one.
"""

from flps.faults.items import Cut, Strike, Wear, Where, Who
from flps.faults.script import Fate, Lane, Script
from flps.faults.written import Faults

__all__ = ["Cut", "Fate", "Faults", "Lane", "Script", "Strike", "Wear", "Where", "Who"]
