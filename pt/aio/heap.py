"""The C library's heap, for a process whose large buffers come and go all the time.

glibc gives the end of its heap back to the kernel whenever more than 128 KiB of it are free, and
takes it again for the next buffer.  Receiving trains of datagrams, that is a page fault for nearly
every 4 KiB that come, a tenth of all the work; or none, when a small object happens to lie at the
heap's end.
"""

from __future__ import annotations

from functools import cache
from typing import Final

__all__ = ["KEPT", "keep_heap"]

KEPT: Final = 4 << 20
"""Free bytes at the heap's end that are not given back: what a turn of the loop may need."""

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_ALONE: Final = 1 << 20  # buffers so large are not in the heap


@cache
def keep_heap() -> bool:
    """Keep up to `KEPT` free bytes in this process; False: the C library is not glibc."""
    import ctypes  # noqa: PLC0415  # start-up cost

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows has no name for itself
        return False
    # The first call alone would keep the second limit at 128 KiB, where it was only to begin with.
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT) and mallopt(_M_MMAP_THRESHOLD, _ALONE))
