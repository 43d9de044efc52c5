"""The classes of a model: their names, the ids that they have in the data, and how a user names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..data import category_ids, register_coco, register_coco_panoptic
from ..panoptic_classes import PanopticClasses


@dataclass(frozen=True)
class Categories:
    """The classes of a model: position in the tuples is the class index the model predicts.

    Args:
        names: K names.
        ids: K category ids, as the annotation file of the data has them; written into results.
        by_position: the names are the user's own for the classes of the model, not those of data.

    Raises:
        ValueError: a different number of names and ids, or an id twice.
    """

    names: tuple[str, ...]
    ids: tuple[Any, ...]
    by_position: bool = False

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.ids)} category ids, expected as many")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"category ids {list(self.ids)} are not all different")

    @classmethod
    def numbered(cls, names: Sequence[str], *, by_position: bool = False) -> Categories:
        """Names alone: the category ids are the class indices 0..K-1."""
        return cls(names=tuple(names), ids=tuple(range(len(names))), by_position=by_position)

    def picked(self, indices: Sequence[int]) -> Categories:
        """Those at some places, in that order."""
        return Categories(tuple(self.names[i] for i in indices), tuple(self.ids[i] for i in indices))

    @classmethod
    def from_metadata(cls, metadata: Metadata, *, panoptic: bool = False) -> Categories | None:
        """Names and original ids of a registered dataset; None when it knows no class names.

        Args:
            metadata: of the dataset.
            panoptic: of a panoptic model, whose classes are things and stuff.
        """
        if panoptic:
            classes = PanopticClasses.from_metadata(metadata)
            return cls(names=classes.names, ids=classes.dataset_ids) if classes and classes.names else None
        names = metadata.get("thing_classes")
        if not names:
            return None
        return cls(names=tuple(names), ids=tuple(category_ids(metadata)))

    def metadata(self, panoptic: PanopticClasses | None = None) -> Metadata:
        """What detectron2's visualizers ask for.

        Args:
            panoptic: of a panoptic model, which of the names are things.
        """
        if panoptic is None:
            return Metadata().set(thing_classes=list(self.names))
        things, stuff = list(self.names[: panoptic.num_things]), list(self.names[panoptic.num_things :])
        before = ["things"] if panoptic.layout == "separated" else things
        return Metadata().set(thing_classes=things, stuff_classes=before + stuff)


def class_names_option(text: str | None) -> Categories | None:
    """`--classes a,b,c` -> its categories, numbered from 0; None when it was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise ValueError(f"--classes is {text!r}, expected names separated by commas, none of them empty")
    return Categories.numbered(names, by_position=True)


def coco_option(spec: str, *, panoptic: bool = False) -> tuple[Categories, dict[Path, Any]]:
    """`--coco` or `--coco-panoptic` -> its categories, and the image id of each image file, by its absolute path.

    Args:
        spec: "NAME=annotations.json:image_root", or as for `register_coco_panoptic`.
        panoptic: the latter; the categories are things and stuff.
    """
    name = register_coco_panoptic(spec) if panoptic else register_coco(spec)
    image_ids = {Path(os.path.abspath(x["file_name"])): x["image_id"] for x in DatasetCatalog.get(name)}
    categories = Categories.from_metadata(MetadataCatalog.get(name), panoptic=panoptic)
    if categories is None:
        raise ValueError(f"the annotation file of --coco {spec} lists no categories; pass --classes instead")
    return categories, image_ids
