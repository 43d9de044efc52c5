"""`python -m detr_d2 quickstart`: DETR and Faster R-CNN on the shapes dataset, trained for the same time, compared."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..compare.results import minutes
from ..experiments.shapes_data import add_image_counts, make_both, shapes_spec
from ..experiments.trained_comparison import (
    STEPS,
    Page,
    Trained,
    compare_trained,
    job_options,
    train,
    train_for_the_time_of,
)
from ..experiments.training_job import TrainingJob
from .quickstart_command import add_common_options, run_quickstart

DETR_CONFIG = "quickstart/detr_shapes.yaml"
FASTER_RCNN_CONFIG = "quickstart/faster_rcnn_shapes.yaml"
SHOWN_WIDTH = 320


def build_parser() -> argparse.ArgumentParser:
    """The command line of quickstart."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 quickstart",
        description="Makes a dataset of shapes, trains DETR and, for the same time, Faster R-CNN, and compares them "
        "on one page: about 15 minutes on two CPU cores. Run again, it continues where it was stopped.",
    )
    add_common_options(parser, output="output/quickstart", max_iter="iterations of DETR (default: config's)")
    add_image_counts(parser, which="default: ")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all of it; returns 1 when a training or a model's comparison fails."""
    return run_quickstart(build_parser(), argv, _run, counts=("train_images", "val_images"))


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    started, output = time.perf_counter(), Path(args.output)
    models = _train_both(args, output)
    return compare_trained(models, Page.of("quickstart", args, argv, shown_width=SHOWN_WIDTH), started=started)


def _train_both(args: argparse.Namespace, output: Path) -> list[Trained]:
    print(f"[1/{STEPS}] data: {args.train_images:,} training and {args.val_images:,} validation images of shapes")
    coco = make_both(shapes_spec, "shapes", output / "data", args)
    job = partial(TrainingJob, coco=coco, opts=job_options(args.seed))

    print(f"[2/{STEPS}] DETR: training and evaluation")
    detr = train(job("DETR", DETR_CONFIG, str(output / "detr"), iterations=args.max_iter), fresh=args.fresh)

    print(f"[3/{STEPS}] Faster R-CNN: training for the same {minutes(detr.result.train_seconds)} and evaluation")
    faster_rcnn = train_for_the_time_of(
        detr, job("Faster R-CNN", FASTER_RCNN_CONFIG, str(output / "faster_rcnn")), fresh=args.fresh
    )
    return [detr, faster_rcnn]
