"""Everything that happens to a COCO file between the command line and the figures, for tests of what files may hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from segmentation_cases import MASKS
from tiny_models import tiny_cfg, tiny_detr

from detr_d2.data import build_detr_train_loader, check_datasets, register_coco, resolve_num_classes
from detr_d2.evaluation.coco import RecordsEvaluator

_numbers = itertools.count()


class Refused(Exception):
    """The file was refused before the first step, in one sentence."""


@dataclass(frozen=True)
class Chain:
    """A file that was accepted: its dataset, and the config that it is used with."""

    name: str
    cfg: Any

    @property
    def records(self) -> list[dict[str, Any]]:
        """What the dataset holds."""
        return DatasetCatalog.get(self.name)

    @property
    def classes(self) -> list[str]:
        """Names in the order of the class indices."""
        return MetadataCatalog.get(self.name).thing_classes


def accept(path: Path, content: bytes, image_root: Path, *, masks: bool) -> Chain:
    """Writes the file, and does with it what a run does before its first step.

    Raises:
        Refused: with a sentence that names the file; every other error is a fault.
    """
    path.write_bytes(content)
    name = f"chain_{next(_numbers)}"
    cfg = tiny_cfg("MODEL.DETR.NUM_CLASSES", 0, *(MASKS if masks else ()), *_SMALL)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    try:
        register_coco(f"{name}={path}:{image_root}")
        resolve_num_classes(cfg)
        check_datasets(cfg)
    except ValueError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert 20 < len(sentence) < 3000, sentence
        assert str(path) in sentence or name in sentence or str(image_root) in sentence, sentence
        raise Refused(sentence) from error
    return Chain(name, cfg)


_SMALL = ["SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "INPUT.MASK_FORMAT", "bitmask",
          "INPUT.MIN_SIZE_TRAIN", (32, 48), "INPUT.MAX_SIZE_TRAIN", 64, "INPUT.CROP.ENABLED", True,
          "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [24, 40], "INPUT.DETR_MIN_SIZES", (40,)]  # fmt: skip


@lru_cache(maxsize=32)
def _model(num_classes: int, masks: bool) -> Any:
    return tiny_detr(*(MASKS if masks else ()), "MODEL.DETR.NUM_CLASSES", num_classes).train()


def train_and_evaluate(chain: Chain, *, draws: int) -> dict[str, float]:
    """Draws images, computes the losses of a step, and the figures of perfect predictions.

    Returns:
        "AP" and "AP50" of boxes and masks.
    """
    loader = build_detr_train_loader(chain.cfg, seed=0)
    batch: list[dict[str, Any]] = []
    for batch in itertools.islice(loader, math.ceil(draws / chain.cfg.SOLVER.IMS_PER_BATCH)):
        for sample in batch:
            assert torch.isfinite(sample["instances"].gt_boxes.tensor).all()
    losses = _model(len(chain.classes), chain.cfg.MODEL.MASK_ON)(batch)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    return figures(chain, perfect(chain))


def perfect(chain: Chain) -> dict[str, Instances]:
    """The ground truth of each image file as its predictions."""
    found = {}
    for record in chain.records:
        truth = [x for x in record.get("annotations", []) if not x["iscrowd"]]
        if chain.cfg.MODEL.MASK_ON:
            truth = [x for x in truth if "segmentation" in x]
        instances = Instances((record["height"], record["width"]))
        boxes = torch.tensor([x["bbox"] for x in truth], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes, instances.scores = Boxes(boxes), torch.full((len(truth),), 0.9)
        instances.pred_classes = torch.tensor([x["category_id"] for x in truth], dtype=torch.int64)
        if chain.cfg.MODEL.MASK_ON:
            masks = [bitmap(x["segmentation"], record["height"], record["width"]) for x in truth]
            instances.pred_masks = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 1, 1)
        found[record["file_name"]] = instances
    return found


def bitmap(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool, by pycocotools."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation).astype(bool)


def figures(chain: Chain, predictions: dict[str, Instances]) -> dict[str, float]:
    """AP and AP50 of predictions by file name."""
    evaluator = RecordsEvaluator(chain.name)
    for record in chain.records:
        evaluator.process([record], [{"instances": predictions[record["file_name"]]}])
    results = evaluator.evaluate()
    return {f"{task}/{key}": results[task][key] for task in results for key in ("AP", "AP50")}
