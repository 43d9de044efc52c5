"""`python -m detr_d2 queries`: where the boxes of each object query fall over a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..cli import quiet_libraries
from ..data import read_image
from ..files import write_json
from ..prediction.predictor import ImagePredictor
from ..visualization.queries import (
    SMALL_AREA,
    collect_queries,
    save_query_boxes,
    save_query_classes,
    summarise_queries,
)
from ._options import add_detr_options, check_numbers
from ._run import find_images, load_detr, prepare_outputs, read_detr_config

FILES = ("query_boxes.png", "query_classes.png", "queries.json")


def build_parser() -> argparse.ArgumentParser:
    """The command line of queries."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 queries",
        description="Shows what each object query of a DETR predicts over a dataset: where its boxes fall (a point for "
        "each; green small, red large and horizontal, blue large and vertical), which classes, how often it fires.",
    )
    parser.add_argument("--weights", metavar="FILE", help="trained model (default: MODEL.WEIGHTS of the config)")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S", help="a query fires at this score")
    parser.add_argument(
        "--show", type=int, default=20, metavar="N", help="draw the N queries that fire most often (default: 20)"
    )
    parser.add_argument(
        "--small-area", type=float, default=SMALL_AREA, metavar="A", help="boxes of fewer square pixels are small "
        "(default: COCO's %(default)g)"
    )  # fmt: skip
    add_detr_options(parser, data=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes two PNGs and a JSON file."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    check_numbers(args)
    paths = prepare_outputs(args, FILES)
    cfg = read_detr_config(args)
    if cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE:
        raise ValueError(
            f"{args.config_file} is a two-stage model (MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE), whose queries "
            "stand at proposals that differ from image to image; give a model without two stages"
        )
    dataset, given, records = find_images(cfg, args)
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
