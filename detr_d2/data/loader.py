"""The training loader: detectron2's with numbered draws, so that a resumed run sees what an uninterrupted one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.utils import comm
from torch.utils.data import IterableDataset

from .coco.json_values import shown
from .coco.mask_faults import mask_fault
from .dataset_mapper import DetrDatasetMapper
from .draws import NumberedDataset, NumberedSampler, seeded_numpy
from .registration import is_coco_file, is_panoptic, require_registered

Mapper = Callable[[dict[str, Any]], "dict[str, Any] | None"]


def uses_detr_augmentation(cfg: CfgNode) -> bool:
    """Whether `INPUT.DETR_AUGMENTATION` asks for DETR's augmentation; "auto" does for the DETR meta-architecture.

    Raises:
        ValueError: if the key is not "auto", "on" or "off".
    """
    choice = cfg.INPUT.DETR_AUGMENTATION
    if choice not in ("auto", "on", "off"):
        raise ValueError(f'INPUT.DETR_AUGMENTATION must be "auto", "on" or "off", but is {choice!r}')
    return choice == "on" or (choice == "auto" and cfg.MODEL.META_ARCHITECTURE == "DETR")


def build_detr_train_loader(
    cfg: CfgNode, *, mapper: Mapper | None = None, start_iteration: int = 0, seed: int
) -> Iterable[list[dict[str, Any]]]:
    """Builds the endless loader of micro-batches, `SOLVER.IMS_PER_BATCH` images over all processes.

    All sampler names of detectron2 and `DATALOADER.{NUM_WORKERS,ASPECT_RATIO_GROUPING,FILTER_EMPTY_ANNOTATIONS}` are
    honoured. Batches are the same for any number of workers. With `seed` equal to `cfg.SEED` the images come in the
    order in which detectron2's stock trainer draws them under that seed.

    Args:
        cfg: the config.
        mapper: dataset dict -> model input; default: `DetrDatasetMapper(cfg)`.
        start_iteration: optimizer steps done before; their `ACCUM_STEPS` micro-batches each are skipped.
        seed: seed of sampler and augmentation, at least 0, equal in all processes.

    Raises:
        ValueError: if the batch cannot be divided among the processes, or images lack the sizes that grouping needs.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} processes: "
            "set it to a multiple of them"
        )
    by_file_name = mapper is None
    mapper = mapper or DetrDatasetMapper(cfg, is_train=True)
    with seeded_numpy(seed):
        parts = build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=training_records(cfg))
    records, batch_size = parts["dataset"], cfg.SOLVER.IMS_PER_BATCH // world_size
    if isinstance(records, IterableDataset):
        raise ValueError(
            f"{cfg.DATASETS.TRAIN} is a stream, which cannot be resumed: register a list or a map-style dataset"
        )
    sampler = NumberedSampler(
        parts["sampler"],
        skip=start_iteration * cfg.SOLVER.ACCUM_STEPS * batch_size,
        batch_size=batch_size,
        landscape=_landscape(records) if parts["aspect_ratio_grouping"] else None,
    )
    if isinstance(records, list):
        if by_file_name:
            _require_file_names(records)
        records = DatasetFromList(records, copy=False)  # one serialised copy for all workers
    return build_detection_train_loader(
        NumberedDataset(records, mapper, seed=seed),
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,  # the sampler has grouped already
        num_workers=parts["num_workers"],
    )


def training_records(cfg: CfgNode) -> Any:
    """The dataset of `DATASETS.TRAIN`, as detectron2's loader makes it.

    With `MODEL.MASK_ON`, annotations without a mask that can be used are left out, and the images that lose all of them
    if `FILTER_EMPTY_ANNOTATIONS`; the checks before the first step have counted them. The masks of a panoptic model
    come from its PNGs instead.
    """
    require_registered(cfg.DATASETS.TRAIN)
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if not cfg.MODEL.MASK_ON or is_panoptic(cfg) or not isinstance(records, list):
        return records
    looked_at = all(is_coco_file(name) for name in cfg.DATASETS.TRAIN)  # their dicts hold good masks only
    keep_images = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or "Weighted" in cfg.DATALOADER.SAMPLER_TRAIN
    found = []
    for record in records:
        annotations = record.get("annotations", [])
        kept = [x for x in annotations if x.get("iscrowd", 0) or _has_mask(x, record, looked_at)]
        if len(kept) == len(annotations):  # what users' functions return is never changed
            found.append(record)
        elif keep_images or any(not x.get("iscrowd", 0) for x in kept):
            found.append({**record, "annotations": kept})
    return found


def _has_mask(annotation: dict[str, Any], record: dict[str, Any], looked_at: bool) -> bool:
    if looked_at:
        return "segmentation" in annotation
    return not mask_fault(annotation.get("segmentation"), record.get("width", 0), record.get("height", 0))


def _require_file_names(records: Iterable[dict[str, Any]]) -> None:
    for number, record in enumerate(records):
        if "file_name" not in record:
            raise ValueError(
                f"image {number} of the training data (image_id {shown(record.get('image_id'))}) has no file_name, "
                "which the mapper reads the image from: add it, or give a mapper of your own"
            )


def _landscape(records: Iterable[dict[str, Any]]) -> np.ndarray:
    """(N,) bool: which images are wider than high."""
    try:
        return np.array([record["width"] > record["height"] for record in records], dtype=bool)
    except KeyError as error:
        raise ValueError(
            f"DATALOADER.ASPECT_RATIO_GROUPING needs the {error} of every image, which this dataset does not give: "
            "add it, or set the key to False"
        ) from error
