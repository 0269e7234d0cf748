"""What the C library's allocator is told: keep the memory that a step has freed for the next step.

A step of training frees what it has made, megabytes in a piece. By glibc's own thresholds such pieces go back to the
kernel, and the next step gets them anew, with a page fault for each 4 KiB: a fifth of a step, small or full.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 1 << 30
_MOST_OF_OLD = 1 << 25  # what glibc before 2.36 takes for pieces that stay in the heap


def keep_freed_pages() -> bool:
    """For this process: up to 1 GiB of freed memory stays; False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        log.debug("no mallopt here: freed memory goes back as the C library likes")
        return False
    is_heap = any(mallopt(_MMAP_THRESHOLD, most) for most in (_MOST, _MOST_OF_OLD))
    return bool(mallopt(_TRIM_THRESHOLD, _MOST)) and is_heap
