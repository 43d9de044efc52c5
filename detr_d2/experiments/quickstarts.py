"""The three quickstarts: which detectors they train on what data, and which they compare."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..data import register_coco
from ..data.shapes.synthetic import make_shapes
from ..engine.startup.setup import load_config
from ..files import file_hash
from .side_by_side import SideBySide

SHAPES = {"DETR": "quickstart/detr_shapes.yaml", "Faster R-CNN": "quickstart/faster_rcnn_shapes.yaml"}
REAL = {"Deformable DETR": "quickstart/deformable_detr_bccd.yaml", "Faster R-CNN": "quickstart/faster_rcnn_bccd.yaml"}
MASKS = {
    "DETR": ("quickstart/detr_shapes_segm.yaml", "detr"),
    "Mask R-CNN": ("quickstart/mask_rcnn_shapes.yaml", "faster_rcnn"),
}
"""Title -> config, and the folder of the quickstart on shapes whose model it begins with."""

PANOPTIC = "quickstart/detr_shapes_panoptic.yaml"
TRAIN_FILE, VAL_FILE, IMAGES = "train.json", "val.json", "images"
VAL_SEED_OFFSET = 10_000
"""Training and validation pictures come from different seeds."""


@dataclass(frozen=True)
class Quickstart:
    """One of them.

    Attributes:
        name: in the record of its folder.
        steps, shown_width: see `SideBySide`.
        work: all of it; returns the exit code, 1 when a model cannot be compared.
        check: raises ValueError for what is wrong with the options, before anything is written.
    """

    name: str
    steps: int
    shown_width: int
    work: Callable[[SideBySide], int]
    check: Callable[[argparse.Namespace], object] = lambda _: None


def on_shapes(run: SideBySide) -> int:
    """DETR and, for the same time, Faster R-CNN."""
    args = run.args
    run.step(f"data: {args.train_images:,} training and {args.val_images:,} validation images of shapes")
    coco = _both_splits(run, "shapes")
    detr, faster_rcnn = SHAPES.items()
    first = run.train(*detr, coco=coco)
    return run.compare([first, run.train(*faster_rcnn, coco=coco, time_of=first)])


def on_real_images(run: SideBySide) -> int:
    """Deformable DETR and Faster R-CNN on a folder of images, each by the schedule of its own config."""
    folder = check_data(run.args.data)
    coco = coco_specs(folder)
    train_images, val_images = (len(DatasetCatalog.get(register_coco(spec))) for spec in coco)
    run.step(f"data: {train_images:,} training and {val_images:,} validation images of {folder}")
    more: dict[str, Any] = {"coco": coco, "how": " by its own schedule"}
    more["input_hash"] = " ".join(file_hash(str(folder / name)) for name in (TRAIN_FILE, VAL_FILE))
    if has_bfloat16():
        print("this processor computes in bfloat16: both are trained with SOLVER.AMP.ENABLED True")
        more["opts"] = ("SOLVER.AMP.ENABLED", "True")
    deformable, faster_rcnn = REAL.items()
    first = run.train(*deformable, **more)
    models = [first, run.train(*faster_rcnn, time_of=first if run.args.same_time else None, **more)]
    print("trained: " + "; ".join(f"{x.job.title} {x}" for x in models))
    return run.compare(models)


def of_segmentation(run: SideBySide) -> int:
    """Mask heads for the models of the quickstart on shapes, and DETR on panoptic maps."""
    args, base = run.args, Path(run.args.base)
    coco = data_of_quickstart(base)
    run.step(f"data: shapes of {base}; {args.train_images:,} + {args.val_images:,} panoptic images")
    panoptic = _both_splits(run, "shapes_panoptic", panoptic=True)

    def begun_with(folder: str) -> dict[str, Any]:
        weights = str(base / folder / "model_final.pth")
        return {"opts": ("MODEL.WEIGHTS", weights), "input_hash": file_hash(weights)}

    masks = [
        run.train(title, config, "masks", how=" with masks", coco=coco, **begun_with(folder))
        for title, (config, folder) in MASKS.items()
    ]
    how = " of panoptic segmentation"
    model = run.train("DETR", PANOPTIC, "panoptic", how=how, coco=(), coco_panoptic=panoptic, **begun_with("detr"))
    failed = run.compare(masks, "masks")
    return failed | run.compare([model], "panoptic")


def shapes_spec(name: str, folder: Path, num_images: int, seed: int, *, panoptic: bool = False) -> str:
    """Makes pictures of shapes, or takes those that are there.

    Args:
        name: of the dataset.
        folder: for its files.
        num_images: in it.
        seed: of its pictures.
        panoptic: with sky, ground and water behind the shapes, and panoptic ground truth.

    Returns:
        As for `train_net.py --coco`, or with `panoptic` for `--coco-panoptic`.

    Raises:
        ValueError: the folder holds something else.
    """
    with tqdm(desc=folder.name, total=num_images, unit="image", leave=False, disable=None) as bar:
        paths = make_shapes(folder, num_images, seed, on_image=lambda _: bar.update(), panoptic=panoptic)
    if paths.reused:
        print(f"{folder} is there already")
    return paths.panoptic_spec(name) if panoptic else paths.coco_spec(name)


def _both_splits(run: SideBySide, prefix: str, *, panoptic: bool = False) -> tuple[str, str]:
    """Training and validation data of the options, under names that begin with a prefix."""
    data, seed = run.output / "data", run.args.seed
    splits = {"train": (seed, run.args.train_images), "val": (seed + VAL_SEED_OFFSET, run.args.val_images)}
    train, val = (
        shapes_spec(f"{prefix}_{split}", data / f"{split}-seed-{seed}-{count}", count, seed, panoptic=panoptic)
        for split, (seed, count) in splits.items()
    )
    return train, val


def check_data(text: str | None) -> Path:
    """The folder of `--data`.

    Raises:
        ValueError: it is not there, or something of it is missing.
    """
    expected = f"expected a folder with {TRAIN_FILE} and {VAL_FILE} in COCO format and the images of both in {IMAGES}/"
    if not text:
        raise ValueError(f"--data names no folder (`make quickstart-real DATA=path/to/bccd`); {expected}")
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--data {text}: there is no such folder; {expected}")
    missing = [x for x in (TRAIN_FILE, VAL_FILE) if not (folder / x).is_file()]
    missing += [] if (folder / IMAGES).is_dir() else [f"{IMAGES}/"]
    if missing:
        raise ValueError(f"--data {text}: the folder has no {' and no '.join(missing)}; {expected}")
    return folder


def coco_specs(folder: Path) -> tuple[str, str]:
    """Training and validation data of a folder, under the names that the configs give them."""
    datasets = load_config(next(iter(REAL.values()))).DATASETS
    images = folder / IMAGES
    return (
        f"{datasets.TRAIN[0]}={folder / TRAIN_FILE}:{images}",
        f"{datasets.TEST[0]}={folder / VAL_FILE}:{images}",
    )


def has_bfloat16() -> bool:
    """Whether training on this machine is on a CPU with instructions for bfloat16.

    Without them autocast is slower than float32.
    """
    if torch.cuda.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def data_of_quickstart(base: Path) -> tuple[str, ...]:
    """The data of a finished quickstart on shapes, as for `train_net.py --coco`.

    Args:
        base: its output folder.

    Raises:
        ValueError: one of its models is not there or not finished, or they were not trained on the same data.
    """
    specs: set[tuple[str, ...]] = set()
    for folder in ("detr", "faster_rcnn"):
        for name in ("model_final.pth", "job.json", "result.json"):
            if not (base / folder / name).is_file():
                raise ValueError(
                    f"--base {base}: {folder}/{name} is not there; run `make quickstart` (python -m detr_d2 "
                    "quickstart) to its end first: training begins with its models"
                )
        job = json.loads((base / folder / "job.json").read_text(encoding="utf-8"))
        specs.add(tuple(job.get("coco", ())))
    if len(specs) > 1 or len(coco := specs.pop()) != 2:
        raise ValueError(f"--base {base}: expected two models trained on one pair of datasets, as `quickstart` does")
    return coco


QUICKSTARTS = {
    "shapes": Quickstart("quickstart", 5, 320, on_shapes),
    "real": Quickstart("quickstart-real", 5, 480, on_real_images, lambda args: check_data(args.data)),
    "segmentation": Quickstart(
        "quickstart-segmentation", 8, 320, of_segmentation, lambda args: data_of_quickstart(Path(args.base))
    ),
}
