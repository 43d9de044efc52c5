"""The same annotations in other forms: refused in one sentence, or nothing that is made of them changes."""

from __future__ import annotations

import codecs
import copy
import itertools
import json
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotation_chain import Chain, Refused, accept, bitmap, figures
from coco_files import CocoFiles
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detr_d2.data.registration import dataset_table

Content = dict[str, Any]

_numbers = itertools.count()

# How ids can be numbered: position -> id.
NUMBERINGS: dict[str, Callable[[int], Any]] = {
    "from 0": lambda k: k,
    "from 1": lambda k: k + 1,
    "negative": lambda k: -k - 1,
    "fractions": lambda k: k + 0.5,
    "whole fractions": lambda k: k + 1.0,
    "beyond 53 bits": lambda k: 2**53 + k,
    "beyond 64 bits": lambda k: 10**25 + k,
    "texts": lambda k: f"IMG_{k:03d}",
    "texts of numbers": lambda k: str(k + 1),
    "leading zeros": lambda k: f"{k:06d}",
    "UUIDs": lambda k: str(uuid.UUID(int=k * 977 + 5)),
}
FLAGS: dict[str, tuple[Any, Any]] = {
    "numbers": (0, 1), "booleans": (False, True), "fractions": (0.0, 1.0), "texts": ("0", "1"),
    "words": ("false", "true"), "null": (None, 1),
}  # fmt: skip
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with BOM": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}
# What a reader may do without.
OPTIONAL = [("annotations", "area"), ("annotations", "id"), ("images", "license"), ("categories", "supercategory")]


def renumber_images(content: Content, number: Callable[[int], Any]) -> None:
    new = {image["id"]: number(k) for k, image in enumerate(content["images"])}
    for image in content["images"]:
        image["id"] = new[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]


def renumber_annotations(content: Content, number: Callable[[int], Any]) -> None:
    for k, annotation in enumerate(content["annotations"]):
        annotation["id"] = number(k)


def renumber_categories(content: Content, number: Callable[[int], Any]) -> None:
    new = {category["id"]: number(k) for k, category in enumerate(content["categories"])}
    for category in content["categories"]:
        category["id"] = new[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]


def write_flags(content: Content, flags: tuple[Any, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = flags[annotation["iscrowd"]]


def relayout_rings(content: Content, data: st.DataObject) -> None:
    """Another first corner, the first corner again at the end, fractions for whole numbers, the other way round."""
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            for k, ring in enumerate(annotation["segmentation"]):
                corners = [ring[i : i + 2] for i in range(0, len(ring), 2)]
                start = data.draw(st.integers(0, len(corners) - 1))
                corners = corners[start:] + corners[:start]
                corners = corners[::-1] if data.draw(st.booleans()) else corners
                corners += corners[:1] if data.draw(st.booleans()) else []
                annotation["segmentation"][k] = [float(x) for corner in corners for x in corner]


def with_duplicate_keys(text: str) -> str:
    """Every object gets a first key that a second one replaces, as Python's json reads it."""
    return text.replace('{"id": ', '{"id": null, "id": ')


def another_form(content: Content, data: st.DataObject) -> bytes:
    """Any mixture of the forms above."""
    numbering = st.sampled_from(list(NUMBERINGS.values()))
    renumber_categories(content, data.draw(numbering))
    renumber_images(content, data.draw(numbering))
    renumber_annotations(content, data.draw(numbering))
    relayout_rings(content, data)
    write_flags(content, data.draw(st.sampled_from(list(FLAGS.values()))))
    for table, key in OPTIONAL:
        if data.draw(st.booleans()):
            for entry in content[table]:
                entry.pop(key, None)
    for table in ("images", "annotations"):
        data.draw(st.randoms(use_true_random=False)).shuffle(content[table])
    text = json.dumps(content, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1])))
    text = with_duplicate_keys(text) if data.draw(st.booleans()) else text
    return data.draw(st.sampled_from(list(ENCODINGS.values())))(text)


def described(chain: Chain) -> list[Any]:
    """Table and records without ids and order."""
    table = dataset_table(chain.name)
    assert table is not None
    names = [Path(name).name for name in table.file_names.tolist()]
    boxes = sorted(
        (names[image], chain.classes[k], bool(crowd), *box)
        for image, k, crowd, box in zip(
            table.image_of, table.classes, table.crowd, table.boxes_xywh.tolist(), strict=True
        )
    )
    sizes = sorted(zip(names, map(tuple, table.image_sizes.tolist()), strict=True))
    return [sizes, boxes, sorted(_described(record, chain) for record in chain.records)]


