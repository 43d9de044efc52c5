"""COCO instances files as datasets of detectron2: what `DatasetCatalog` holds of them, and their dicts.

Files that users register by detectron2's own `register_coco_instances`, and its built-in names, are read by this too
where a command of this package uses them, so that checks and training see the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from .annotation_table import AnnotationTable, read_coco_table
from .file import CocoFile, CocoObjects, take_coco_file
from .json_file import image_path, local_json, without_garbage_collection
from .json_values import Id, shown


@dataclass(frozen=True)
class CocoDataset:
    """A registered file; calling it returns detectron2's dicts, as `DatasetCatalog.get` does.

    Attributes:
        name: the registered name.
        json_file: path or URI of the file.
        image_root: folder of the images, or its URI.
        cure: what to do when the file cannot be read, for the message.
    """

    name: str
    json_file: str
    image_root: str
    cure: str

    def __call__(self) -> list[dict[str, Any]]:
        """Reads the file, and puts its classes into the metadata.

        Raises:
            ValueError: if the file cannot be used, or its classes are not those of the metadata.
        """
        with without_garbage_collection():
            file = take_coco_file(local_json(self.json_file, self.cure), self.json_file)
            self.set_classes(file.classes.names, file.classes.ids)
            return coco_records(file, self.image_root)

    def table(self) -> AnnotationTable:
        """The annotations as arrays; their classes are put into the metadata too. Raises ValueError as a call does."""
        table = read_coco_table(self.json_file, self.cure)
        self.set_classes(table.class_names.tolist(), table.class_ids.tolist())
        return table

    def set_classes(self, names: list[str], ids: list[Id]) -> None:
        """Puts the classes into the metadata; raises ValueError if those there are others."""
        metadata = MetadataCatalog.get(self.name)
        to_index = {class_id: index for index, class_id in enumerate(ids)}
        for key, found in (("thing_classes", names), ("thing_dataset_id_to_contiguous_id", to_index)):
            known = metadata.get(key)
            if known is None:
                metadata.set(**{key: found})
            elif type(found)(known) != found:
                raise ValueError(
                    f"{self.json_file} has the {key} {shown(found)}, but the metadata of dataset {self.name} "
                    f"{shown(known)}: register it without them, or correct the file"
                )


def is_registered(name: str, sources: Mapping[str, str], spec: str) -> bool:
    """Whether these data are registered already.

    Args:
        name: to register them under.
        sources: what the metadata are to say of their files and folders.
        spec: option and value that ask for it, for messages.

    Raises:
        ValueError: if the name stands for other data, or a folder is not there.
    """
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if all(known.get(key) == sources.get(key) for key in ("json_file", "image_root", "panoptic_json")):
            return True
        other = known.get("panoptic_json") or known.get("json_file", "another dataset")
        raise ValueError(f"{spec}: the name {name} is taken by {other}; choose another name")
    for key, what in (("panoptic_root", "the PNGs"), ("image_root", "the images")):
        folder = sources.get(key, "://")
        if "://" not in folder and not os.path.isdir(folder):
            raise ValueError(f"{spec}: there is no folder {folder}; expected the folder that holds {what}")
    return False


def coco_dataset(name: str) -> CocoDataset | None:
    """The COCO file registered under a name, read by `CocoDataset` from now on; None if it is something else.

    What users' own functions return is left alone, also where they call detectron2's `load_coco_json`.
    """
    loader = DatasetCatalog[name]
    if isinstance(loader, CocoDataset):
        return loader
    metadata = MetadataCatalog.get(name)
    by_detectron2 = getattr(loader, "__module__", "") == register_coco_instances.__module__
    if not by_detectron2 or metadata.get("evaluator_type") != "coco":
        return None
    json_file, image_root = os.fspath(metadata.json_file), os.fspath(metadata.image_root)
    dataset = CocoDataset(name, json_file, image_root, _cure(name, json_file))
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, dataset)
    return dataset


def datasets_folder() -> str:
    """Where detectron2 looks for the data of its own names."""
    return os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def _cure(name: str, json_file: str) -> str:
    if name.startswith(("coco_", "keypoints_coco_")) and os.path.abspath(json_file).startswith(
        datasets_folder() + os.sep
    ):
        setting = "names" if "DETECTRON2_DATASETS" in os.environ else "would name, if it were set,"
        return (
            f"{name} is looked for in the folder that the environment variable DETECTRON2_DATASETS {setting} "
            f"{datasets_folder()}: set it to the folder that holds coco/annotations, or give your own file with --coco"
        )
    return f"check the path with which dataset {name} was registered"


def coco_records(file: CocoFile, image_root: str) -> list[dict[str, Any]]:
    """detectron2's dicts, by ascending image id; "annotations" only where the file has that list.

    Args:
        file: a COCO file.
        image_root: folder of the images, or its URI.

    Returns:
        Of each image `file_name`, `height`, `width`, `image_id` and `annotations`: `bbox` (XYWH_ABS), `bbox_mode`,
        `category_id` (the contiguous index), `iscrowd`, `area` in square pixels, `id` if the file has it,
        `segmentation` if there is one that can be used, and `keypoints` where there are some.
    """
    images = file.images
    records: list[dict[str, Any]] = [
        {"file_name": image_path(image_root, name), "height": height, "width": width, "image_id": image_id}
        for name, (width, height), image_id in zip(images.file_names, images.sizes.tolist(), images.ids, strict=True)
    ]
    if file.objects is None:
        return records
    of_image: list[list[dict[str, Any]]] = [[] for _ in records]
    for index, annotation in zip(file.objects.image_of.tolist(), _annotations(file.objects), strict=True):
        of_image[index].append(annotation)
    for record, found in zip(records, of_image, strict=True):
        record["annotations"] = found
    return records


def _annotations(objects: CocoObjects) -> list[dict[str, Any]]:
    """Of all images, in the order of the file."""
    mode = BoxMode.XYWH_ABS
    arrays = (objects.boxes_xywh, objects.classes, objects.crowd, objects.areas)
    columns = zip(*(array.tolist() for array in arrays), objects.ids or repeat(None), strict=False)
    annotations: list[dict[str, Any]] = [
        {"bbox": box, "bbox_mode": mode, "category_id": index, "iscrowd": crowd, "area": area, "id": name}
        for box, index, crowd, area, name in columns
    ]
    if not objects.ids:
        for annotation in annotations:
            del annotation["id"]
    for annotation, mask in zip(annotations, objects.segmentations, strict=True):
        if mask is not None:
            annotation["segmentation"] = mask
    for annotation, keypoints in zip(annotations, objects.keypoints, strict=True):
        if keypoints is not None:
            annotation["keypoints"] = [x if i % 3 == 2 else x + 0.5 for i, x in enumerate(keypoints)]  # pixel centres
    return annotations
