"""Ground truth fed back as predictions scores 100, on a batch of images of different sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.layers import cat
from detectron2.structures import BitMasks, Boxes, Instances
from segmentation_cases import MASKS, Truth
from tiny_models import tiny_cfg, tiny_detr

from detr_d2.data import DetrDatasetMapper, register_coco, register_datasets
from detr_d2.data.shapes.synthetic import make_shapes
from detr_d2.engine import build_evaluator
from detr_d2.modeling import Predictions

QUERIES = 12
SCALES = (1, 3, 2, 1)  # of the images of a batch, which are 40 x 32 otherwise
WITHOUT_AUGMENTATION = [
    "INPUT.CROP.ENABLED", False, "INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", (32,),
    "INPUT.MASK_FORMAT", "bitmask",
]  # fmt: skip


def make_data(folder: Path, *, panoptic: bool) -> tuple[str, list[Any]]:
    """Name and config entries of a small registered dataset."""
    paths = make_shapes(folder, len(SCALES), seed=4, width=40, height=32, min_size=8, max_size=16, panoptic=panoptic)
    if not panoptic:
        return register_coco(f"truth={paths.annotations}:{paths.images}"), ["MODEL.DETR.NUM_CLASSES", 3]
    spec = f"truth={paths.panoptic}:{paths.panoptic_root}:{paths.images}:{paths.annotations}"
    keys = ["DATASETS.COCO_PANOPTIC", [spec], "DATASETS.TRAIN", ("truth",), "MODEL.DETR.PANOPTIC.ENABLED", True]
    register_datasets(tiny_cfg(*keys))
    return "truth", [*keys, "MODEL.DETR.NUM_CLASSES", 6]


def enlarged(sample: dict[str, Any], scale: int) -> dict[str, Any]:
    """The sample as the model would see it at a larger size; the output keeps the size of the file."""
    truth = sample["instances"]
    height, width = truth.image_size
    instances = Instances((height * scale, width * scale))
    instances.gt_classes = truth.gt_classes
    instances.gt_boxes = Boxes(truth.gt_boxes.tensor * scale)
    instances.gt_masks = BitMasks(truth.gt_masks.tensor.repeat_interleave(scale, 1).repeat_interleave(scale, 2))
    image = torch.zeros(3, height * scale, width * scale, dtype=torch.uint8)
    return {**sample, "image": image, "instances": instances, "height": height, "width": width}


@pytest.mark.parametrize("panoptic", [False, True])
def test_truth_scores_100(panoptic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, keys = make_data(tmp_path / "data", panoptic=panoptic)
    options = [*MASKS, *keys, *WITHOUT_AUGMENTATION, "MODEL.DETR.MASK_HEAD.NAME", "Truth"]
    options += ["MODEL.DETR.NUM_QUERIES", QUERIES, "OUTPUT_DIR", str(tmp_path)]
    cfg: CfgNode = tiny_cfg(*options)
    mapper = DetrDatasetMapper(cfg, is_train=True)
    inputs = [enlarged(mapper(x), s) for x, s in zip(DatasetCatalog.get(name), SCALES, strict=True)]
    model = tiny_detr(*options).eval()
    head = model.mask_head
    assert isinstance(head, Truth)
    head.images = [x["instances"] for x in inputs]
    predict = model.predict

    def truth(images: Any, *, all_layers: bool, targets: Any) -> Predictions:
        found = predict(images, all_layers=all_layers, targets=targets)
        logits = torch.full_like(found.logits, -20.0)
        boxes = torch.full_like(found.boxes_cxcywh, 0.5)
        for b, instances in enumerate(head.images):
            height, width = instances.image_size
            xyxy = instances.gt_boxes.tensor / torch.tensor([width, height, width, height])
            boxes[0, b, : len(xyxy)] = cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
            logits[0, b, torch.arange(len(xyxy)), instances.gt_classes] = 20.0
            logits[0, b, len(xyxy) :, -1] = 20.0  # no object
        return found._replace(logits=logits, boxes_cxcywh=boxes)

    monkeypatch.setattr(model, "predict", truth)
    model.score_threshold = 0.5
    evaluator = build_evaluator(cfg, name, str(tmp_path / "inference"))
    evaluator.reset()
    with torch.no_grad():
        evaluator.process(inputs, model(inputs))
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100, abs=0.1)
    assert results["bbox"]["AP"] == pytest.approx(100, abs=0.1)
    if panoptic:
        assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
