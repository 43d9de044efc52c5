"""Children that do something and live on until they are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detr_d2.files.folder_lock import hold_folder


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """A child that does something and then waits to be killed; the block begins when it has."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x"
        yield child
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


_kept: list[object] = []


def hold_for_ever(folder: Path) -> None:
    _kept.append(hold_folder(folder))
    _kept[-1].__enter__()  # type: ignore[attr-defined]
