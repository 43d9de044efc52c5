"""Children that do something and live on until they are killed, and processes that train together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from quick_init import draw_less

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


WORLD = 2


def together(work: Callable[[int, Path], Any], folder: Path) -> list[Any]:
    """What `work` returns in each of two processes of one group; it gets the rank and a folder of them all.

    They are forks of a process that has imported what takes long, but has not run anything.
    """
    mp.get_context("forkserver").set_forkserver_preload(["detectron2.engine", "scipy.optimize"])
    mp.start_processes(_member, (work, folder), nprocs=WORLD, start_method="forkserver")
    return [torch.load(folder / f"result-{rank}.pth", weights_only=False) for rank in range(WORLD)]


def _member(rank: int, work: Callable[[int, Path], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    draw_less(pytest.MonkeyPatch())
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    comm.create_local_process_group(WORLD)
    torch.save(work(rank, folder), folder / f"result-{rank}.pth")
    dist.destroy_process_group()
