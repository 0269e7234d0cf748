"""RESULTS.md: one section per benchmark, each replaced when its benchmark runs again.

    update_section("data", "| what | seconds |\\n...")

A section stands between `<!-- title -->` and `<!-- /title -->`, so that benchmarks do not disturb each other.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import platform
import re
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
PREFACE = "# Results\n\nMeasured by the scripts of this folder; each writes its own section.\n"


def machine() -> str:
    """CPU, cores, memory, python and torch, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu_model()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, "
        f"torch {metadata.version('torch')}, numpy {metadata.version('numpy')}"
    )


def cpu_model() -> str:
    """The processor's own name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", told.read_text(), re.MULTILINE) if told.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def update_section(title: str, markdown: str, path: Path = RESULTS) -> None:
    """Replace the section `title`, or add it at the end, with the machine and the date under its heading."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    body = f"## {title}\n\n{today}, {machine()}\n\n{markdown.strip()}\n"
    section = f"<!-- {title} -->\n{body}<!-- /{title} -->\n"
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = placed(file.read() or PREFACE, title, section)
        file.truncate(0)
        file.write(text)


def placed(text: str, title: str, section: str) -> str:
    """The text with this section in the place of its old self."""
    old = re.compile(rf"<!-- {re.escape(title)} -->\n.*?<!-- /{re.escape(title)} -->\n", re.DOTALL)
    if old.search(text):
        return old.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}"
