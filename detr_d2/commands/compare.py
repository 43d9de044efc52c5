"""`python -m detr_d2 compare`: any number of detectors on the same images, with and without NMS."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..cli import quiet_libraries
from ..compare.records.comparison import Comparison, ModelComparison, load_comparison
from ..compare.report.files import FIGURES, REPORT, RESULTS, text_table, write_all
from ..compare.report.gallery import without_images_elsewhere
from ..files.output_folder import own_folder
from ._options import add_import

if TYPE_CHECKING:
    from ..compare.models import Contestant

# What runs models is imported where it is used: with --from-json nothing here needs torch.


def build_parser() -> argparse.ArgumentParser:
    """The command line of compare."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 compare",
        description="Runs detectors on the same images and measures what each finds with and without NMS, where it "
        "fails, and what it costs. Stopped and started again, it goes on from where it was.",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--dataset", metavar="NAME", help="a dataset that detectron2 knows, such as coco_2017_val")
    data.add_argument(
        "--coco", metavar="NAME=annotations.json:image_root", help="a dataset of your own in COCO's format"
    )
    data.add_argument(
        "--coco-panoptic",
        metavar="NAME=panoptic.json:png_root:image_root:instances.json",
        help="a dataset of your own in COCO's panoptic format, with the instances of its things",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="LABEL=config.yaml,weights",
        help="a model; give one of these for each. Nothing after the comma: random weights; several checkpoints of it "
        "stand one after the other, with commas between",
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="LABEL=results.json[,raw|,nms]",
        help="detections of any other detector on the same images, in COCO's results format (of `predict`, those with "
        "--score-threshold 0); say raw where no NMS has gone over them, nms where one has",
    )
    parser.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="LABEL=latency_ms:params",
        help="what a detector of --predictions costs: milliseconds an image, and number of parameters",
    )
    add_import(parser, "such as one that registers a model or a dataset")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--cache", metavar="DIR", help="folder for what models said (default: OUTPUT/cache)")
    parser.add_argument("--fresh", action="store_true", help="run the models again even if the cache knows them")
    parser.add_argument("--from-json", metavar="FILE", help="make tables and report anew from a results.json; no model")
    parser.add_argument(
        "--raw",
        type=int,
        nargs="?",
        const=300,
        metavar="N",
        help="write the detections without NMS, too, at most N of an image (300), from score 0.001 on",
    )
    parser.add_argument("--figures", action="store_true", help="write every plot as PNG and PDF, and summary.png, too")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N images only")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="score from which detections count (default: for each model the one with its best F1)",
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=30, metavar="N", help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="of throughput (default: 1 2 4 8)"
    )
    parser.add_argument("--skip-cost", action="store_true", help="no times, FLOPs and memory")
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--cpu", action="store_true", help="run on the CPU")
    device.add_argument("--gpu", action="store_true", help="run on the GPU (default where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default: 0)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="overrides KEY VALUE ... of every config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compares; returns 1 when a model failed."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    output = Path(args.output)
    if args.from_json:
        comparison, elsewhere = without_images_elsewhere(load_comparison(args.from_json))
        if elsewhere:
            print(
                f"warning: {len(elsewhere)} images of the record are not shown, as they are not in its image folder "
                f"{comparison.dataset.image_root or '(it names none)'}, the first is {elsewhere[0]}",
                file=sys.stderr,
            )
        own_folder(output)
    else:
        _check(args)
        try:
            comparison = _compare(args, output, list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise
    if all(x.failed for x in comparison.models):
        if args.from_json:
            print("\n".join(f"error: {x.label}: {x.failed}" for x in comparison.models), file=sys.stderr)
        print("error: none of the models could be measured, so there is no page", file=sys.stderr)
        return 1
    write_all(comparison, output, figures=args.figures)
    print(f"\n{text_table(comparison)}\n")
    print(f"results: {output / RESULTS}; tables: models.csv, per_class.csv, nms.csv, table.md, table.tex beside it")
    print(f"report:  {output / REPORT}")
    if args.figures:
        print(f"figures: {output / FIGURES}")
    return 1 if any(x.failed for x in comparison.models) else 0


def _check(args: argparse.Namespace) -> None:
    """Says what is wrong with the options before anything is done."""
    if not (args.model or args.predictions):
        raise ValueError(
            "no model is given: add --model LABEL=config.yaml,weights for each, or --predictions LABEL=results.json"
        )
    if not (args.dataset or args.coco or args.coco_panoptic):
        raise ValueError("no data are given: add --dataset NAME or --coco NAME=annotations.json:image_root")
    for name in ("limit", "resamples", "repeat", "raw"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}, expected at least 1")
    if min(args.batch_sizes) < 1:
        raise ValueError(f"--batch-sizes has {min(args.batch_sizes)}, expected at least 1")
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold:g}, expected 0 to 1")


def _compare(args: argparse.Namespace, output: Path, argv: Sequence[str]) -> Comparison:
    import torch
    from detectron2.utils.logger import setup_logger

    from ..compare.compare_all import compare_all
    from ..compare.cost.cost import CostSettings
    from ..compare.found.detections_file import FOLDER
    from ..compare.found.given import parse_predictions
    from ..compare.models import parse_models
    from ..compare.run import Plan, Settings
    from ..engine.startup.setup import import_user_modules

    predictions = parse_predictions(args.predictions, args.cost, [x.label for x in parse_models(args.model)])
    if args.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu is given, but there is no GPU that torch can use; leave it out to run on the CPU")
    setup_logger(name="detr_d2")
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    modules = import_user_modules(args.imports)
    name = _dataset(args)
    batch_sizes = tuple(sorted(set(args.batch_sizes)))
    cost = None if args.skip_cost else CostSettings(repeat=args.repeat, batch_sizes=batch_sizes)
    plan = Plan(
        dataset=name,
        output=output,
        settings=Settings(score_threshold=args.score_threshold, resamples=args.resamples, cost=cost, raw=args.raw),
        device=device,
        command=shlex.join(["python", "-m", "detr_d2", "compare", *argv]),
        limit=args.limit,
        cache=Path(args.cache) if args.cache else None,
        fresh=args.fresh,
        imports=args.imports,
        options={key: getattr(args, key) for key in ("limit", "score_threshold", "resamples", "repeat", "seed")},
    )
    contestants = _contestants(args, modules, name, device)
    own_folder(output)
    comparison = compare_all(contestants, plan, lambda record: _report_model(record, output), predictions=predictions)
    if contestants:
        print(f"detections of each model, in COCO's results format: {output / FOLDER}")
    return comparison


def _dataset(args: argparse.Namespace) -> str:
    from ..data import register_coco, register_coco_panoptic
    from ..data.checks.datasets import check_panoptic_pngs

    if args.coco_panoptic:
        name = register_coco_panoptic(args.coco_panoptic)
        check_panoptic_pngs(name)
        return name
    return register_coco(args.coco) if args.coco else str(args.dataset)


def _contestants(
    args: argparse.Namespace, modules: Sequence[ModuleType], dataset: str, device: str
) -> list[Contestant]:
    """All configs and weights are found before the first model runs."""
    from ..compare.models import Contestant, parse_models
    from ..engine.startup.setup import load_config

    result = []
    for spec in parse_models(args.model):
        cfg = load_config(spec.config_file, args.opts, modules)
        cfg.MODEL.DEVICE = device
        try:
            result.append(Contestant.prepare(spec, cfg, dataset=dataset, seed=args.seed))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--model {spec.label}: {error}") from error
    return result


def _report_model(record: ModelComparison, output: Path) -> None:
    if record.failed:
        print(f"error: {record.label}: {record.failed}", file=sys.stderr)
        return
    print(f"{record.label}: AP {record.run.ap:.1f}, AP50 {record.run.ap50:.1f}; kept in {output / RESULTS}")
    for note in record.notes:
        print(f"note: {record.label}: {note}")
    if record.crashed_images:
        first = record.crashed_images[0]
        number = len(record.crashed_images)
        print(
            f"warning: {record.label} failed on {number} image{'s' if number > 1 else ''}, first on {first.file_name}: "
            f"{first.error}",
            file=sys.stderr,
        )
