"""What the quickstarts share: detectors trained one after the other, then a table, pictures and one page of both."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from tqdm import tqdm

from ..compare.compare_all import compare_all
from ..compare.cost.cost import CostSettings
from ..compare.cost.timing import machine_info
from ..compare.models import Contestant, ModelSpec
from ..compare.records import Comparison
from ..compare.report.files import REPORT, write_all
from ..compare.results import SEGMENTATION_FIGURES, RunResult, minutes, results_table
from ..compare.run import Plan, Settings
from ..data import read_image, register_coco, register_coco_panoptic
from ..data.panoptic.file import read_segment_ids
from ..engine.startup.setup import add_coco_datasets, load_config
from ..files import write_json, write_picture, write_text
from ..panoptic_classes import PanopticClasses
from ..prediction.output_names import OutputNames
from ..prediction.predictor import ImagePredictor
from ..visualization.side_by_side import draw_detections, grid, ground_truth, segments_as_instances, side_by_side
from .timed_training import run_training
from .training_job import TrainingJob, place
from .training_progress import TrainingProgress

SHOWN_SCORE = 0.5
SHOWN_IMAGES = 6
COST = CostSettings(repeat=20, batch_sizes=(1, 8))  # seconds
STEPS = 5


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        job: what was asked for.
        result: what came of it.
    """

    job: TrainingJob
    result: RunResult


@dataclass(frozen=True)
class Page:
    """What a quickstart says of itself.

    Attributes:
        name: of the command.
        argv: its arguments, for the reader who wants to repeat it.
        output: folder of everything.
        fresh: whether the models are run again even if the cache knows them.
        options: to be written down beside the results.
        shown_width: of a picture among those that show detections, in pixels.
        first_step: of the two steps of a comparison, among all `steps` that the command counts for its user.
    """

    name: str
    argv: Sequence[str]
    output: Path
    fresh: bool
    options: Mapping[str, Any]
    shown_width: int
    first_step: int = STEPS - 1
    steps: int = STEPS

    @classmethod
    def of(cls, name: str, args: argparse.Namespace, argv: Sequence[str], *, folder: str = ".", **more: int) -> Page:
        """Of a command with the options of `add_common_options`; everything goes into a folder of its output."""
        return cls(name, argv, Path(args.output) / folder, args.fresh, {"seed": args.seed}, **more)


def file_name(title: str) -> str:
    """ "Faster R-CNN" -> "faster_rcnn"."""
    return title.lower().replace(" ", "_").replace("-", "")


def job_options(seed: int) -> tuple[str, ...]:
    """Config overrides of every training."""
    return ("SEED", str(seed), "TEST.BEST_CHECKPOINT", "False")


def train(job: TrainingJob, *, fresh: bool) -> Trained:
    """Trains and evaluates a model, or takes what is there, and says what came of it.

    Raises:
        TrainingError: the training failed.
        ValueError: the output folder holds something else.
    """
    job = place(job, fresh=fresh)
    with TrainingProgress(job.title) as progress:
        result = run_training(job, progress, fresh=fresh)
    figures = {
        "AP": result.ap,
        "AP50": result.ap50,
        **{k: v for k, v in result.extra.items() if k in SEGMENTATION_FIGURES},
    }
    shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    print(f"{job.title}: {shown} after {training_of(result)}; log: {job.log}", flush=True)
    return Trained(job, result)


def train_for_the_time_of(reference: Trained, job: TrainingJob, *, fresh: bool) -> Trained:
    """Trains another model for as long as the first was, and says how well that was kept.

    Raises:
        TrainingError, ValueError: as `train`.
    """
    trained = train(replace(job, iterations=None, seconds=round(reference.result.train_seconds, 1)), fresh=fresh)
    share = 100 * trained.result.train_seconds / reference.result.train_seconds
    print(f"{job.title} was trained for {share:.0f} % of {reference.job.title}'s time")
    if not 80 <= share <= 120:
        print("note: that is more than 20 % off, so the machine was unsteady; --fresh repeats the comparison")
    return trained


def training_of(result: RunResult) -> str:
    """As in "1,700 iterations in 6:14"."""
    return f"{result.iterations:,} iterations in {minutes(result.train_seconds)}"


