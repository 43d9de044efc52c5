"""Starting the processes of a run: one here, several spawned, or those that `torchrun` has started.

GPUs talk through NCCL, processes without a GPU through gloo.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)


def launch(
    main: Callable[..., None],
    num_processes: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
) -> None:
    """Runs `main(*args)` in every process of the run.

    Under `torchrun` this process joins the process group that `torchrun` describes, and the numbers given here do not
    count. Otherwise detectron2's `launch` starts `num_processes` processes on this machine, one for each GPU or, where
    there is none, one CPU process each.

    Args:
        main: must be importable by name when processes are spawned.
        num_processes: on this machine.
        num_machines, machine_rank, dist_url: as for `detectron2.engine.launch`; "auto" is for one machine.
        args: arguments of `main`; they are pickled when processes are spawned.

    Raises:
        ValueError: if there are fewer GPUs than processes, or no address for several machines.
    """
    if started_by_torchrun():
        _join_torchrun()
        main(*args)
        leave_process_group()
        return
    if num_machines > 1 and dist_url == "auto":
        raise ValueError(
            f"--num-machines is {num_machines}, so the machines must find each other: give --dist-url tcp://HOST:PORT "
            "of the first one, or start them by torchrun."
        )
    gpus = torch.cuda.device_count()
    if 0 < gpus < num_processes:
        raise ValueError(f"--num-gpus is {num_processes}, but this machine has {gpus} usable GPUs.")
    detectron2_launch(
        _spawned if num_processes * num_machines > 1 else main,
        num_processes,
        num_machines=num_machines,
        machine_rank=machine_rank,
        dist_url=dist_url,
        args=(main, num_processes, args) if num_processes * num_machines > 1 else args,
        timeout=TIMEOUT,
    )


def _spawned(main: Callable[..., None], num_processes: int, args: tuple[Any, ...]) -> None:
    share_cpus(num_processes)
    main(*args)
    leave_process_group()


def started_by_torchrun() -> bool:
    """Whether the environment describes a process group to join."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def world_size(num_processes: int, num_machines: int) -> int:
    """Number of processes that a run has or is going to have."""
    return int(os.environ["WORLD_SIZE"]) if started_by_torchrun() else num_processes * num_machines


def local_world_size(num_processes: int) -> int:
    """Number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started_by_torchrun() else num_processes


def _join_torchrun() -> None:
    """Joins the process group in the environment, and the group of this machine, as detectron2's `launch` does."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), local_world_size(1)
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if local_size > gpus:
            raise ValueError(f"torchrun --nproc_per_node is {local_size}, but this machine has {gpus} usable GPUs.")
        torch.cuda.set_device(local_rank)
    share_cpus(local_size)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        comm.create_local_process_group(local_size)
    comm.synchronize()


def share_cpus(num_processes: int) -> None:
    """Gives this process its share of the CPUs of this machine, unless the user has set OMP_NUM_THREADS."""
    if num_processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // num_processes))


def available_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_process_group() -> None:
    """Waits for the others and destroys the process group, so that no process warns about a leak at its end."""
    if dist.is_initialized():
        comm.synchronize()
        dist.destroy_process_group()
