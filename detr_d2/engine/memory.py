"""Memory that was freed, handed back to the system."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any


def trim_memory() -> bool:
    """Hands freed memory of this process's heap back to the system, in milliseconds.

    Tensors of ever new sizes leave holes in the heap that no other tensor fits into; what they hold counts as used
    until it is handed back.

    Returns:
        Whether the C library can do that (glibc); otherwise nothing happens.
    """
    trim = _malloc_trim()
    if trim is None:
        return False
    trim(0)
    return True


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    if os.name != "posix":
        return None
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function.argtypes = [ctypes.c_size_t]
    return function
