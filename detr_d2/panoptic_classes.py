"""The classes of panoptic segmentation: rows of the class head <-> detectron2's contiguous ids <-> ids of the data.

The class head has one row per class, things first, then stuff. detectron2 knows two layouts of contiguous ids:

* "standard": things are 0..T-1 and stuff T..T+S-1, so that the row is the id;
* "separated" (of Panoptic FPN): things are 0..T-1, stuff 1..S, and stuff id 0 means "things".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

LAYOUTS = ("standard", "separated")


@dataclass(frozen=True)
class PanopticClasses:
    """The T + S classes of a panoptic dataset or model.

    Attributes:
        num_things: T, the classes whose objects are counted.
        num_stuff: S, the classes that are merged to one segment per image.
        layout: of the contiguous ids, "standard" or "separated".
        names: of the rows; () if unknown.
        dataset_ids: category ids of the panoptic file, in the order of the rows; () if unknown.

    Raises:
        ValueError: on an unknown layout, or numbers that are no numbers of classes.
    """

    num_things: int
    num_stuff: int
    layout: str
    names: tuple[str, ...] = ()
    dataset_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"the layout of panoptic ids is {self.layout!r}, expected one of {', '.join(LAYOUTS)}")
        if self.num_things < 1 or self.num_stuff < 0:
            raise ValueError(
                f"panoptic segmentation of {self.num_things} thing and {self.num_stuff} stuff classes: expected at "
                "least one class of things"
            )

    def __len__(self) -> int:
        return self.num_things + self.num_stuff

    @property
    def shift(self) -> int:
        """Contiguous id of a stuff class minus its row."""
        return 1 - self.num_things if self.layout == "separated" else 0

    @property
    def num_channels(self) -> int:
        """Channels of `sem_seg`: one per class, or one per stuff class and channel 0 for all things together."""
        return 1 + self.num_stuff if self.layout == "separated" else len(self)

    def is_thing(self, row: int) -> bool:
        """Whether a row of the class head is a thing."""
        return row < self.num_things

    def category_id(self, row: int) -> int:
        """detectron2's contiguous id of a row; only together with `is_thing` does it name a class."""
        return row if self.is_thing(row) else row + self.shift

    def row(self, category_id: int, *, is_thing: bool) -> int:
        """The row of a contiguous id.

        Raises:
            ValueError: if there is no such class.
        """
        shift = 0 if is_thing else self.shift
        first, end = (0, self.num_things) if is_thing else (self.num_things, len(self))
        row = category_id - shift
        if not first <= row < end:
            kind = "thing" if is_thing else "stuff"
            raise ValueError(f"{kind} has category_id {category_id}, expected {first + shift} to {end - 1 + shift}")
        return row

    def channel(self, row: int) -> int:
        """The channel of `sem_seg` that a row belongs to."""
        return 0 if self.layout == "separated" and self.is_thing(row) else self.category_id(row)

    @classmethod
    def from_metadata(cls, metadata: Metadata, *, name: str = "the dataset") -> PanopticClasses | None:
        """The classes of a registered dataset; None for one that has no stuff.

        Args:
            metadata: with `{thing,stuff}_dataset_id_to_contiguous_id`, as detectron2 registers COCO panoptic data.
            name: of the dataset, for messages.

        Raises:
            ValueError: if its contiguous ids are in neither layout.
        """
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id")
        if not things or stuff is None:
            return None
        separated = bool(set(things.values()) & set(stuff.values()))
        if separated:
            stuff = {dataset_id: index for dataset_id, index in stuff.items() if index > 0}
        ids = _ordered(things) + _ordered(stuff)
        classes = cls(
            num_things=len(things),
            num_stuff=len(stuff),
            layout="separated" if separated else "standard",
            names=_names(metadata, things, stuff),
            dataset_ids=tuple(ids),
        )
        expected = [classes.category_id(row) for row in range(len(classes))]
        found = [things[i] for i in _ordered(things)] + [stuff[i] for i in _ordered(stuff)]
        if found != expected:
            raise ValueError(
                f"{name} has the contiguous ids {sorted(things.values())[:5]}... for things and "
                f"{sorted(stuff.values())[:5]}... for stuff: expected things from 0, and stuff from 1 (separated) or "
                "directly after the things (standard)"
            )
        return classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PanopticClasses:
        """The classes of a panoptic model, from its keys where they say them, otherwise from the training data.

        Raises:
            ValueError: if neither says them, or the keys do not fit together.
        """
        keys, total = cfg.MODEL.DETR.PANOPTIC, cfg.MODEL.DETR.NUM_CLASSES
        if keys.NUM_THINGS > 0 and total > 0:
            if total < keys.NUM_THINGS:
                raise ValueError(
                    f"MODEL.DETR.PANOPTIC.NUM_THINGS is {keys.NUM_THINGS}, more than MODEL.DETR.NUM_CLASSES, {total}, "
                    "which counts things and stuff"
                )
            return cls(num_things=keys.NUM_THINGS, num_stuff=total - keys.NUM_THINGS, layout=keys.LAYOUT)
        names = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
        found = cls.from_metadata(MetadataCatalog.get(names[0]), name=names[0]) if names else None
        if found is None:
            raise ValueError(
                "MODEL.DETR.PANOPTIC.ENABLED needs the classes: register panoptic data for DATASETS.TRAIN "
                f"({names}), or set MODEL.DETR.NUM_CLASSES, MODEL.DETR.PANOPTIC.NUM_THINGS and .LAYOUT"
            )
        return found


def _ordered(ids: Mapping[int, int]) -> list[int]:
    """Dataset ids in the order of their contiguous ids."""
    return sorted(ids, key=ids.__getitem__)


def _names(metadata: Metadata, things: Mapping[int, int], stuff: Mapping[int, int]) -> tuple[str, ...]:
    """Names of the rows; () where the metadata does not name every one."""
    tables: tuple[tuple[Any, Mapping[int, int]], ...] = (
        (metadata.get("thing_classes") or (), things),
        (metadata.get("stuff_classes") or (), stuff),
    )
    if any(ids and max(ids.values()) >= len(names) for names, ids in tables):
        return ()
    return tuple(names[ids[dataset_id]] for names, ids in tables for dataset_id in _ordered(ids))
