"""`python -m detr_d2 quickstart-real`: Deformable DETR and Faster R-CNN on real images, each by its own schedule."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog

from ..compare.results import minutes
from ..data import register_coco
from ..engine.startup.setup import load_config
from ..experiments.trained_comparison import (
    STEPS,
    Page,
    Trained,
    compare_trained,
    file_name,
    job_options,
    train,
    train_for_the_time_of,
    training_of,
)
from ..experiments.training_job import TrainingJob
from ..files import file_hash
from .quickstart_command import add_common_options, run_quickstart

MODELS = {
    "Deformable DETR": "quickstart/deformable_detr_bccd.yaml",
    "Faster R-CNN": "quickstart/faster_rcnn_bccd.yaml",
}
TRAIN_FILE, VAL_FILE, IMAGES = "train.json", "val.json", "images"
SHOWN_WIDTH = 480


def build_parser() -> argparse.ArgumentParser:
    """The command line of quickstart-real."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 quickstart-real",
        description="Trains Deformable DETR and Faster R-CNN on real images, from scratch, each by the schedule of its "
        "own config, and compares them on one page: about 45 minutes on two cores where the processor computes "
        "in bfloat16. The configs are made for the BCCD blood cells and take any data of this form. Run again, it "
        "continues where it was stopped.",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help=f"folder with {TRAIN_FILE} and {VAL_FILE} in COCO format, and the images of both in {IMAGES}/",
    )
    add_common_options(
        parser,
        output="output/quickstart_real",
        max_iter="iterations of each detector, with --same-time of Deformable DETR (default: its config's)",
    )
    parser.add_argument(
        "--same-time", action="store_true", help="train Faster R-CNN for the time that Deformable DETR has taken"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all of it; returns 1 when a training or a model's comparison fails."""
    return run_quickstart(build_parser(), argv, _run, check=lambda args: check_data(args.data))


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    started, output = time.perf_counter(), Path(args.output)
    models = _train_both(args, output)
    print("trained: " + "; ".join(f"{x.job.title} {training_of(x.result)}" for x in models))
    return compare_trained(models, Page.of("quickstart-real", args, argv, shown_width=SHOWN_WIDTH), started=started)


def _train_both(args: argparse.Namespace, output: Path) -> list[Trained]:
    folder = check_data(args.data)
    coco = coco_specs(folder)
    train_images, val_images = (len(DatasetCatalog.get(register_coco(spec))) for spec in coco)
    print(f"[1/{STEPS}] data: {train_images:,} training and {val_images:,} validation images of {folder}")
    opts = job_options(args.seed)
    if has_bfloat16():
        print("this processor computes in bfloat16: both are trained with SOLVER.AMP.ENABLED True")
        opts += ("SOLVER.AMP.ENABLED", "True")
    models: list[Trained] = []
    for step, (title, config) in enumerate(MODELS.items(), start=2):
        same_time = bool(models) and args.same_time
        schedule = f"for the same {minutes(models[0].result.train_seconds)}" if same_time else "by its own schedule"
        print(f"[{step}/{STEPS}] {title}: training {schedule} and evaluation", flush=True)
        job = TrainingJob(
            title,
            config,
            str(output / file_name(title)),
            coco=coco,
            opts=opts,
            iterations=args.max_iter,
            input_hash=" ".join(file_hash(str(folder / name)) for name in (TRAIN_FILE, VAL_FILE)),
        )
        if same_time:
            models.append(train_for_the_time_of(models[0], job, fresh=args.fresh))
        else:
            models.append(train(job, fresh=args.fresh))
    return models


def has_bfloat16() -> bool:
    """Whether training on this machine is on a CPU with instructions for bfloat16.

    Without them autocast is slower than float32.
    """
    if torch.cuda.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def check_data(text: str) -> Path:
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
    """Training and validation data under the names that the configs give them."""
    datasets = load_config(next(iter(MODELS.values()))).DATASETS
    names = (datasets.TRAIN[0], datasets.TEST[0])
    files = (TRAIN_FILE, VAL_FILE)
    train_spec, val_spec = (f"{x}={folder / file}:{folder / IMAGES}" for x, file in zip(names, files, strict=True))
    return train_spec, val_spec
