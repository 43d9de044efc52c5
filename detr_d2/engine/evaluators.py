"""The evaluator of a dataset, by the `evaluator_type` of its metadata."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from ..evaluation.coco import RecordsEvaluator
from ..evaluation.panoptic import PanopticQualityEvaluator

logger = logging.getLogger(__name__)

COCO_MAX_DETECTIONS = 100  # what COCO AP counts per image unless told otherwise

# Meta-architectures of detectron2 that make no panoptic maps.
_WITHOUT_SEGMENTS = ("FCOS", "GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "SemanticSegmentor")

_Build = Callable[[CfgNode, str, str], list[DatasetEvaluator]]


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Builds what measures predictions on a dataset.

    COCO AP counts 100 detections per image; a DETR with more queries is measured on all that it returns.

    Args:
        cfg: of the model that is evaluated.
        dataset_name: registered, with `evaluator_type` in its metadata ("coco" if it has none).
        output_folder: for the predictions; `OUTPUT_DIR/inference` if None.

    Raises:
        ValueError: if no evaluator is known for the type.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in _EVALUATORS:
        raise ValueError(
            f"dataset {dataset_name!r} has evaluator_type {kind!r}, expected one of {', '.join(sorted(_EVALUATORS))}; "
            "override Trainer.build_evaluator for another one."
        )
    evaluators = _EVALUATORS[kind](cfg, dataset_name, folder)
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def check_evaluators(cfg: CfgNode) -> None:
    """Raises ValueError if one of `DATASETS.TEST` has no evaluator, or lacks what that needs.

    Those of the type "coco", as most are, have one whatever they hold.
    """
    for name in cfg.DATASETS.TEST:
        kind = MetadataCatalog.get(name).get("evaluator_type", "coco")
        if kind == "coco":
            continue
        try:
            build_evaluator(cfg, name)
        except (AssertionError, AttributeError, ImportError, LookupError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"dataset {name} cannot be evaluated as its evaluator_type {kind!r} says ({reason}): give its metadata "
                'what that evaluator reads, or the evaluator_type "coco"'
            ) from error


def _coco(cfg: CfgNode, name: str, folder: str) -> list[DatasetEvaluator]:
    return [build_coco_evaluator(name, folder, max_dets_per_image=_max_detections(cfg))]


def build_coco_evaluator(dataset_name: str, output_folder: str | None, **options: Any) -> RecordsEvaluator:
    """AP of a registered dataset; without a folder no predictions are written. Options: of `RecordsEvaluator`."""
    return RecordsEvaluator(dataset_name, output_dir=output_folder, **options)


def _max_detections(cfg: CfgNode) -> int | None:
    """None for COCO's own limit."""
    detr = cfg.MODEL.META_ARCHITECTURE == "DETR" and cfg.MODEL.DETR.NUM_QUERIES > COCO_MAX_DETECTIONS
    return cfg.TEST.DETECTIONS_PER_IMAGE if detr and cfg.TEST.DETECTIONS_PER_IMAGE > COCO_MAX_DETECTIONS else None


def _coco_panoptic(cfg: CfgNode, name: str, folder: str) -> list[DatasetEvaluator]:
    """Boxes and masks of things, if their annotations are known; panoptic maps and stuff of models that make them."""
    metadata = MetadataCatalog.get(name)
    detr = cfg.MODEL.META_ARCHITECTURE == "DETR"
    segments = cfg.MODEL.META_ARCHITECTURE not in _WITHOUT_SEGMENTS
    if detr:
        segments = cfg.MODEL.DETR.PANOPTIC.ENABLED and cfg.MODEL.MASK_ON
    evaluators: list[DatasetEvaluator] = []
    if segments and metadata.get("sem_seg_root") and (not detr or cfg.MODEL.DETR.PANOPTIC.SEM_SEG):
        evaluators.append(_sem_seg(name, folder))
    if metadata.get("json_file") and _names_things_only(metadata):
        evaluators += _coco(cfg, name, folder)
    if segments:
        evaluators.append(COCOPanopticEvaluator(name, folder) if find_spec("panopticapi") else _panoptic_quality(name))
    if not evaluators:
        raise ValueError(
            f"dataset {name!r} has panoptic ground truth only, and the model predicts no panoptic maps: add the "
            "instances of its things, --coco-panoptic NAME=panoptic.json:png_root:image_root:instances.json"
        )
    return evaluators


def _names_things_only(metadata: Metadata) -> bool:
    """COCOEvaluator wants one name per class of the instances file; detectron2's "standard" COCO panoptic has more."""
    return len(metadata.thing_classes) == len(metadata.thing_dataset_id_to_contiguous_id)


def _panoptic_quality(name: str) -> DatasetEvaluator:
    logger.info("panopticapi is not installed: panoptic quality of %s is computed by detr_d2.", name)
    return PanopticQualityEvaluator(name)


def _sem_seg(name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(name, distributed=True, output_dir=folder)


_EVALUATORS: dict[str, _Build] = {
    "coco": _coco,
    "coco_panoptic_seg": _coco_panoptic,
    "lvis": lambda _cfg, name, folder: [LVISEvaluator(name, output_dir=folder)],
    "sem_seg": lambda _cfg, name, folder: [_sem_seg(name, folder)],
    "cityscapes_instance": lambda _cfg, name, _folder: [CityscapesInstanceEvaluator(name)],
    "cityscapes_sem_seg": lambda _cfg, name, _folder: [CityscapesSemSegEvaluator(name)],
    "pascal_voc": lambda _cfg, name, _folder: [PascalVOCDetectionEvaluator(name)],
}
