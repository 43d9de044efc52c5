"""What a checkpoint says about the classes, besides its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from ..data import category_ids
from ..panoptic_classes import PanopticClasses


def class_metadata(datasets: Sequence[str], *, panoptic: bool = False) -> dict[str, Any]:
    """Names and category ids of the classes of the first dataset, for checkpoints; empty where it has none.

    Args:
        datasets: names.
        panoptic: the classes are things and stuff; adds how many are things, and the layout of detectron2's ids.
    """
    if not datasets:
        return {}
    metadata = MetadataCatalog.get(datasets[0])
    classes = PanopticClasses.from_metadata(metadata, name=datasets[0]) if panoptic else None
    if classes is not None and classes.names:
        ids = {"class_names": list(classes.names), "category_ids": list(classes.dataset_ids)}
        return {**ids, "num_things": classes.num_things, "panoptic_layout": classes.layout}
    names = metadata.get("thing_classes")
    return {"class_names": list(names), "category_ids": category_ids(metadata)} if names else {}
