"""`python -m detr_d2 quickstart-segmentation`: the quickstart's detectors learn masks, DETR panoptic maps, too."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..experiments.shapes_data import add_image_counts, make_both, shapes_panoptic_spec
from ..experiments.trained_comparison import Page, Trained, compare_trained, file_name, job_options, train
from ..experiments.training_job import TrainingJob
from ..files import file_hash
from .quickstart_command import add_common_options, run_quickstart

MASK_MODELS = {
    "DETR": ("quickstart/detr_shapes_segm.yaml", "detr"),
    "Mask R-CNN": ("quickstart/mask_rcnn_shapes.yaml", "faster_rcnn"),
}
"""Title -> config, and the folder of `quickstart` whose model it begins with."""

PANOPTIC_CONFIG = "quickstart/detr_shapes_panoptic.yaml"
STEPS = 8
SHOWN_WIDTH = 320


def build_parser() -> argparse.ArgumentParser:
    """The command line of quickstart-segmentation."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 quickstart-segmentation",
        description="Begins with the models of `quickstart`: trains a mask head for DETR and one for Faster R-CNN "
        "(Mask R-CNN), compares both on one page, and trains panoptic segmentation of shapes in front of sky, ground "
        "and water: about half an hour of one core. Run again, it continues where it was stopped.",
    )
    parser.add_argument(
        "--base", default="output/quickstart", metavar="DIR", help="output of a finished quickstart (%(default)s)"
    )
    add_common_options(
        parser, output="output/quickstart_segmentation", max_iter="iterations of each model (default: its config's)"
    )
    add_image_counts(parser, which="panoptic, default: ")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all of it; returns 1 when a training or a model's comparison fails."""
    return run_quickstart(
        build_parser(),
        argv,
        _run,
        counts=("train_images", "val_images"),
        check=lambda args: data_of_quickstart(Path(args.base)),
    )


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    started, output, base = time.perf_counter(), Path(args.output), Path(args.base)
    coco = data_of_quickstart(base)
    print(f"[1/{STEPS}] data: shapes of {base}; {args.train_images:,} + {args.val_images:,} panoptic images")
    panoptic = make_both(shapes_panoptic_spec, "shapes_panoptic", output / "data", args)
    page = partial(Page.of, "quickstart-segmentation", args, argv, shown_width=SHOWN_WIDTH, steps=STEPS)

    masks = []
    for step, (title, (config, folder)) in enumerate(MASK_MODELS.items(), start=2):
        print(f"[{step}/{STEPS}] {title}: training with masks and evaluation", flush=True)
        target = output / "masks" / file_name(title)
        masks.append(_train(args, title, config, base / folder, target, coco=coco))
    print(f"[4/{STEPS}] DETR: training of panoptic segmentation and evaluation", flush=True)
    model = _train(args, "DETR", PANOPTIC_CONFIG, base / "detr", output / "panoptic" / "detr", panoptic=panoptic)
    failed = compare_trained(masks, page(folder="masks", first_step=5), started=started)
    return failed | compare_trained([model], page(folder="panoptic", first_step=7), started=started)


def _train(
    args: argparse.Namespace,
    title: str,
    config: str,
    box_model: Path,
    output_dir: Path,
    *,
    coco: tuple[str, ...] = (),
    panoptic: tuple[str, ...] = (),
) -> Trained:
    weights = box_model / "model_final.pth"
    job = TrainingJob(
        title,
        config,
        str(output_dir),
        coco=coco,
        coco_panoptic=panoptic,
        opts=(*job_options(args.seed), "MODEL.WEIGHTS", str(weights)),
        iterations=args.max_iter,
        input_hash=file_hash(str(weights)),
    )
    return train(job, fresh=args.fresh)


def data_of_quickstart(base: Path) -> tuple[str, ...]:
    """The data of a finished `quickstart`, as for `train_net.py --coco`.

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