def compare_trained(models: Sequence[Trained], page: Page, *, started: float) -> int:
    """Compares models on the validation data of their trainings; prints the table and, as the last line, the page.

    Args:
        models: of one dataset.
        page: see there.
        started: when the command was, by `time.perf_counter`.

    Returns:
        The exit code; 1 when a model cannot be compared.

    Raises:
        ImportError: the page needs a package that is not there; all else is written.
    """
    print(f"[{page.first_step}/{page.steps}] comparison: with and without NMS, kinds of error, cost", flush=True)
    job = models[0].job
    dataset = register_coco_panoptic(job.coco_panoptic[1]) if job.coco_panoptic else register_coco(job.coco[1])
    contestants = [_contestant(x.job, dataset) for x in models]
    comparison = _compare(contestants, models, dataset, page)
    milliseconds = {x.label: x.run.inference_ms for x in comparison.models}
    results = [replace(x.result, inference_ms=milliseconds[x.result.model]) for x in models]
    print(f"[{page.first_step + 1}/{page.steps}] pictures and page", flush=True)
    class_names = comparison.dataset.class_names
    usable = [x for x, model in zip(contestants, comparison.models, strict=True) if not model.failed]
    predictors = {x.spec.label: x.load(nms=True, class_names=class_names)[0] for x in usable}
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(dataset)) if job.coco_panoptic else None
    _draw(DatasetCatalog.get(dataset)[:SHOWN_IMAGES], predictors, class_names=class_names, classes=classes, page=page)
    _save_and_show(results, page.output)
    try:
        write_all(comparison, page.output / "compare")
    finally:  # where no page can be made, all else is there
        print(f"all of it took {minutes(time.perf_counter() - started)}")
    print(f"report: {page.output / 'compare' / REPORT}")
    return 1 if any(x.failed for x in comparison.models) else 0


def _contestant(job: TrainingJob, dataset: str) -> Contestant:
    cfg = load_config(job.config_file, job.opts)
    cfg.MODEL.DEVICE = _device()
    add_coco_datasets(cfg, job.coco, job.coco_panoptic)  # in place of those that the config names
    spec = ModelSpec(job.title, job.config_file, str(Path(job.output_dir) / "model_final.pth"))
    return Contestant.prepare(spec, cfg, dataset=dataset, seed=cfg.SEED)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _compare(contestants: Sequence[Contestant], models: Sequence[Trained], dataset: str, page: Page) -> Comparison:
    settings = Settings(cost=COST)
    plan = Plan(
        dataset=dataset,
        output=page.output / "compare",
        settings=settings,
        device=_device(),
        command=shlex.join(["python", "-m", "detr_d2", page.name, *page.argv]),
        fresh=page.fresh,
        options={
            "score_threshold": settings.score_threshold,
            "resamples": settings.resamples,
            "repeat": COST.repeat,
            **page.options,
            **{
                f"training of {x.job.title}": training_of(x.result)
                + (", mixed precision" if contestant.cfg.SOLVER.AMP.ENABLED else "")
                for x, contestant in zip(models, contestants, strict=True)
            },
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
    *,
    class_names: Sequence[str],
    classes: PanopticClasses | None,
    page: Page,
) -> None:
    """Ground truth and the detections of each model side by side: a file per image, and all of them in one.

    Panoptic maps take the place of detections where there are `classes` of them.
    """
    folder = page.output / "pictures"
    names = classes.names if classes else class_names
    rows, pictures = [], OutputNames(["side_by_side.png"])
    for record in tqdm(dataset, desc="pictures", unit="image", leave=False, disable=None):
        path = Path(record["file_name"])
        image_bgr = read_image(path, "BGR")
        draw = partial(draw_detections, class_names=names, scale=page.shown_width / image_bgr.shape[1])
        if classes:
            shown = _segments(record, image_bgr, predictors, classes)
        else:
            shown = _detections(record, image_bgr, predictors)
        rows.append(side_by_side([draw(image_bgr[:, :, ::-1], found) for found in shown.values()], list(shown)))
        write_picture(folder / pictures.claim(Path(f"{path.stem}.png")), rows[-1])
    write_picture(folder / "side_by_side.png", grid(rows, columns=2))


def _detections(
    record: dict[str, Any], image_bgr: np.ndarray, predictors: Mapping[str, ImagePredictor]
) -> dict[str, Instances]:
    found = {title: predictor(image_bgr) for title, predictor in predictors.items()}
    masks = any(x.has("pred_masks") for x in found.values())
    shown = {title: x[x.scores >= SHOWN_SCORE] for title, x in found.items()}
    return {"ground truth": ground_truth(record, masks=masks), **shown}


def _segments(
    record: dict[str, Any], image_bgr: np.ndarray, predictors: Mapping[str, ImagePredictor], classes: PanopticClasses
) -> dict[str, Instances]:
    truth = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"], record["segments_info"], None))
    shown = {"ground truth": segments_as_instances(truth, record["segments_info"], classes)}
    for title, predictor in predictors.items():
        segment_map, segments = predictor.outputs(image_bgr)["panoptic_seg"]
        shown[title] = segments_as_instances(segment_map.cpu(), segments, classes)
    return shown


def _save_and_show(results: Sequence[RunResult], output: Path) -> None:
    files = [f"{file_name(x.model)}.json" for x in results]
    for result, file in zip(results, files, strict=True):
        result.save(output / file)
    write_text(output / "results.md", results_table(results, markdown=True) + "\n")
    machine = machine_info(_device())
    write_json(output / "machine.json", machine)
    print()
    print(results_table(results))
    print()
    print(f"validation data: {results[0].dataset}; machine: " + ", ".join(f"{k} {v}" for k, v in machine.items()))
    print(f"pictures: {output / 'pictures' / 'side_by_side.png'}")
    print(f"results:  {output / 'results.md'}; as JSON: {', '.join(files)}")
