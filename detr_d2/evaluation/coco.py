"""AP of boxes, masks and keypoints as detectron2's `COCOEvaluator` measures and reports it, from a dataset's records.

Matching and accumulating are done by `faster-coco-eval`. Differs from detectron2's in

* the ground truth: it comes from the dataset's records, as training reads them, for COCO files and users' own functions
  alike. No annotation file is read a second time, and none that an earlier run has left is ever used;
* images, annotations and classes are numbered anew, so that no id changes a figure; saved predictions have the data's;
* objects without a usable mask are left out of the figures of masks, and a line says so.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, coco_evaluation
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from ..data.checks.records import json_id
from ..data.registration import require_registered
from ..files import write_file, write_text
from .arrays import MAX_DETECTIONS, coco_dataset
from .ground_truth import check_keypoints, coco_truth, ground_truth_of

logger = logging.getLogger(__name__)

_FIGURES = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


class RecordsEvaluator(DatasetEvaluator):
    """Same figures and files as detectron2's `COCOEvaluator`; see the top of this file for what differs.

    Args:
        dataset_name: registered.
        tasks: of "bbox", "segm" and "keypoints"; None for those that the predictions allow.
        distributed: gather the predictions of all processes in the main one, which alone returns results.
        output_dir: for the predictions; None to write nothing.
        max_dets_per_image: the most that count per image and class; None for COCO's 100.
        kpt_oks_sigmas: of the keypoints; () for COCO's.

    Raises:
        ValueError: if a record of the dataset cannot be used.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
    ) -> None:
        unknown = set(tasks or ()) - set(_FIGURES)
        if unknown:
            raise ValueError(f"tasks holds {sorted(unknown)}, expected some of {', '.join(_FIGURES)}")
        self.dataset_name = dataset_name
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self.max_detections = max_dets_per_image or MAX_DETECTIONS
        self._sigmas = kpt_oks_sigmas
        require_registered([dataset_name])
        records = list(DatasetCatalog.get(dataset_name))
        self._annotated = any("annotations" in record for record in records)
        self._truth = ground_truth_of(dataset_name, records)
        self._number_of = {image_id: number for number, image_id in enumerate(self._truth.image_ids, start=1)}
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Keeps what a model says of some images.

        Args:
            inputs: with "image_id".
            outputs: with "instances", "proposals" or both.

        Raises:
            ValueError: if the dataset has no such image.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            image_id = sample["image_id"]
            if image_id not in self._number_of:
                raise ValueError(f"dataset {self.dataset_name} has no image with image_id {image_id!r}")
            found = {"image_id": image_id}
            if "instances" in output:
                found["instances"] = coco_evaluation.instances_to_coco_json(output["instances"].to("cpu"), image_id)
            if "proposals" in output:
                found["proposals"] = output["proposals"].to("cpu")
            if len(found) > 1:
                self._predictions.append(found)

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> dict[str, dict[str, float]]:
        """Writes the predictions and measures them.

        Args:
            img_ids: of the images to measure; None for all.

        Returns:
            Task -> figure -> value, 0-100; {} in other processes than the main one, and for data without annotations.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("There are no predictions for %s: nothing is measured.", self.dataset_name)
            return {}
        self._save("instances_predictions.pth", lambda file: torch.save(predictions, file))
        results: dict[str, dict[str, float]] = OrderedDict()
        if "proposals" in predictions[0]:
            self._save_proposals(predictions)
            if self._annotated:
                results["box_proposals"] = self._measure_proposals(predictions)
        if "instances" in predictions[0]:
            rows = list(itertools.chain(*(x["instances"] for x in predictions)))
            self._save_rows(rows)
            if self._annotated:
                results.update(self._measure(rows, img_ids))
        if not self._annotated:
            logger.info("%s has no annotations: there are predictions, but nothing to measure.", self.dataset_name)
        return results

    def _save(self, name: str, write: Callable[[Any], object]) -> None:
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            write_file(os.path.join(self._output_dir, name), write)

    def _save_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """COCO's results format, with the ids that the data have."""
        if not self._output_dir:
            return
        to_index = MetadataCatalog.get(self.dataset_name).get("thing_dataset_id_to_contiguous_id") or {}
        ids = {index: json_id(category_id) for category_id, index in to_index.items()}
        named = [
            {**x, "image_id": json_id(x["image_id"]), "category_id": ids.get(x["category_id"], x["category_id"])}
            for x in rows
        ]
        self._save("coco_instances_results.json", lambda file: file.write(json.dumps(named).encode()))

    def _measure(self, rows: Sequence[dict[str, Any]], img_ids: Sequence[Any] | None) -> dict[str, dict[str, float]]:
        version = importlib.metadata.version("faster-coco-eval")
        logger.info("COCO figures of %s are computed by faster-coco-eval %s.", self.dataset_name, version)
        tasks = self._tasks or ["bbox", *(t for t, k in _KEYS.items() if any(k in row for row in rows))]
        known = len(self._truth.class_names)
        foreign = next((x["category_id"] for x in rows if known and x["category_id"] >= known), None)
        if foreign is not None:
            raise ValueError(
                f"the model predicts class {foreign}, but {self.dataset_name} has {known} classes: evaluate it on data "
                "with its classes"
            )
        numbered = [
            {**x, "image_id": self._number_of[x["image_id"]], "category_id": x["category_id"] + 1} for x in rows
        ]
        only = None if img_ids is None else [self._number_of[image_id] for image_id in img_ids]
        results = OrderedDict()
        for task in sorted(tasks):
            truth = coco_truth(self._truth, task)
            if truth is not None:
                evaluation = self._run(task, truth, numbered, only) if rows else None
                results[task] = self._report(task, evaluation)
        return results

    def _run(self, task: str, truth: COCO, rows: Sequence[dict[str, Any]], only: list[int] | None) -> Any:
        """COCO's evaluation, done and printed."""
        hidden = ("bbox",) if task == "segm" else ()  # with boxes, COCO would sort masks by the areas of boxes
        found = truth.loadRes([{k: v for k, v in row.items() if k not in hidden} for row in rows])
        evaluation = COCOeval_faster(truth, found, task, print_function=print)
        if task == "keypoints":
            if self._sigmas:
                evaluation.params.kpt_oks_sigmas = np.array(self._sigmas)
            check_keypoints(truth, rows, len(evaluation.params.kpt_oks_sigmas))
        else:
            evaluation.params.maxDets = [1, 10, self.max_detections]
        if only is not None:
            evaluation.params.imgIds = only
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    def _report(self, task: str, evaluation: Any) -> dict[str, float]:
        """The figures of one task, logged as detectron2 does, and the AP of each class; NaN where nothing is."""
        if evaluation is None:
            logger.warning("There are no detections in %s.", self.dataset_name)
            return dict.fromkeys(_FIGURES[task], float("nan"))
        stats = [float(100 * x) if x >= 0 else float("nan") for x in evaluation.stats]
        results = dict(zip(_FIGURES[task], stats, strict=False))
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(results))
        names = self._truth.class_names
        if len(names) > 1:
            titles = [f"{x} ({k})" if names.count(x) > 1 else x for k, x in enumerate(names)]
            precision = evaluation.eval["precision"]  # (thresholds, recalls, classes, areas, limits)
            per_class = [(title, _mean(precision[:, :, k, 0, -1])) for k, title in enumerate(titles)]
            logger.info("Per-category %s AP:\n%s", task, _table(per_class))
            results.update({f"AP-{name}": value for name, value in per_class})
        return results

    def _save_proposals(self, predictions: Sequence[dict[str, Any]]) -> None:
        content = {
            "boxes": [x["proposals"].proposal_boxes.tensor.numpy() for x in predictions],
            "objectness_logits": [x["proposals"].objectness_logits.numpy() for x in predictions],
            "ids": [x["image_id"] for x in predictions],
            "bbox_mode": BoxMode.XYXY_ABS.value,
        }
        self._save("box_proposals.pkl", lambda file: pickle.dump(content, file))

    def _measure_proposals(self, predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Recall of proposals, by detectron2's own evaluator on the numbered ground truth."""
        name = f"{self.dataset_name}, numbered"
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "instances.json")
            write_text(path, json.dumps(coco_dataset(self._truth)))
            MetadataCatalog.get(name).set(json_file=path)
            try:
                evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False)
            finally:
                MetadataCatalog.remove(name)
        evaluator.reset()
        for x in predictions:
            evaluator.process([{"image_id": self._number_of[x["image_id"]]}], [{"proposals": x["proposals"]}])
        return dict(evaluator.evaluate()["box_proposals"])


_KEYS = {"keypoints": "keypoints", "segm": "segmentation"}
"""Task -> what a prediction has that allows it."""


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(100 * np.mean(known)) if known.size else float("nan")


def _table(per_class: Sequence[tuple[str, float]]) -> str:
    """The classes and their AP in up to three pairs of columns."""
    columns = min(6, 2 * len(per_class))
    cells = list(itertools.chain(*per_class))
    rows = itertools.zip_longest(*(cells[i::columns] for i in range(columns)))
    headers = ["category", "AP"] * (columns // 2)
    return tabulate(rows, tablefmt="pipe", floatfmt=".3f", headers=headers, numalign="left")
