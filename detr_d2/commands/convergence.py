"""`python -m detr_d2 convergence`: how fast detectors learn, trained for the same time with several seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog

from ..cli import quiet_libraries
from ..compare.cost.timing import machine_info
from ..data import register_coco
from ..engine.startup.setup import find_config_file, load_config
from ..experiments.convergence import by_model, convergence_table, save_curves_json, save_picture, train_for_curve
from ..experiments.own_folders import settle_output
from ..experiments.quickstarts import VAL_SEED_OFFSET, shapes_spec
from ..experiments.timed_training import CLOCKS, TrainingError
from ..experiments.training_job import TrainingJob, job_options
from ..files import file_hash, hold_folder, write_text

DEFORMABLE = "quickstart/deformable_detr_shapes.yaml"
_DEFORMABLE = "MODEL.DETR.TRANSFORMER.DEFORMABLE"
REFINEMENT, TWO_STAGE = f"{_DEFORMABLE}.BOX_REFINEMENT", f"{_DEFORMABLE}.TWO_STAGE"
MODELS = (
    "DETR=quickstart/detr_shapes.yaml",
    f"Deformable DETR={DEFORMABLE} {REFINEMENT} False",
    f"+ refinement={DEFORMABLE}",
    f"+ two stages={DEFORMABLE} {TWO_STAGE} True",
    "Faster R-CNN=quickstart/faster_rcnn_shapes.yaml",
)
SETTINGS = ("minutes", "clock", "evaluations", "coco", "train_images", "val_images")
"""Options that all curves of a folder share; models and seeds may be added to it."""

OUTPUTS = ("convergence.json", "convergence.md", "convergence.png")


def build_parser() -> argparse.ArgumentParser:
    """The command line of convergence."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 convergence",
        description="Trains each model with each seed for the same time on the same data, evaluates it along the way, "
        "and draws AP over iterations and over minutes. Run again, it continues where it was stopped.",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar='"NAME=CONFIG [KEY VALUE ...]"',
        help="config and overrides of a model; once for each (default: DETR, three Deformable DETRs and Faster R-CNN "
        "of configs/quickstart); the first is what the others are measured against",
    )
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="of each training (default: 5)")
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="what the minutes are measured with: the clock on the wall (default), or the processor time of the "
        "training, for a machine that others use too (with OMP_NUM_THREADS=1, no workers and no GPU)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--evaluations", type=int, default=10, metavar="N", help="of each run (default: 10)")
    parser.add_argument(
        "--coco",
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="NAME=annotations.json:images of training and validation data, in place of those of the configs "
        "(default: shapes_train and shapes_val, made here)",
    )
    parser.add_argument("--train-images", type=int, default=2000, metavar="N", help="of shapes (default: 2000)")
    parser.add_argument("--val-images", type=int, default=200, metavar="N", help="of shapes (default: 200)")
    parser.add_argument("--fresh", action="store_true", help="delete what was trained there, and train again")
    parser.add_argument("--output", default="output/convergence", metavar="DIR", help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is not trained yet, then writes the picture, the table and the numbers."""
    parser = build_parser()
    args = parser.parse_args(argv)
    models = [parse_model(text) for text in args.model or MODELS]
    _check(args, [name for name, _, _ in models])
    if args.clock == "cpu":
        _check_clock(models)
    quiet_libraries()
    settings = {key: getattr(args, key) for key in SETTINGS}
    defaults = {key: parser.get_default(key) for key in SETTINGS}
    output = settle_output(Path(args.output), "convergence", settings, defaults, fresh=args.fresh)
    with hold_folder(output):
        return _work(args, models, output)


def _work(args: argparse.Namespace, models: Sequence[tuple[str, str, tuple[str, ...]]], output: Path) -> int:
    data_opts, input_hash = _own_data(args.coco) if args.coco else ((), "")
    coco = tuple(args.coco) if args.coco else _shapes(output, args.train_images, args.val_images)
    jobs = [
        TrainingJob(
            name,
            config,
            str(output / _folder(name) / f"seed-{seed}"),
            coco=coco,
            opts=(*opts, *data_opts, *job_options(seed)),
            seconds=60 * args.minutes,
            evaluations=args.evaluations,
            clock=args.clock,
            input_hash=input_hash,
        )
        for seed in args.seeds
        for name, config, opts in models
    ]
    try:
        curves = [train_for_curve(job, fresh=args.fresh) for job in jobs]
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    curves = [curve for runs in by_model(curves).values() for curve in runs]
    table = convergence_table(curves, reference=models[0][0])
    machine = machine_info("cuda" if torch.cuda.is_available() else "cpu")
    save_curves_json(output / OUTPUTS[0], curves, clock=args.clock, machine=machine)
    write_text(output / OUTPUTS[1], table + "\n")
    save_picture(output / OUTPUTS[2], curves)
    print(f"\n{table}\n\npicture: {output / OUTPUTS[2]}; numbers: {output / OUTPUTS[0]}")
    return 0


def parse_model(text: str) -> tuple[str, str, tuple[str, ...]]:
    """ "NAME=CONFIG KEY VALUE ..." -> name, config file, overrides.

    Raises:
        ValueError: the text has another form, or the config file does not exist.
    """
    name, equals, rest = text.partition("=")
    words = shlex.split(rest)
    if not (name.strip() and equals and words) or len(words) % 2 == 0:
        raise ValueError(
            f'--model {text!r} is not of the form "NAME=CONFIG KEY VALUE ...", with pairs of key and value'
        )
    find_config_file(words[0])
    return name.strip(), words[0], tuple(words[1:])


def _check(args: argparse.Namespace, names: Sequence[str]) -> None:
    if len(set(names)) != len(names) or len({_folder(name) for name in names}) != len(names):
        raise ValueError(f"--model names {', '.join(names)}: each model needs a name of its own")
    if len(set(args.seeds)) != len(args.seeds) or min(args.seeds) < 0:
        raise ValueError(f"--seeds are {args.seeds}, expected different numbers, none below 0")
    for name, least in (("minutes", 0.01), ("evaluations", 1), ("train_images", 1), ("val_images", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least {least}")


def _check_clock(models: Sequence[tuple[str, str, tuple[str, ...]]]) -> None:
    """The processor time of a training is that of its process: workers and a GPU would do their part unseen."""
    for name, config, opts in models:
        cfg = load_config(config, opts)
        on_gpu = cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available()
        if on_gpu or cfg.DATALOADER.NUM_WORKERS > 0:
            raise ValueError(
                f"--clock cpu measures the training process alone, but {name} has MODEL.DEVICE {cfg.MODEL.DEVICE} and "
                f"DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS}: override them with MODEL.DEVICE cpu "
                "DATALOADER.NUM_WORKERS 0 in its --model"
            )


def _folder(name: str) -> str:
    return "".join(x if x.isalnum() else "_" for x in name.lower()).strip("_")


def _shapes(output: Path, train_images: int, val_images: int) -> tuple[str, str]:
    data = output / "data"
    return (
        shapes_spec("shapes_train", data / f"train-{train_images}", train_images, seed=0),
        shapes_spec("shapes_val", data / f"val-{val_images}", val_images, seed=VAL_SEED_OFFSET),
    )


def _own_data(specs: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Overrides that make every config use the data of --coco, and a hash of their annotations."""
    train, val = (register_coco(spec) for spec in specs)
    hashes = [file_hash(MetadataCatalog.get(name).json_file) for name in (train, val)]
    return ("DATASETS.TRAIN", f"({train!r},)", "DATASETS.TEST", f"({val!r},)"), " ".join(hashes)
