"""`python -m detr_d2 benchmark`: contestants on the same work, compared first, then timed in turn."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..benchmark.ceilings import ceilings
from ..benchmark.coco import evaluate
from ..benchmark.criterion import criterion
from ..benchmark.deformable_attention import deformable_attention_work
from ..benchmark.inputs import PRECISIONS
from ..benchmark.mapper import mapper
from ..benchmark.models import infer, latency, train_step
from ..benchmark.scaling import scaling
from ..benchmark.start import coco_file, imports
from ..cli import quiet_libraries
from ..layers import DEFORMABLE_BACKENDS

WORKS: dict[str, Callable[[argparse.Namespace], int]] = {
    "infer": infer,
    "train-step": train_step,
    "scaling": scaling,
    "ceilings": ceilings,
    "criterion": criterion,
    "deformable-attention": deformable_attention_work,
    "model": latency,
    "mapper": mapper,
    "evaluate": evaluate,
    "import": imports,
    "coco-file": coco_file,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line of benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 benchmark",
        description="Puts contestants on the same work, compares what they return, then times them in turn and reports "
        "medians and their ratios. Contestants whose results differ are not timed.",
    )
    commands = parser.add_subparsers(dest="what", required=True)
    _add_models(commands)
    _add_parts(commands)
    _add_data(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if args.repeat < 1:
        raise ValueError(f"--repeat is {args.repeat}, expected 1 or more")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return WORKS[args.what](args)


def _common(repeat: int = 20, *, without: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Options of the benchmarks, but those that one of them has no use for."""
    settings: dict[str, dict[str, Any]] = {
        "device": {"default": "cuda" if torch.cuda.is_available() else "cpu", "help": "default: %(default)s"},
        "threads": {"type": int, "metavar": "N", "help": "CPU threads (default: torch's choice)"},
        "repeat": {"type": int, "default": repeat, "metavar": "N", "help": "timed rounds (default: %(default)s)"},
        "seed": {"type": int, "default": 0, "help": "of the random inputs and weights (default: 0)"},
        "output": {"metavar": "FILE", "help": "also write the figures as JSON"},
    }
    common = argparse.ArgumentParser(add_help=False)
    for name in settings:
        if name not in without:
            common.add_argument(f"--{name}", **settings[name])
    unused = {"device": "cpu", "threads": None, "repeat": repeat, "seed": 0}
    common.set_defaults(**{name: unused[name] for name in without})
    return common


def _model_options(size: str, batch: int, *, weights: bool = True) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--config-file", default="detr_r50.yaml", metavar="FILE", help="of ours (default: %(default)s)"
    )
    if weights:
        options.add_argument("--weights", default="", metavar="FILE", help="in any layout (default: random weights)")
    options.add_argument(
        "--size", type=_size, default=_size(size), metavar="HxW", help=f"of the images in pixels (default: {size})"
    )
    options.add_argument("--batch", type=int, default=batch, metavar="N", help="images at once (default: %(default)s)")
    options.add_argument("--mixed", action="store_true", help="images of several sizes, which pad each other")
    options.add_argument("--objects", type=int, default=7, metavar="M", help="of every image (default: %(default)s)")
    options.add_argument("--classes", type=int, default=91, metavar="K", help="default: %(default)s")
    options.add_argument("--amp", choices=PRECISIONS, help="autocast, also timed without for ours")
    options.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    return options


def _contestants() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--contestants",
        nargs="+",
        metavar="NAME",
        help="ours, ours-eager (nothing folded or fused), transformers, authors (their repository in DETR_REPO or "
        "DEFORMABLE_DETR_REPO), detectron2:CONFIG (another detector, timed only), ours-compiled (torch.compile of "
        "ours-eager, infer only, with a C++ compiler); default: those that are there, but the last two. "
        "Ratios are to the first.",
    )
    return options


