"""`python -m detr_d2 matching`: how stable the assignment of queries to objects is, and loss curves of several runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data import DetrDatasetMapper
from ..experiments.quiet import quiet_libraries
from ..files import write_json
from ..visualization.inspection import (
    add_config_options,
    add_data_options,
    add_output_options,
    find_dataset,
    in_order_of_model,
    load_detr,
    prepare_outputs,
    read_detr_config,
    take_images,
)
from ..visualization.loss_curves import choose_metrics, curves_json, read_log, save_curves
from ..visualization.matching import Assignment, collect_assignment, stability
from ..visualization.matching_pictures import save_stability
from ._run import ends_with_its_folders

STABILITY_FILES = ("matching.png", "matching.json")
CURVE_FILES = ("curves.png", "curves.json")


def build_parser() -> argparse.ArgumentParser:
    """The command line of matching."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 matching",
        description="Over checkpoints of a DETR: the share of objects that keep their query, and the instability. "
        "Of training runs: their curves in one plot. Either or both.",
    )
    parser.add_argument("--checkpoints", nargs="+", default=[], metavar="FILE", help="two or more, in training order")
    add_data_options(parser, required=False)
    parser.add_argument(
        "--logs", nargs="+", default=[], metavar="[NAME=]FILE", help="metrics.json of runs, or their output folders"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="to draw (default: total_loss and bbox/AP)")
    add_output_options(parser)
    add_config_options(parser, required=False)
    return parser


@ends_with_its_folders
def main(argv: Sequence[str] | None = None) -> int:
    """Writes a PNG and a JSON file for each of the two."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    _check(args)
    files = (STABILITY_FILES if args.checkpoints else ()) + (CURVE_FILES if args.logs else ())
    paths = prepare_outputs(args.output, files, overwrite=args.overwrite)
    if args.logs:
        _draw_curves(args, paths[-2:])
    if args.checkpoints:
        _draw_stability(args, paths[:2])
    print(f"{', '.join(files)} are in {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.checkpoints and not args.logs:
        raise ValueError("there is nothing to show: give --checkpoints, or --logs, or both")
    if args.metrics and not args.logs:
        raise ValueError("--metrics chooses what is drawn of --logs, which are not given")
    if not args.checkpoints:
        return
    if len(args.checkpoints) < 2:
        raise ValueError(f"--checkpoints names {args.checkpoints[0]} only; it takes two to see what changes")
    if not args.config_file:
        raise ValueError("--checkpoints needs the --config-file of their training")
    if not args.dataset and not args.coco:
        raise ValueError("--checkpoints needs images with annotations: give --coco or --dataset")
    for path in args.checkpoints:
        if "://" not in path and not Path(path).exists():
            raise FileNotFoundError(f"there is no checkpoint {path}")


def _draw_curves(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    sources = []
    for text in args.logs:
        name, equals, rest = text.partition("=")
        path = Path(rest if equals else text)
        path = path / "metrics.json" if path.is_dir() else path
        sources.append((name if equals else "", path))
    folders = [path.resolve().parent for name, path in sources if not name]
    defaults = iter(_distinct([x.name for x in folders], [x.parent.name for x in folders]))
    logs = [read_log(path, name or next(defaults)) for name, path in sources]
    names = [log.name for log in logs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of --logs are called {twice!r}; give them names, as in NAME=FILE")
    metrics = choose_metrics(logs, args.metrics)
    save_curves(paths[0], logs, metrics)
    write_json(paths[1], curves_json(logs, metrics))


def _distinct(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The names, with their folders where two are the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]


def _draw_stability(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    cfg = read_detr_config(args.config_file, args.opts, args.imports)
    dataset, given = find_dataset(cfg, args.dataset, args.coco)
    records = take_images(dataset, args.limit)
    mapper = DetrDatasetMapper(
        is_train=True,  # with ground truth
        augmentations=DetrDatasetMapper.from_config(cfg, is_train=False)["augmentations"],
        image_format=cfg.INPUT.FORMAT,
    )
    assignments: list[Assignment] = []
    for path in args.checkpoints:
        model, categories = load_detr(cfg.clone(), path, given)
        ordered = in_order_of_model(records, given, categories)
        samples = (mapper(record) for record in tqdm(ordered, desc=Path(path).name, unit="image", disable=None))
        assignments.append(collect_assignment(model, samples))
    files = [Path(path) for path in args.checkpoints]
    names = _distinct([x.stem for x in files], [x.resolve().parent.name for x in files])
    if len(set(names)) < len(names):
        names = args.checkpoints  # a.pth and a.safetensors, or folders of one name
    transitions = stability(names, assignments)
    result: dict[str, Any] = {
        "dataset": dataset,
        "images": len(records),
        "objects": assignments[0].query.shape[1],
        "checkpoints": args.checkpoints,
        "transitions": transitions,
    }
    save_stability(paths[0], transitions)
    write_json(paths[1], result)
    for transition in transitions:
        last = transition["layers"][-1]
        print(
            f"{transition['from']} -> {transition['to']}: {100 * last['same']:.1f}% of {result['objects']:,} objects "
            f"keep their query, instability {last['instability']:.2f} (last decoder layer)"
        )
