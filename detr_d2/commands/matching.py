"""`python -m detr_d2 matching`: how stable the assignment of queries to objects is over the checkpoints of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..cli import quiet_libraries
from ..data import DetrDatasetMapper
from ..files import write_json
from ..visualization.matching import Assignment, collect_assignment, save_stability, stability
from ._options import add_detr_options, check_numbers
from ._run import find_images, in_order_of_model, load_detr, prepare_outputs, read_detr_config

FILES = ("matching.png", "matching.json")


def build_parser() -> argparse.ArgumentParser:
    """The command line of matching."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 matching",
        description="Over checkpoints of a DETR: the share of objects that keep their query, and the instability.",
    )
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, metavar="FILE", help="two or more, in training order"
    )
    add_detr_options(parser, data=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a PNG and a JSON file."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    check_numbers(args)
    if len(args.checkpoints) < 2:
        raise ValueError(f"--checkpoints names {args.checkpoints[0]} only; it takes two to see what changes")
    for path in args.checkpoints:
        if "://" not in path and not Path(path).exists():
            raise FileNotFoundError(f"there is no checkpoint {path}")
    paths = prepare_outputs(args, FILES)
    cfg = read_detr_config(args)
    dataset, given, records = find_images(cfg, args)
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
    objects = assignments[0].query.shape[1]
    save_stability(paths[0], transitions)
    result = {"dataset": dataset, "images": len(records), "objects": objects, "checkpoints": args.checkpoints}
    write_json(paths[1], {**result, "transitions": transitions})
    for transition in transitions:
        last = transition["layers"][-1]
        print(
            f"{transition['from']} -> {transition['to']}: {100 * last['same']:.1f}% of {objects:,} objects keep their "
            f"query, instability {last['instability']:.2f} (last decoder layer)"
        )
    print(f"{', '.join(FILES)} are in {args.output}")
    return 0


def _names(checkpoints: Sequence[str]) -> list[str]:
    """Short names that tell the checkpoints apart: of the files, with their folders, or as they were given."""
    files = [Path(path) for path in checkpoints]
    short = [x.stem for x in files]
    longer = [f"{x.resolve().parent.name}/{x.stem}" for x in files]
    return next((names for names in (short, longer) if len(set(names)) == len(names)), list(checkpoints))
