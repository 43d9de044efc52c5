"""The mapper of this package against detectron2's with the same augmentation, on the same JPEG files."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image
from torch.nn import functional as F

from ..data import DetrDatasetMapper, build_detr_augmentation
from ..data.draws import seeded_numpy
from ..engine.startup.setup import load_config
from .report import measure, report

Mapper = Callable[[dict[str, Any]], "dict[str, Any] | None"]


def mapper(args: argparse.Namespace) -> int:
    """Images per second of both mappers; pixels, boxes and classes must be equal to the last bit."""
    cfg = load_config(args.config_file, args.opts)
    with tempfile.TemporaryDirectory() as folder:
        records = make_jpegs(Path(folder), images=args.images, size=args.size, objects=args.objects, seed=args.seed)
        mappers = both_mappers(cfg)
        mapped = [map_all(x, records, args.seed) for x in mappers.values()]
        unequal = unequal_samples(*mapped)
        if unequal:
            print(f"error: {len(unequal)} of {len(records)} samples differ; times would mean nothing", file=sys.stderr)
            return 1
        print(f"{args.images} JPEG files of {args.size[1]}x{args.size[0]}: pixels, boxes and classes are equal")
        timings = measure({name: partial(map_all, x, records, args.seed) for name, x in mappers.items()}, args.repeat)
    rates = {x.name: args.images / (x.median_ms / 1000) for x in timings}
    print(f"images a second: {', '.join(f'{name} {rate:.1f}' for name, rate in rates.items())}")
    report(timings, {"images_per_second": rates}, args)
    return 0


def make_jpegs(folder: Path, *, images: int, size: tuple[int, int], objects: int, seed: int) -> list[dict[str, Any]]:
    """Writes smooth pictures with some noise, and makes their dataset dicts with polygons, as COCO has them.

    Args:
        folder: for the files.
        images: how many.
        size: height and width.
        objects: of every image.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    records = []
    for index in range(images):
        coarse = torch.rand(1, 3, max(1, size[0] // 24), max(1, size[1] // 24), generator=generator)
        smooth = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)[0]
        noisy = 0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=generator)
        path = folder / f"{index:05d}.jpg"
        Image.fromarray((255 * noisy).to(torch.uint8).permute(1, 2, 0).numpy()).save(path, quality=90)
        annotations = [_annotation(size, generator) for _ in range(objects)]
        records.append(
            {
                "file_name": str(path),
                "height": size[0],
                "width": size[1],
                "image_id": index,
                "annotations": annotations,
            }
        )
    return records


def _annotation(size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    scale = torch.tensor([size[1], size[0]])
    extent = (0.05 + 0.5 * torch.rand(2, generator=generator)) * scale
    corner = torch.rand(2, generator=generator) * (scale - extent)
    polygon = corner + extent * torch.rand(20, 2, generator=generator)
    return {
        "bbox": [round(x, 2) for x in torch.cat([corner, extent]).tolist()],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(torch.randint(80, (), generator=generator)),
        "iscrowd": 0,
        "segmentation": [polygon.flatten().tolist()],
    }


def both_mappers(cfg: CfgNode) -> dict[str, Mapper]:
    """Ours, and detectron2's with the transforms of ours; targets are boxes."""
    augmentations = build_detr_augmentation(cfg)
    arguments: dict[str, Any] = {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT}
    return {
        "ours": DetrDatasetMapper(is_train=True, **arguments),
        "detectron2": DatasetMapper(is_train=True, **arguments),
    }


def map_all(mapper: Mapper, records: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any] | None]:
    """Maps every record once; a mapper with the same seed draws the same augmentation."""
    with seeded_numpy(seed):
        return [mapper(record) for record in records]


def unequal_samples(ours: Sequence[Any], theirs: Sequence[Any]) -> list[int]:
    """Indices of the samples whose pixels, boxes or classes are not equal to the last bit."""
    return [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not _equal(a, b)]


def _equal(a: Any, b: Any) -> bool:
    x, y = a["instances"], b["instances"]
    return (
        torch.equal(a["image"], b["image"])
        and torch.equal(x.gt_boxes.tensor, y.gt_boxes.tensor)
        and np.array_equal(x.gt_classes.numpy(), y.gt_classes.numpy())
    )
