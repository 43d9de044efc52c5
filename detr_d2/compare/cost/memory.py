"""What one image adds to the memory of a model, in a process of its own: `python -m detr_d2.compare.cost.memory TASK`.

What a process has once held is not given back, so only a fresh one can tell. Model and libraries are there before: the
work is done once on a small image, and only what comes on top of that is counted.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ...checkpoint import read_checkpoint
from ...data import read_image
from ...data.registration import is_panoptic
from ...engine.memory import trim_memory
from ...modeling import build_model
from ...panoptic_classes import PanopticClasses
from ...prediction.predictor import ImagePredictor
from .fresh_process import measured_mb

_MARK = "memory that the image adds, in bytes:"
_SMALL = 64
_STEPS = 2


def weights_memory_mb(model: nn.Module) -> float:
    """Size of parameters and buffers, in MB of 10^6 bytes."""
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers())) / 1e6


def image_memory_mb(model: nn.Module, cfg: CfgNode, file_name: str, imports: Sequence[str] = ()) -> float:
    """Runs a copy of the model on one image in a fresh process.

    Args:
        model: that the config builds, whose weights are used.
        cfg: with its number of classes; of a panoptic model, its data are registered.
        file_name: of the image.
        imports: modules, and .py files, that register parts of the model.

    Returns:
        What `measure_added` measures, in MB of 10^6 bytes.

    Raises:
        OSError: there is no room for a copy of the weights.
        RuntimeError: the process failed; the message is its last line.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    if is_panoptic(cfg):  # the fresh process does not know the data that tell its classes
        classes = PanopticClasses.from_config(cfg)
        keys = cfg.MODEL.DETR.PANOPTIC
        cfg.MODEL.DETR.NUM_CLASSES, keys.NUM_THINGS, keys.LAYOUT = len(classes), classes.num_things, classes.layout
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pth")
        torch.save(model.state_dict(), weights)
        task = {
            "config": cfg.dump(),
            "weights": str(weights),
            "image": file_name,
            "imports": list(imports),
            "threads": torch.get_num_threads(),
        }
        return measured_mb(__name__, task, _MARK)


def main(argv: Sequence[str]) -> int:
    """Runs the task and prints the bytes."""
    task: dict[str, Any] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    for name in task["imports"]:
        _import(name)
    cfg = CfgNode.load_cfg(task["config"])
    model = build_model(cfg)
    model.load_state_dict(read_checkpoint(task["weights"]))
    predictor = ImagePredictor(cfg, model=model)
    image = predictor.inputs(read_image(task["image"], "BGR"))
    corner = image["image"][:, :_SMALL, :_SMALL]
    predictor.run([{"image": corner, "height": corner.shape[1], "width": corner.shape[2]}])
    print(_MARK, measure_added(cfg.MODEL.DEVICE, lambda: predictor.run([image])))
    return 0


def _import(name: str) -> None:
    """A module, or a file under the name that it has for the process that asks."""
    if name.endswith(".py"):
        sys.path.insert(0, str(Path(name).resolve().parent))
        name = Path(name).stem
    importlib.import_module(name)


def measure_added(device: str, work: Callable[[], object]) -> int:
    """Bytes that some runs of the work add at their peak to what is held before them.

    On a GPU it is what torch allocated, on a CPU the resident size of the process.

    Args:
        device: "cpu" or "cuda".
        work: that has been done before, at another size or as it is, so that what it loads is there.

    Raises:
        OSError: a CPU without Linux's /proc, which alone can forget an earlier peak.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for _ in range(_STEPS):
            work()
        return torch.cuda.max_memory_allocated(device) - before
    trim_memory()
    forget_peak = Path("/proc/self/clear_refs")
    if not forget_peak.exists():
        raise OSError("the memory that work adds on a CPU can be measured on Linux only")
    forget_peak.write_text("5", encoding="ascii")  # the peak becomes the present size
    before = _resident_peak()
    for _ in range(_STEPS):
        work()
    return _resident_peak() - before


def _resident_peak() -> int:
    """Largest resident size of this process since its peak was forgotten, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
