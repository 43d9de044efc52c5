"""Benchmarks around the model: mapper, COCO evaluation, import, and reading a large COCO file."""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from tqdm import tqdm

from ..engine.startup.setup import load_config
from .coco import filled_evaluators, largest_figure_difference, random_detections, registered_file, write_coco_file
from .mapper import both_mappers, make_jpegs, map_all, unequal_samples
from .process import Step, run_statements
from .report import differ, measure, print_machine, report, write_report

EVALUATION_TOLERANCE = 1e-9

# What a program pays for anyway when it uses detectron2's models; `import detectron2` alone imports torch only.
IMPORTS = ("import detectron2", "import detectron2.modeling", "import detr_d2")


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


def evaluate(args: argparse.Namespace) -> int:
    """COCO's figures of random detections by the evaluator of `train_net.py` and by detectron2's with pycocotools."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances.json")
        objects = args.images * args.objects
        write_coco_file(path, images=args.images, annotations=objects, num_classes=args.classes, seed=args.seed)
        with registered_file(path) as dataset:
            detections = random_detections(path, per_image=args.detections, seed=args.seed)
            evaluators = filled_evaluators(dataset, detections)
            kinds = {"ours": "faster-coco-eval", "pycocotools": "pycocotools"}
            print(f"{args.images} images, {args.detections} detections each: {kinds}")
            ours, theirs = (_figures(x) for x in evaluators.values())
            difference = largest_figure_difference(ours, theirs)
            if differ({"pycocotools": {"AP figures": difference}}, EVALUATION_TOLERANCE):
                return 1
            work = {name: partial(_figures, x) for name, x in evaluators.items()}
            timings = measure(work, args.repeat, warmup=0)  # both have run once
    report(timings, {"largest_difference": difference, "evaluators": kinds}, args)
    return 0


def _figures(evaluator: DatasetEvaluator) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["bbox"]


def imports(args: argparse.Namespace) -> int:
    """What `import detr_d2` adds to the import of detectron2's models, in fresh processes."""
    rounds = tqdm(range(args.repeat), unit="process", leave=False, disable=not sys.stderr.isatty())
    found = [run_statements(IMPORTS) for _ in rounds]
    for i, statement in enumerate(IMPORTS):
        seconds = statistics.median(steps[i].seconds for steps in found)
        print(f"{statement:28} {seconds:.3f} s, peak memory {found[0][i].peak_mb:.0f} MB")
    print_machine(args)
    write_report({"imports": _as_rows(list(IMPORTS), found)}, args)
    return 0


def _as_rows(names: list[str], found: list[list[Step]]) -> list[dict[str, Any]]:
    return [{"name": name, "steps": [vars(steps[i]) for steps in found]} for i, name in enumerate(names)]


def coco_file(args: argparse.Namespace) -> int:
    """Time and memory of what reads a large COCO file when a training starts, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instances.json")
        write_coco_file(
            path,
            images=args.images,
            annotations=args.annotations,
            num_classes=args.classes,
            polygon_points=args.points,
            seed=args.seed,
        )
        size = path.stat().st_size / 1e6
        print(f"{args.images} images, {args.annotations} annotations, {size:.0f} MB")
        table = f"from detr_d2.data.coco.annotation_table import read_coco_table; read_coco_table({str(path)!r})"
        loader = (
            "from detr_d2.data.coco.dataset import CocoDataset\n"
            f"records = CocoDataset('benchmark', {str(path)!r}, {folder!r}, '')()"
        )
        stock = (
            "from detectron2.data.datasets import load_coco_json\n"
            f"load_coco_json({str(path)!r}, {folder!r}, 'benchmark')"
        )
        serialised = "from detectron2.data import DatasetFromList\nlist_ = DatasetFromList(records, copy=False)"
        works = {
            "checks, first time": [table],
            "checks, from the cache": [table],
            "checks, first time, and loader": [f"{table}\n{loader}"],
            "loader": [loader],
            "... and its copy for the workers": [loader, serialised],
            "detectron2's loader, without checks": [stock],
        }
        caches = dict.fromkeys(works, folder) | {"checks, first time, and loader": str(Path(folder, "empty"))}
        rows = {name: _last_step(statements, {"FVCORE_CACHE": caches[name]}) for name, statements in works.items()}
    for name, step in rows.items():
        print(f"{name:36} {step.seconds:7.2f} s  peak memory {step.peak_mb:6.0f} MB")
    print_machine(args)
    write_report({"file_mb": size, "steps": {name: vars(step) for name, step in rows.items()}}, args)
    return 0


def _last_step(statements: list[str], environment: dict[str, str]) -> Step:
    """Of the statements, after the imports."""
    return run_statements(["import detr_d2", *statements], environment)[-1]
