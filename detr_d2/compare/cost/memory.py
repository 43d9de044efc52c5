"""Peak memory of a model, in a process of its own: `python -m detr_d2.compare.cost.memory TASK.json`.

What a process has once held is not given back, and libraries keep what they allocate, so only a fresh one can tell.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ...data import read_image
from ...data.registration import is_panoptic
from ...modeling import build_model
from ...panoptic_classes import PanopticClasses
from ...prediction.predictor import ImagePredictor
from .fresh_process import measured_mb

_MARK = "peak memory in bytes:"


def peak_memory_mb(cfg: CfgNode, file_names: Sequence[str], imports: Sequence[str] = ()) -> float:
    """Runs the model of a config, with random weights, on images one at a time, in a fresh process.

    Memory depends on sizes and not on values, but for the number of detections, which the config limits.

    Args:
        cfg: with its number of classes; of a panoptic model, its data are registered.
        file_names: of the images.
        imports: modules, and .py files, that register parts of the model.

    Returns:
        On a GPU what torch allocated at most, on a CPU the largest resident size of the process, in MB of 10^6 bytes.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    if is_panoptic(cfg):  # the fresh process does not know the data that tell its classes
        classes = PanopticClasses.from_config(cfg)
        keys = cfg.MODEL.DETR.PANOPTIC
        cfg.MODEL.DETR.NUM_CLASSES, keys.NUM_THINGS, keys.LAYOUT = len(classes), classes.num_things, classes.layout
    return measured_mb(__name__, {"config": cfg.dump(), "files": list(file_names), "imports": list(imports)}, _MARK)


def main(argv: Sequence[str]) -> int:
    """Runs the task and prints the peak in bytes."""
    task: dict[str, Any] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    for name in task["imports"]:
        _import(name)
    cfg = CfgNode.load_cfg(task["config"])
    predictor = ImagePredictor(cfg, model=build_model(cfg).eval())
    for file_name in task["files"]:
        predictor(read_image(file_name, "BGR"))
    print(_MARK, _peak(cfg.MODEL.DEVICE))
    return 0


def _import(name: str) -> None:
    """A module, or a file under the name that it has for the process that asks."""
    if name.endswith(".py"):
        sys.path.insert(0, str(Path(name).resolve().parent))
        name = Path(name).stem
    importlib.import_module(name)


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resident_peak()


def resident_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage() would tell of the process that started this one, if it was larger
        line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