def _described(record: dict[str, Any], chain: Chain) -> tuple[Any, ...]:
    height, width = record["height"], record["width"]
    objects = sorted(
        (
            chain.classes[x["category_id"]],
            int(x["iscrowd"]),
            float(x["area"]),
            tuple(map(float, x["bbox"])),
            bitmap(x["segmentation"], height, width).tobytes(),
        )
        for x in record["annotations"]
    )
    return Path(record["file_name"]).name, height, width, objects


def fixed_predictions(chain: Chain) -> dict[str, Instances]:
    """The same of each image file, near objects that the tiny dataset has, whatever the file's form."""
    found = {}
    for record in chain.records:
        rng = np.random.default_rng(int(Path(record["file_name"]).stem))
        boxes = [(4, 6, 24, 22), (30, 22, 54, 42), (12, 12, 28, 42), (10, 5, 20, 38)]
        count = len(boxes)
        instances = Instances((record["height"], record["width"]))
        jitter = torch.from_numpy(rng.uniform(-1, 1, (count, 4)))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float64) + jitter)
        instances.scores = torch.from_numpy(rng.uniform(0.3, 1, count))
        names = ("red", "green", "blue", "red")
        instances.pred_classes = torch.tensor([chain.classes.index(name) for name in names])
        masks = np.zeros((count, record["height"], record["width"]), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
            mask[y0:y1, x0 : x1 - 1] = True
        instances.pred_masks = torch.from_numpy(masks)
        found[record["file_name"]] = instances
    return found


def measured(chain: Chain) -> list[Any]:
    found = figures(chain, fixed_predictions(chain))
    return [*described(chain), {key: round(float(value), 6) for key, value in found.items()}]


@lru_cache(maxsize=1)
def as_it_is(path: Path, image_root: Path) -> list[Any]:
    """What is measured of the file in its own form."""
    return measured(accept(path, path.read_bytes(), image_root, masks=True))


def same_or_refused(files: CocoFiles, data: st.DataObject) -> None:
    before = as_it_is(files.annotations, files.image_root)
    other = files.annotations.with_name(f"{next(_numbers)}.json")
    try:
        chain = accept(other, another_form(copy.deepcopy(files.content), data), files.image_root, masks=True)
    except Refused:
        return
    assert measured(chain) == before


_settings = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(_settings, max_examples=60)
@given(data=st.data())
def test_another_form_changes_nothing(tiny_coco: CocoFiles, data: st.DataObject):
    same_or_refused(tiny_coco, data)


@pytest.mark.slow
@settings(_settings, max_examples=3000)
@given(data=st.data())
def test_another_form_changes_nothing_at_length(tiny_coco: CocoFiles, data: st.DataObject):
    same_or_refused(tiny_coco, data)


def unchanged(files: CocoFiles) -> list[Any]:
    return as_it_is(files.annotations, files.image_root)


def accepted(files: CocoFiles, change: Callable[[Content], None], encode: Callable[[str], bytes] = str.encode) -> Chain:
    content = copy.deepcopy(files.content)
    change(content)
    path = files.annotations.with_name("other.json")
    return accept(path, encode(json.dumps(content)), files.image_root, masks=True)


@pytest.mark.parametrize("change", [renumber_images, renumber_annotations, renumber_categories])
@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_ids_of_any_kind_are_read(tiny_coco: CocoFiles, change: Callable[..., None], numbering: str):
    before = unchanged(tiny_coco)
    assert before[-1]["bbox/AP"] > 20
    assert measured(accepted(tiny_coco, lambda content: change(content, NUMBERINGS[numbering]))) == before


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_read(tiny_coco: CocoFiles, encoding: str):
    same = accepted(tiny_coco, lambda _: None, ENCODINGS[encoding])
    assert measured(same) == unchanged(tiny_coco)


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_are_read(tiny_coco: CocoFiles, flags: str):
    changed = accepted(tiny_coco, lambda content: write_flags(content, FLAGS[flags]))
    assert measured(changed) == unchanged(tiny_coco)