def _add_models(commands: Any) -> None:
    inference = commands.add_parser(
        "infer",
        parents=[_contestants(), _model_options("800x1066", 1), _common()],
        help="inference of a model, from 8-bit images to detections",
        description=infer.__doc__,
    )
    train = commands.add_parser(
        "train-step",
        parents=[_contestants(), _model_options("512x640", 2), _common(10)],
        help="training steps: forward, losses, backward, optimizer",
        description="Training steps. Losses and the norm of the gradients are compared first, without dropout.",
    )
    for parser in (inference, train):
        parser.add_argument(
            "--memory", action="store_true", help="also the memory that the work adds, in new processes"
        )
    train.add_argument("--recompute", "--checkpoint", action="store_true", help="also ours with recomputation")
    growth = commands.add_parser(
        "scaling",
        parents=[_contestants(), _model_options("512x640", 1, weights=False), _common(5)],
        help="inference time against image area, queries and batch",
    )
    sizes = ["256x320", "384x480", "512x640", "640x800", "800x1066"]
    growth.add_argument(
        "--sizes",
        type=_size,
        nargs="*",
        default=[_size(x) for x in sizes],
        metavar="HxW",
        help="default: five, up to 800x1066",
    )
    growth.add_argument(
        "--queries", type=int, nargs="*", default=[25, 100, 300, 900], metavar="Q", help="default: 25 100 300 900"
    )
    growth.add_argument(
        "--batches", type=int, nargs="*", default=[1, 2, 4, 8], metavar="B", help="images in a batch (default: 1 2 4 8)"
    )
    growth.add_argument("--plot", metavar="FILE", help="write a picture (PNG)")
    commands.add_parser(
        "ceilings",
        parents=[_model_options("800x1066", 1), _common()],
        help="what the machine can do at most, and the part of it that inference reaches",
    )


def _add_parts(commands: Any) -> None:
    losses = commands.add_parser(
        "criterion",
        parents=[_common()],
        help="matching and losses against other implementations",
        description="Set loss of this package against that of transformers (where installed) and of the authors (their "
        "repository in DETR_REPO). Their results are compared first.",
    )
    losses.add_argument("--contestants", nargs="+", metavar="NAME", help="ours, transformers, authors")
    _add_sizes(losses, {"batch": 16, "queries": 100, "layers": 6, "objects": 7, "classes": 80})
    losses.add_argument("--backward", action="store_true", help="time the gradients too")

    attention = commands.add_parser(
        "deformable-attention",
        parents=[_common()],
        help="multi-scale deformable attention against the usual grid_sample loop",
        description="The attention function alone, at the sizes of Deformable DETR, against the usual loop of "
        "grid_sample over the levels. Outputs and gradients are compared first.",
    )
    sizes = {"height": 800, "width": 1066, "batch": 1, "heads": 8, "channels": 32, "levels": 4, "points": 4}
    _add_sizes(attention, sizes)
    attention.add_argument(
        "--queries", type=int, default=0, metavar="N", help="default: 0, one for each token, as in the encoder"
    )
    attention.add_argument("--backend", choices=DEFORMABLE_BACKENDS, default="auto", help="default: %(default)s")
    attention.add_argument("--backward", action="store_true", help="time the gradients too")

    model = commands.add_parser(
        "model",
        parents=[_common()],
        help="latency of configs",
        description="Inference time of configs with random weights.",
    )
    model.add_argument("--config-file", nargs="+", required=True, metavar="FILE", help="YAML files or names of configs")
    _add_sizes(model, {"height": 800, "width": 1066, "batch": 1, "classes": 80})
    model.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")


def _add_data(commands: Any) -> None:
    reading = commands.add_parser(
        "mapper",
        parents=[_common(5, without=["device"])],
        help="images per second against detectron2's mapper with the same augmentation",
    )
    reading.add_argument("--config-file", default="detr_r50.yaml", metavar="FILE", help="default: %(default)s")
    reading.add_argument(
        "--size", type=_size, default=(480, 640), metavar="HxW", help="of the JPEGs (default: 480x640)"
    )
    _add_sizes(reading, {"images": 50, "objects": 7})
    reading.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    evaluation = commands.add_parser(
        "evaluate",
        parents=[_common(1, without=["device"])],
        help="COCO evaluation against detectron2's with pycocotools",
    )
    _add_sizes(evaluation, {"images": 5000, "detections": 100, "objects": 7, "classes": 80})
    commands.add_parser(
        "import",
        parents=[_common(5, without=["device", "threads", "seed"])],
        help="what `import detr_d2` adds to detectron2",
    )
    file = commands.add_parser(
        "coco-file",
        parents=[_common(1, without=["device", "threads", "repeat"])],
        help="time and memory of reading a large COCO file when a training starts",
    )
    _add_sizes(file, {"images": 118_287, "annotations": 860_001, "classes": 80})
    file.add_argument("--points", type=int, default=0, metavar="N", help="of every polygon (default: 0, no polygons)")


def _add_sizes(parser: argparse.ArgumentParser, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N", help="default: %(default)s")


def _size(text: str) -> tuple[int, int]:
    """Height and width of "800x1066"."""
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width)
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, such as 800x1066")
    return size
