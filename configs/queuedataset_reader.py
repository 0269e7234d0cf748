"""The pipe command of the quick start: `user,item,label` lines on stdin, MultiSlot text on stdout.

    0,32,1  ->  1 0 1 32 1 1        (three slots, each its count and its value)

flps runs it as `python queuedataset_reader.py <yaml>` once per file; put your own parsing in its place.
"""

from __future__ import annotations

import sys


def slots(line: str) -> str:
    """One sample as MultiSlot text."""
    user, item, label = line.strip().split(",")
    return f"1 {int(user)} 1 {int(item)} 1 {int(label)}\n"


if __name__ == "__main__":
    sys.stdout.writelines(slots(line) for line in sys.stdin if line.strip())
