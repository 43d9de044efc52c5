"""detectron2's COCO evaluator, matching and accumulating by `faster-coco-eval` where that is installed.

What is compiled is the matching of detections with objects and the curves. How results are read, prepared, summarised
and reported stays detectron2's and pycocotools', so the figures are theirs.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import COCOEvaluator, coco_evaluation
from pycocotools.cocoeval import COCOeval

from .coco_metrics import available_evaluator

logger = logging.getLogger(__name__)

# detectron2's own limit of detections has a class of its own for every other limit.
_OTHER_LIMITS = coco_evaluation.COCOevalMaxDets


def build_coco_evaluator(dataset_name: str, output_folder: str | None, **options: Any) -> COCOEvaluator:
    """`COCOEvaluator`, or the faster one with the same results where `faster-coco-eval` is installed; logs which.

    Args:
        dataset_name: registered.
        output_folder: for the predictions; None to write nothing.
        options: of `COCOEvaluator`.
    """
    if available_evaluator() == "pycocotools":
        logger.info(
            'COCO figures of %s are computed by pycocotools; pip install "detr_d2[eval]" makes it faster.', dataset_name
        )
        return COCOEvaluator(dataset_name, output_dir=output_folder, **options)
    version = importlib.metadata.version("faster-coco-eval")
    logger.info("COCO figures of %s are computed by faster-coco-eval %s.", dataset_name, version)
    return FasterCOCOEvaluator(dataset_name, output_dir=output_folder, **options)


class FasterCOCOEvaluator(COCOEvaluator):
    """Same arguments and results; needs the package `faster-coco-eval`.

    Boxes and masks are evaluated by it, keypoints by pycocotools.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _faster_coco_eval():
            super().__init__(*args, **kwargs)

    def evaluate(self, img_ids: list[int] | None = None) -> Any:
        """As `COCOEvaluator.evaluate`."""
        with _faster_coco_eval():
            return super().evaluate(img_ids)


@contextmanager
def _faster_coco_eval() -> Iterator[None]:
    """Stands in for the compiled evaluator that a pure-Python build of detectron2 lacks, under its name there."""
    names = ("COCOeval_opt", "COCOevalMaxDets")
    before = {name: getattr(coco_evaluation, name) for name in names}
    coco_evaluation.COCOeval_opt = _evaluation_with(COCOeval)
    coco_evaluation.COCOevalMaxDets = _evaluation_with(_OTHER_LIMITS)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(coco_evaluation, name, value)


def _evaluation_with(plain: type[COCOeval]) -> Callable[[Any, Any, str], Any]:
    """(ground truth, detections, kind) -> an evaluation that `plain` summarises."""
    from faster_coco_eval import COCOeval_faster

    class Evaluation(COCOeval_faster):
        summarize = plain.summarize

    def build(truth: Any, detections: Any, iou_type: str) -> Any:
        kind = plain if iou_type == "keypoints" else Evaluation
        return kind(truth, detections, iou_type)

    return build
