"""`torch.compile` as a contestant of a benchmark: the plain model, its network compiled for one size of images."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable

import torch

from ..modeling import DETR

COMPILED = "ours-compiled"
_DEFAULT_COMPILERS = {"darwin": "clang++", "win32": "cl"}


def why_not_compiled(device: str) -> str | None:
    """What `torch.compile` lacks for a device; None if nothing: on a CPU it needs a C++ compiler."""
    compiler = (os.environ.get("CXX") or _DEFAULT_COMPILERS.get(sys.platform, "g++")).split()[0]
    if device != "cpu" or shutil.which(compiler):
        return None
    return f"torch.compile needs a C++ compiler, and {compiler} is not there: install it, or name another one in CXX"


def compile_network(model: DETR) -> None:
    """Compiles all between normalised images and the head's predictions when it is called; decoding stays as it is."""
    model.predict = torch.compile(model.predict, dynamic=False)  # type: ignore[method-assign]


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call: of the first one, with all that is compiled in it."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
