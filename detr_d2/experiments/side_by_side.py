"""The one runner of the quickstarts: trains detectors one after the other, then makes one page of all of them."""

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
from ..compare.records.comparison import Comparison
from ..compare.records.results import SEGMENTATION_FIGURES, RunResult, minutes, results_table
from ..compare.report.files import REPORT, write_all
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
from .training_job import TrainingJob, job_options, place
from .training_progress import TrainingProgress

SHOWN_SCORE = 0.5
SHOWN_IMAGES = 6
COST = CostSettings(repeat=20, batch_sizes=(1, 8))  # seconds


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        job: what was asked for.
        result: what came of it.
    """

    job: TrainingJob
    result: RunResult

    def __str__(self) -> str:
        """As in "1,700 iterations in 6:14"."""
        return f"{self.result.iterations:,} iterations in {minutes(self.result.train_seconds)}"


class SideBySide:
    """Trainings and comparisons of one call of a command, whose steps are counted aloud.

    Args:
        args: `output` folder of everything, `seed`, `fresh`, and `max_iter` of the trainings.
        argv: command and arguments, for the reader of a page who wants to repeat it.
        steps: how many steps there are: one of the data, one a training, two a comparison.
        shown_width: of a picture among those that show detections, in pixels.
    """

    def __init__(self, args: argparse.Namespace, argv: Sequence[str], *, steps: int, shown_width: int) -> None:
        self.args, self.argv = args, argv
        self.output = Path(args.output)
        self.shown_width = shown_width
        self._steps, self._step, self._started = steps, 0, time.perf_counter()

    def step(self, text: str) -> None:
        """Says what comes next."""
        self._step += 1
        print(f"[{self._step}/{self._steps}] {text}", flush=True)

    def train(
        self, title: str, config: str, folder: str = "", *, how: str = "", time_of: Trained | None = None, **more: Any
    ) -> Trained:
        """Trains and evaluates a model, or takes what is there, and says what came of it.

        Args:
            title: of the model.
            config: path or name.
            folder: in the output, for the folder of the model.
            how: what to say of the training.
            time_of: train for as long as this one took; for `--max-iter` iterations, or the config's, when None.
            more: further attributes of `TrainingJob`; `opts` come after those of every training.

        Raises:
            TrainingError: the training failed.
            ValueError: the output folder holds something else.
        """
        how = how if time_of is None else f" for the same {minutes(time_of.result.train_seconds)}"
        self.step(f"{title}: training{how} and evaluation")
        job = TrainingJob(
            title,
            config,
            str(self.output / folder / file_name(title)),
            iterations=None if time_of else self.args.max_iter,
            seconds=round(time_of.result.train_seconds, 1) if time_of else None,
            opts=(*job_options(self.args.seed), *more.pop("opts", ())),
            **more,
        )
        job = place(job, fresh=self.args.fresh)
        with TrainingProgress(title) as progress:
            trained = Trained(job, run_training(job, progress, fresh=self.args.fresh))
        result = trained.result
        figures = {"AP": result.ap, "AP50": result.ap50}
        figures |= {name: value for name, value in result.extra.items() if name in SEGMENTATION_FIGURES}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
        print(f"{title}: {shown} after {trained}; log: {job.log}", flush=True)
        if time_of is not None:
            share = 100 * result.train_seconds / time_of.result.train_seconds
            print(f"{title} was trained for {share:.0f} % of {time_of.job.title}'s time")
            if not 80 <= share <= 120:
                print("note: that is more than 20 % off, so the machine was unsteady; --fresh repeats the comparison")
        return trained

    def compare(self, models: Sequence[Trained], folder: str = "") -> int:
        """Compares models on the validation data of their trainings; prints the table and, as the last line, the page.

        Args:
            models: of one dataset.
            folder: in the output, for everything that is made.

        Returns:
            The exit code; 1 when a model cannot be compared.

        Raises:
            ImportError: the page needs a package that is not there; all else is written.
        """
        self.step("comparison: with and without NMS, kinds of error, cost")
        output, job = self.output / folder, models[0].job
        dataset = register_coco_panoptic(job.coco_panoptic[1]) if job.coco_panoptic else register_coco(job.coco[1])
        contestants = [_contestant(x.job, dataset) for x in models]
        comparison = compare_all(contestants, self._plan(models, contestants, dataset, output / "compare"))
        for model in comparison.models:
            if model.failed:
                print(f"error: {model.label} cannot be compared: {model.failed}", file=sys.stderr)
        self.step("pictures and page")
        classes = PanopticClasses.from_metadata(MetadataCatalog.get(dataset)) if job.coco_panoptic else None
        draw = _Pictures(_predictors(contestants, comparison), comparison.dataset.class_names, classes)
        draw(DatasetCatalog.get(dataset)[:SHOWN_IMAGES], output / "pictures", self.shown_width)
        milliseconds = {x.label: x.run.inference_ms for x in comparison.models}
        _save_and_show([replace(x.result, inference_ms=milliseconds[x.result.model]) for x in models], output)
        try:
            write_all(comparison, output / "compare")
        finally:  # where no page can be made, all else is there
            print(f"all of it took {minutes(time.perf_counter() - self._started)}")
        print(f"report: {output / 'compare' / REPORT}")
        return 1 if any(x.failed for x in comparison.models) else 0

    def _plan(self, models: Sequence[Trained], contestants: Sequence[Contestant], dataset: str, output: Path) -> Plan:
        settings = Settings(cost=COST)
        mixed = [", mixed precision" if x.cfg.SOLVER.AMP.ENABLED else "" for x in contestants]
        return Plan(
            dataset=dataset,
            output=output,
            settings=settings,
            device=_device(),
            command=shlex.join(["python", "-m", "detr_d2", *self.argv]),
            fresh=self.args.fresh,
            options={
                "score_threshold": settings.score_threshold,
                "resamples": settings.resamples,
                "repeat": COST.repeat,
                "seed": self.args.seed,
                **{f"training of {x.job.title}": f"{x}{precision}" for x, precision in zip(models, mixed, strict=True)},
            },
        )


def file_name(title: str) -> str:
    """ "Faster R-CNN" -> "faster_rcnn"."""
    return title.lower().replace(" ", "_").replace("-", "")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _contestant(job: TrainingJob, dataset: str) -> Contestant:
    cfg = load_config(job.config_file, job.opts)
    cfg.MODEL.DEVICE = _device()
    add_coco_datasets(cfg, job.coco, job.coco_panoptic)  # in place of those that the config names
    spec = ModelSpec(job.title, job.config_file, str(Path(job.output_dir) / "model_final.pth"))
    return Contestant.prepare(spec, cfg, dataset=dataset, seed=cfg.SEED)


def _predictors(contestants: Sequence[Contestant], comparison: Comparison) -> dict[str, ImagePredictor]:
    usable = [x for x, model in zip(contestants, comparison.models, strict=True) if not model.failed]
    return {x.spec.label: x.load(nms=True, class_names=comparison.dataset.class_names)[0] for x in usable}


@dataclass(frozen=True)
class _Pictures:
    """Ground truth and the detections of each model side by side: a file per image, and all of them in one.

    Panoptic maps take the place of detections where there are `classes` of them.
    """

    predictors: Mapping[str, ImagePredictor]
    class_names: Sequence[str]
    classes: PanopticClasses | None

    def __call__(self, dataset: Sequence[dict[str, Any]], folder: Path, width: int) -> None:
        names = self.classes.names if self.classes else self.class_names
        rows, pictures = [], OutputNames(["side_by_side.png"])
        for record in tqdm(dataset, desc="pictures", unit="image", leave=False, disable=None):
            path = Path(record["file_name"])
            image_bgr = read_image(path, "BGR")
            draw = partial(draw_detections, class_names=names, scale=width / image_bgr.shape[1])
            shown = (
                self._segments(record, image_bgr, self.classes) if self.classes else self._detections(record, image_bgr)
            )
            rows.append(side_by_side([draw(image_bgr[:, :, ::-1], x) for x in shown.values()], list(shown)))
            write_picture(folder / pictures.claim(Path(f"{path.stem}.png")), rows[-1])
        write_picture(folder / "side_by_side.png", grid(rows, columns=2))

    def _detections(self, record: dict[str, Any], image_bgr: np.ndarray) -> dict[str, Instances]:
        found = {title: predictor(image_bgr) for title, predictor in self.predictors.items()}
        masks = any(x.has("pred_masks") for x in found.values())
        shown = {title: x[x.scores >= SHOWN_SCORE] for title, x in found.items()}
        return {"ground truth": ground_truth(record, masks=masks), **shown}

    def _segments(
        self, record: dict[str, Any], image_bgr: np.ndarray, classes: PanopticClasses
    ) -> dict[str, Instances]:
        truth = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"], record["segments_info"], None))
        shown = {"ground truth": segments_as_instances(truth, record["segments_info"], classes)}
        for title, predictor in self.predictors.items():
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
    print(f"\n{results_table(results)}\n")
    print(f"validation data: {results[0].dataset}; machine: " + ", ".join(f"{k} {v}" for k, v in machine.items()))
    print(f"pictures: {output / 'pictures' / 'side_by_side.png'}")
    print(f"results:  {output / 'results.md'}; as JSON: {', '.join(files)}")
