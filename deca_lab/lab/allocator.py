"""The C library's allocator while a run goes on: what a step frees is kept for the next one.

By itself glibc gives large blocks back to the system as soon as they are freed, and has them zeroed and mapped again a moment
later. With a model of 22 million parameters and 8 clients that is a seventh of a run.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from deca_lab.lab.forecast import free_memory

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MMAP_MAX of malloc.h
TRIM, MAPPED_FROM, MAPPED = -1, -3, -4
KEEP = {MAPPED: 0, TRIM: 2**31 - 1}
USUAL = {MAPPED: 65536, TRIM: 2**26, MAPPED_FROM: 2**25}  # where glibc comes to with large blocks
PLENTY = 4  # times what a run holds must be free: blocks that are kept do not fit every later one

RUNNING: list[int] = []  # what each run that goes on in this process holds


@contextmanager
def keeping(held: int) -> Iterator[None]:
    """Keep what is freed, within, for a run whose tensors hold so many bytes, where there is plenty; then give it back.

    Nothing is done under another C library, and where the user has set the allocator up (MALLOC_ variables).
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if platform.libc_ver()[0] != "glibc" or own or free_memory() < PLENTY * held:
        yield
        return
    RUNNING.append(held)
    _set(KEEP)
    try:
        yield
    finally:
        RUNNING.remove(held)
        if not RUNNING:  # another thread may be in the midst of a run
            _set(USUAL)
            ctypes.CDLL(None).malloc_trim(0)


def _set(options: dict[int, int]) -> None:
    for option, value in options.items():
        ctypes.CDLL(None).mallopt(option, value)
