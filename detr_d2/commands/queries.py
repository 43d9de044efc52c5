"""`python -m detr_d2 queries`: where the boxes of each object query fall over a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data import read_image
from ..files import write_json
from ..prediction.predictor import ImagePredictor
from ..visualization.inspection import (
    add_config_options,
    add_data_options,
    add_output_options,
    find_dataset,
    load_detr,
    prepare_outputs,
    read_detr_config,
    take_images,
)
from ..visualization.queries import SMALL_AREA, collect_queries, summarise_queries
from ..visualization.query_pictures import save_query_boxes, save_query_classes
from ._run import ends_with_its_folders, quiet_libraries

FILES = ("query_boxes.png", "query_classes.png", "queries.json")


def build_parser() -> argparse.ArgumentParser:
    """The command line of queries."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 queries",
        description="Shows what each object query of a DETR predicts over a dataset: where its boxes fall (a point for "
        "each; green small, red large and horizontal, blue large and vertical), which classes, how often it fires.",
    )
    parser.add_argument("--weights", metavar="FILE", help="trained model (default: MODEL.WEIGHTS of the config)")
    add_data_options(parser)
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S", help="a query fires at this score")
    parser.add_argument(
        "--show", type=int, default=20, metavar="N", help="draw the N queries that fire most often (default: 20)"
    )
    parser.add_argument(
        "--small-area", type=float, default=SMALL_AREA, metavar="A", help="boxes of fewer square pixels are small "
        "(default: COCO's %(default)g)"
    )  # fmt: skip
    add_output_options(parser)
    add_config_options(parser)
    return parser


@ends_with_its_folders
def main(argv: Sequence[str] | None = None) -> int:
    """Writes two PNGs and a JSON file."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold:g}, expected 0 to 1")
    if args.show < 1:
        raise ValueError(f"--show is {args.show}, expected 1 or more")
    paths = prepare_outputs(args.output, FILES, overwrite=args.overwrite)
    cfg = read_detr_config(args.config_file, args.opts, args.imports)
    if cfg.MODEL.DETR.TRANSFORMER.TWO_STAGE:
        raise ValueError(
            f"{args.config_file} is a two-stage model (MODEL.DETR.TRANSFORMER.TWO_STAGE), whose queries stand at "
            "proposals that differ from image to image; give a model without two stages"
        )
    dataset, given = find_dataset(cfg, args.dataset, args.coco)
    records = take_images(dataset, args.limit)
    model, categories = load_detr(cfg, args.weights or cfg.MODEL.WEIGHTS, given)
    predictor = ImagePredictor(cfg, model=model)
    predictions = collect_queries(model, _inputs(predictor, records))
    settings = {"score_threshold": args.score_threshold, "small_area": args.small_area}
    summaries = summarise_queries(predictions, categories.names, **settings)
    shown = np.argsort([-x["fires"] for x in summaries], kind="stable")[: args.show].tolist()
    save_query_boxes(paths[0], predictions, summaries, shown, small_area=args.small_area)
    save_query_classes(paths[1], summaries, shown, len(records))
    write_json(paths[2], {"dataset": dataset, "images": len(records), **settings, "queries": summaries})
    print(_sentence(summaries, len(records), args))
    return 0


def _inputs(predictor: ImagePredictor, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in tqdm(records, unit="image", disable=None):
        yield predictor.inputs(read_image(record["file_name"], "BGR"))


def _sentence(summaries: Sequence[dict[str, Any]], num_images: int, args: argparse.Namespace) -> str:
    active = sum(x["fires"] > 0 for x in summaries)
    return (
        f"{active} of {len(summaries)} queries fire (score >= {args.score_threshold:g}) in some of {num_images} "
        f"images; {', '.join(FILES)} are in {args.output}"
    )
