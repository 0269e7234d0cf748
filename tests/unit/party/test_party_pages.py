"""Memory that a step has freed is there for the next one, without page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
from flps.party.pages import keep_freed_pages

keeps = len(sys.argv) > 1
assert not keeps or keep_freed_pages()


def step():
    held = [np.ones(size << 18, np.float32) for size in (24, 3, 2, 24)]
    assert sum(array[-1] for array in held) == 4


step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a matter of glibc")
def test_steps_have_their_memory_already() -> None:
    faults = {}
    for keeps in ("", "keeps"):
        ran = subprocess.run([sys.executable, "-c", STEPS, *([keeps] if keeps else [])], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        faults[keeps] = float(ran.stdout)
    assert faults["keeps"] < 50
    assert faults[""] > 500
