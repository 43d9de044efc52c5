"""`python -m detr_d2 quickstart`: DETR and Faster R-CNN on the shapes dataset, trained for the same time, compared."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..data import read_image, register_coco
from ..data.synthetic import ShapesPaths, make_shapes
from ..engine.startup import load_config
from ..evaluation.benchmark import machine_info
from ..evaluation.compare_all import REPORT, Plan, compare_all, write_all
from ..evaluation.compare_cost import CostSettings
from ..evaluation.compare_models import Contestant, ModelSpec
from ..evaluation.compare_results import Comparison
from ..evaluation.compare_run import Settings
from ..evaluation.comparison import draw_detections, grid, ground_truth, side_by_side
from ..evaluation.prediction import ImagePredictor
from ..evaluation.results import RunResult, minutes, results_table, write_json
from .quiet import quiet_libraries
from .timed_training import TrainingError, TrainingJob, run_training
from .training_progress import TrainingProgress

DETR_CONFIG = "quickstart/detr_shapes.yaml"
FASTER_RCNN_CONFIG = "quickstart/faster_rcnn_shapes.yaml"
VAL_SEED_OFFSET = 10_000  # training and validation pictures come from different seeds
SHOWN_SCORE = 0.5
SHOWN_IMAGES = 6
SHOWN_SCALE = 2.5
COST = CostSettings(repeat=20, batch_sizes=(1, 8))  # seconds
STEPS = 5


def build_parser() -> argparse.ArgumentParser:
    """The command line of quickstart."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 quickstart",
        description="Makes a dataset of shapes, trains DETR and, for the same time, Faster R-CNN, and compares them "
        "on one page: about 15 minutes on two CPU cores. Run again, it continues where it was stopped.",
    )
    parser.add_argument("--output", default="output/quickstart", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of data, initialisation and training (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="train again even if the folder holds results")
    parser.add_argument("--max-iter", type=int, metavar="N", help="iterations of DETR (default: config's)")
    parser.add_argument("--train-images", type=int, default=2000, metavar="N", help="default: %(default)s")
    parser.add_argument("--val-images", type=int, default=500, metavar="N", help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all of it; returns 1 when a training or a model's comparison fails."""
    args = build_parser().parse_args(argv)
    for name in ("train_images", "val_images"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    if args.max_iter is not None and args.max_iter < 1:
        raise ValueError(f"--max-iter is {args.max_iter}, expected at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected at least 0")
    quiet_libraries()
    try:
        return _run(args, Path(args.output), sys.argv[1:] if argv is None else argv)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise


def _run(args: argparse.Namespace, output: Path, argv: Sequence[str]) -> int:
    started = time.perf_counter()
    jobs, results = _train_both(args, output)
    print(f"[4/{STEPS}] comparison: with and without NMS, kinds of error, cost")
    dataset = register_coco(jobs[0].coco[1])
    contestants = [_contestant(job, dataset) for job in jobs]
    comparison = _compare(contestants, dataset, args, output, argv)
    milliseconds = {x.label: x.run.inference_ms for x in comparison.models}
    results = [replace(x, inference_ms=milliseconds[x.model]) for x in results]
    print(f"[5/{STEPS}] pictures and page")
    class_names = comparison.dataset.class_names
    usable = [x for x, model in zip(contestants, comparison.models, strict=True) if not model.failed]
    predictors = {x.spec.label: x.load(nms=True, class_names=class_names)[0] for x in usable}
    _draw(DatasetCatalog.get(dataset)[:SHOWN_IMAGES], predictors, class_names, output / "pictures")
    _save_and_show(results, output)
    try:
        write_all(comparison, output / "compare")
    finally:  # where no page can be made, all else is there
        print(f"all of it took {minutes(time.perf_counter() - started)}")
    print(f"report: {output / 'compare' / REPORT}")
    return 1 if any(x.failed for x in comparison.models) else 0


def _train_both(args: argparse.Namespace, output: Path) -> tuple[list[TrainingJob], list[RunResult]]:
    print(f"[1/{STEPS}] data: {args.train_images:,} training and {args.val_images:,} validation images of shapes")
    data = output / "data"
    train = _make_data(data / f"train-seed-{args.seed}-{args.train_images}", args.train_images, args.seed)
    val_seed = args.seed + VAL_SEED_OFFSET
    val = _make_data(data / f"val-seed-{val_seed}-{args.val_images}", args.val_images, val_seed)
    job = partial(
        TrainingJob,
        coco=(f"shapes_train={train.annotations}:{train.images}", f"shapes_val={val.annotations}:{val.images}"),
        opts=("SEED", str(args.seed), "TEST.BEST_CHECKPOINT", "False"),
    )

    print(f"[2/{STEPS}] DETR: training and evaluation")
    detr = job("DETR", DETR_CONFIG, str(output / "detr"), iterations=args.max_iter)
    detr_result = _train(detr, fresh=args.fresh)

    print(f"[3/{STEPS}] Faster R-CNN: training for the same {minutes(detr_result.train_seconds)} and evaluation")
    seconds = round(detr_result.train_seconds, 1)
    faster_rcnn = job("Faster R-CNN", FASTER_RCNN_CONFIG, str(output / "faster_rcnn"), seconds=seconds)
    faster_rcnn_result = _train(faster_rcnn, fresh=args.fresh)
    share = 100 * faster_rcnn_result.train_seconds / detr_result.train_seconds
    print(f"Faster R-CNN was trained for {share:.0f} % of DETR's time")
    if not 80 <= share <= 120:
        print("note: that is more than 20 % off, so the machine was unsteady; --fresh repeats the comparison")
    return [detr, faster_rcnn], [detr_result, faster_rcnn_result]


def _make_data(folder: Path, num_images: int, seed: int) -> ShapesPaths:
    with tqdm(desc=folder.name, total=num_images, unit="image", leave=False, disable=None) as bar:
        paths = make_shapes(folder, num_images, seed, on_image=lambda _: bar.update())
    if paths.reused:
        print(f"{folder} is there already")
    return paths


def _train(job: TrainingJob, *, fresh: bool) -> RunResult:
    with TrainingProgress(job.title) as progress:
        result = run_training(job, progress, fresh=fresh)
    print(
        f"{job.title}: AP {result.ap:.1f}, AP50 {result.ap50:.1f} after {result.iterations:,} iterations "
        f"in {minutes(result.train_seconds)}; log: {job.log}"
    )
    return result


def _contestant(job: TrainingJob, dataset: str) -> Contestant:
    cfg = load_config(job.config_file, job.opts)
    cfg.MODEL.DEVICE = _device()
    spec = ModelSpec(job.title, job.config_file, str(Path(job.output_dir) / "model_final.pth"))
    return Contestant.prepare(spec, cfg, dataset=dataset, seed=cfg.SEED)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _compare(
    contestants: Sequence[Contestant], dataset: str, args: argparse.Namespace, output: Path, argv: Sequence[str]
) -> Comparison:
    settings = Settings(cost=COST)
    plan = Plan(
        dataset=dataset,
        output=output / "compare",
        settings=settings,
        device=_device(),
        command=shlex.join(["python", "-m", "detr_d2", "quickstart", *argv]),
        fresh=args.fresh,
        options={
            "score_threshold": settings.score_threshold,
            "resamples": settings.resamples,
            "repeat": COST.repeat,
            "seed": args.seed,
        },
    )
    comparison = compare_all(contestants, plan)
    for model in comparison.models:
        if model.failed:
            print(f"error: {model.label} cannot be compared: {model.failed}", file=sys.stderr)
    return comparison


def _draw(
    dataset: Sequence[dict[str, Any]],
    predictors: Mapping[str, ImagePredictor],
    class_names: Sequence[str],
    folder: Path,
) -> None:
    """Ground truth and the detections of each model side by side: a file per image, and all of them in one."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(draw_detections, class_names=class_names, scale=SHOWN_SCALE)
    rows = []
    for x in tqdm(dataset, desc="pictures", unit="image", leave=False, disable=None):
        path = Path(x["file_name"])
        image_bgr = read_image(path, "BGR")
        detections = {title: predictor(image_bgr) for title, predictor in predictors.items()}
        shown = {"ground truth": ground_truth(x)}
        shown.update({title: found[found.scores >= SHOWN_SCORE] for title, found in detections.items()})
        rows.append(side_by_side([draw(image_bgr[:, :, ::-1], found) for found in shown.values()], list(shown)))
        _write_png(folder / f"{path.stem}.png", rows[-1])
    _write_png(folder / "side_by_side.png", grid(rows, columns=2))


def _write_png(path: Path, image_rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image_rgb[:, :, ::-1]):
        raise OSError(f"cannot write {path}")


def _save_and_show(results: Sequence[RunResult], output: Path) -> None:
    for result in results:
        result.save(output / f"{result.model.lower().replace(' ', '_').replace('-', '')}.json")
    (output / "results.md").write_text(results_table(results, markdown=True) + "\n", encoding="utf-8")
    machine = machine_info(_device())
    write_json(output / "machine.json", machine)
    print()
    print(results_table(results))
    print()
    print(f"validation data: {results[0].dataset}; machine: " + ", ".join(f"{k} {v}" for k, v in machine.items()))
    print(f"pictures: {output / 'pictures' / 'side_by_side.png'}")
    print(f"results:  {output / 'results.md'}; as JSON: detr.json, faster_rcnn.json")
