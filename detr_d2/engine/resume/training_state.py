"""What a checkpoint needs beside weights and optimizer so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import logging
import random
import struct
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)

Groups = list[dict[str, Any]]

IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")  # flags of PyTorch's optimizers

_MERSENNE_WORDS = 624  # words of 32 bits, in python's and in numpy's generator
_HEADER = struct.Struct("<I?d I?d")  # python: position, has gauss, gauss; numpy: position, has gauss, gauss


def get_random_state() -> bytes:
    """Captures the generators of `random`, `numpy.random` and torch's on the CPU: small, and only data."""
    _, (*python_words, python_position), gauss = random.getstate()
    _, numpy_words, numpy_position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    header = _HEADER.pack(python_position, gauss is not None, gauss or 0.0, numpy_position, bool(has_gauss), cached)
    words = np.asarray(python_words, dtype=np.uint32).tobytes() + np.asarray(numpy_words, dtype=np.uint32).tobytes()
    return header + words + torch.get_rng_state().numpy().tobytes()


def set_random_state(state: bytes) -> None:
    """Restores what `get_random_state` captured."""
    python_position, has_python_gauss, python_gauss, numpy_position, has_gauss, cached = _HEADER.unpack_from(state)
    words = np.frombuffer(state, dtype=np.uint32, count=2 * _MERSENNE_WORDS, offset=_HEADER.size)
    python_words, numpy_words = words[:_MERSENNE_WORDS], words[_MERSENNE_WORDS:]
    random.setstate((3, (*python_words.tolist(), python_position), python_gauss if has_python_gauss else None))
    np.random.set_state(("MT19937", numpy_words, numpy_position, int(has_gauss), cached))  # noqa: NPY002
    torch.set_rng_state(bytes_to_tensor(state[_HEADER.size + words.nbytes :]))


def bytes_to_tensor(data: bytes) -> Tensor:
    """(N,) uint8: how bytes are kept in a checkpoint."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def tensor_to_bytes(data: Tensor) -> bytes:
    """Inverse of `bytes_to_tensor`."""
    return data.numpy().tobytes()


def collect_process_states(before_loader: bytes, data_loader: Any) -> list[dict[str, Any]]:
    """Gathers the state of every process in the main one, by rank; all processes must call it.

    Args:
        before_loader: random state from which this process's loader was built.
        data_loader: its position is kept if it has `state_dict`.

    Returns:
        One state per process in the main process, an empty list in the others.
    """
    state = {
        "before_loader": bytes_to_tensor(before_loader),
        "random": bytes_to_tensor(get_random_state()),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "loader": data_loader.state_dict() if hasattr(data_loader, "state_dict") else None,
    }
    return comm.gather(state)


def process_state(states: list[dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """The state that this process continues from, and whether it was saved by a run with as many processes.

    Otherwise the images that all have consumed are shared out evenly, and every process keeps its own random state.
    """
    if len(states) == comm.get_world_size():
        return states[comm.get_rank()], True
    positions = [state["loader"] for state in states]
    images = sum(x["images"] for x in positions) if all(positions) else 0
    position = {"images": images // comm.get_world_size()}
    return {**states[0], "random": bytes_to_tensor(get_random_state()), "cuda": None, "loader": position}, False


def restore_before_loader(state: dict[str, Any]) -> None:
    """Goes back to the random state from which the loader, and with it the seed of its sampler, was made."""
    set_random_state(tensor_to_bytes(state["before_loader"]))


def restore_random_state(state: dict[str, Any]) -> None:
    """Goes to the random state that the next step starts from."""
    set_random_state(tensor_to_bytes(state["random"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def solver_settings(cfg: CfgNode) -> dict[str, str]:
    """All keys of `cfg.SOLVER` as text."""

    def flatten(node: CfgNode, prefix: str) -> dict[str, str]:
        flat: dict[str, str] = {}
        for key, value in node.items():
            name = f"{prefix}.{key}"
            flat.update(flatten(value, name) if isinstance(value, CfgNode) else {name: str(value)})
        return flat

    return flatten(cfg.SOLVER, "SOLVER")


def check_same_optimizer(saved: dict[str, str] | None, cfg: CfgNode) -> None:
    """Raises ValueError if a checkpoint's optimizer state is of another kind of optimizer."""
    optimizer = (saved or {}).get("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER)
    if optimizer != cfg.SOLVER.OPTIMIZER:
        raise ValueError(
            f"the checkpoint to resume was trained with SOLVER.OPTIMIZER {optimizer}, the config says "
            f"{cfg.SOLVER.OPTIMIZER}: resume with the former, or start a new run with the checkpoint as MODEL.WEIGHTS."
        )


def next_iteration(finished: int, max_iter: int, path: str) -> int:
    """The iteration after the one that a checkpoint was written in.

    Raises:
        ValueError: the run was to end before it.
    """
    if finished >= max_iter:
        raise ValueError(
            f"{path} has been trained for {finished + 1} iterations, more than SOLVER.MAX_ITER {max_iter}: raise "
            "SOLVER.MAX_ITER, or evaluate it with --eval-only and MODEL.WEIGHTS."
        )
    return finished + 1


def hyperparameters(optimizer: Optimizer) -> Groups:
    """Everything but the parameters, group by group."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def apply_config(optimizer: Optimizer, scheduler: LRScheduler, groups: Groups, iteration: int) -> None:
    """Gives an optimizer loaded from a checkpoint the hyper-parameters of the config, and the learning rate of now.

    How steps are computed (`IMPLEMENTATION`) is always as the optimizer was built, for this machine and these settings.

    Args:
        optimizer: loaded.
        scheduler: a `LRMultiplier`; others keep the state of the checkpoint.
        groups: `hyperparameters` of the optimizer before it was loaded, when the schedule stood at its start.
        iteration: that comes next.
    """
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group.update({key: fresh[key] for key in IMPLEMENTATION if key in fresh})
        _place_steps(optimizer, group)
    if not isinstance(scheduler, LRMultiplier):
        return
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group.update(fresh)
    scheduler.base_lrs = [group["initial_lr"] for group in groups]
    scheduler.last_epoch = iteration
    for group, lr in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = lr


def _place_steps(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Puts the counts of steps where the implementation needs them; PyTorch puts them where the saved one did."""
    on_device = any(group.get(key) for key in ("fused", "capturable"))
    for parameter in group["params"]:
        step = optimizer.state.get(parameter, {}).get("step")
        if isinstance(step, torch.Tensor):
            optimizer.state[parameter]["step"] = step.to(parameter.device if on_device else "cpu")


def log_resume(saved: dict[str, str] | None, cfg: CfgNode, iteration: int, optimizer: Optimizer) -> None:
    """Says in one line which settings of the solver differ from the checkpoint's, in another if nothing is left to do.

    Args:
        saved: `solver_settings` in the checkpoint; None in one that detectron2 has written.
        cfg: of the resumed run.
        iteration: that comes next.
        optimizer: with the learning rate of that iteration.
    """
    now = solver_settings(cfg)
    changes = [
        f"{key} is {now[key]}, {x} in the checkpoint" for key, x in (saved or {}).items() if now.get(key, x) != x
    ]
    what = "; ".join(changes) if saved is not None else "The checkpoint does not tell its learning rate and schedule"
    if what:
        lr = max(group["lr"] for group in optimizer.param_groups)
        logger.info(f"{what}: the config wins from iteration {iteration} on (learning rate {lr:g}).")
    if iteration >= cfg.SOLVER.MAX_ITER:
        logger.info(f"Nothing is left to train: iteration {iteration} of SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}.")
