"""`python -m detr_d2 matching`: how stable the assignment of queries to objects is over checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data import DetrDatasetMapper
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
from ..visualization.matching import Assignment, collect_assignment, save_stability, stability
from ._run import ends_with_its_folders, quiet_libraries

OUTPUTS = ("matching.png", "matching.json")


def build_parser() -> argparse.ArgumentParser:
    """The command line of matching."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 matching",
        description="Over checkpoints of a DETR: the share of objects that keep their query, and the instability.",
    )
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, metavar="FILE", help="two or more, in training order"
    )
    add_data_options(parser)
    add_output_options(parser)
    add_config_options(parser)
    return parser


@ends_with_its_folders
def main(argv: Sequence[str] | None = None) -> int:
    """Writes a PNG and a JSON file."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if len(args.checkpoints) < 2:
        raise ValueError(f"--checkpoints names {args.checkpoints[0]} only; it takes two to see what changes")
    for path in args.checkpoints:
        if "://" not in path and not Path(path).exists():
            raise FileNotFoundError(f"there is no checkpoint {path}")
    picture, numbers = prepare_outputs(args.output, OUTPUTS, overwrite=args.overwrite)
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
    transitions = stability(_names(args.checkpoints), assignments)
    result: dict[str, Any] = {
        "dataset": dataset,
        "images": len(records),
        "objects": assignments[0].query.shape[1],
        "checkpoints": args.checkpoints,
        "transitions": transitions,
    }
    save_stability(picture, transitions)
    write_json(numbers, result)
    for transition in transitions:
        last = transition["layers"][-1]
        print(
            f"{transition['from']} -> {transition['to']}: {100 * last['same']:.1f}% of {result['objects']:,} objects "
            f"keep their query, instability {last['instability']:.2f} (last decoder layer)"
        )
    print(f"{' and '.join(OUTPUTS)} are in {args.output}")
    return 0


def _names(paths: Sequence[str]) -> Sequence[str]:
    """Of checkpoints: of their files, with those of their folders where two files have the same, or all of the path."""
    files = [Path(path) for path in paths]
    candidates = [[x.stem for x in files], [f"{x.resolve().parent.name}/{x.stem}" for x in files]]
    return next((names for names in candidates if len(set(names)) == len(names)), paths)
