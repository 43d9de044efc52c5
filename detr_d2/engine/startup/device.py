"""The device of a run: what the config asks for, if it is there."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def choose_device(cfg: CfgNode) -> None:
    """Falls back to the CPU, with one line saying so, where the config wants a GPU and there is none.

    Raises:
        ValueError: the device is another that is not there.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info(f"No GPU is usable here, so MODEL.DEVICE is cpu instead of {cfg.MODEL.DEVICE}.")
        cfg.MODEL.DEVICE = "cpu"
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        problem = "there is no GPU of that number" if (device.index or 0) >= torch.cuda.device_count() else ""
    else:
        problem = _problem_of(device)
    if problem:
        raise ValueError(f"MODEL.DEVICE is {device}, which cannot be used here ({problem}): set it to cpu.")


def _problem_of(device: torch.device) -> str:
    """Why there can be no tensor on a device; "" if there can."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return ""
