"""`python -m detr_d2 attention`: where a DETR looks in an image, as pictures and as a page to explore."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..cli import quiet_libraries
from ..data import read_image
from ..layers import MultiHeadAttention
from ..prediction import Categories, ImagePredictor
from ..prediction.categories import class_names_option
from ..visualization.attention_page import save_attention_page
from ..visualization.attention_pictures import save_looks
from ..visualization.looks import Frame, Inside, Look, detection_looks, grid_points, look_inside, point_looks
from ._options import add_detr_options, check_numbers
from ._run import load_detr, prepare_outputs, read_detr_config

FILES = ("encoder.png", "decoder.png", "attention.html")
_GRID = (8, 6)  # points of the page, columns and rows
_PANELS = 16  # of a PNG


def build_parser() -> argparse.ArgumentParser:
    """The command line of attention."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 attention",
        description="Shows where a DETR looks in an image: the encoder's self-attention from chosen points, and the "
        "decoder's attention of each detection; of a Deformable DETR, the points that it samples.",
    )
    parser.add_argument("image", metavar="IMAGE", help="image file")
    parser.add_argument("--weights", metavar="FILE", help="trained model (default: MODEL.WEIGHTS of the config)")
    parser.add_argument(
        "--points", nargs="+", type=_point, metavar="X,Y", help="places in pixels of the image, from which the encoder "
        "looks (default: the centres of the detections, and on the page a grid as well)"
    )  # fmt: skip
    parser.add_argument("--layer", type=int, metavar="N", help="decoder layer, 1 is the first (default: the last)")
    parser.add_argument("--encoder-layer", type=int, metavar="N", help="encoder layer (default: the last)")
    parser.add_argument("--head", type=int, metavar="N", help="attention head, 1 is the first (default: the mean)")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S", help="0 to 1, default: %(default)s")
    parser.add_argument("--max-detections", type=int, default=50, metavar="N", help="the best N (default: %(default)s)")
    parser.add_argument("--classes", metavar="A,B,C", help="class names, in the order of the model's classes")
    add_detr_options(parser, data=False)
    return parser


def _point(text: str) -> tuple[float, float]:
    x, comma, y = text.partition(",")
    try:
        if comma:
            return float(x), float(y)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a place X,Y in pixels, such as 120,80")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes two PNGs and a page; a PNG for which there is nothing to show is left out."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    check_numbers(args)
    paths = prepare_outputs(args, FILES)
    cfg = read_detr_config(args)
    image_bgr = read_image(args.image, "BGR")
    _check_points(args.points or [], image_bgr, args.image)
    model, categories = load_detr(cfg, args.weights or cfg.MODEL.WEIGHTS, class_names_option(args.classes))
    inputs = ImagePredictor(cfg, model=model).inputs(image_bgr)
    inside = look_inside(model, inputs, decoder_layer=args.layer, encoder_layer=args.encoder_layer)
    written = _write(args, paths, image_bgr[:, :, ::-1], inside, categories)
    print(f"{', '.join(written)} {'is' if len(written) == 1 else 'are'} in {args.output}")
    return 0


def _check_points(points: Sequence[tuple[float, float]], image: np.ndarray, name: str) -> None:
    height, width = image.shape[:2]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"--points {x:g},{y:g} is outside of {name}, which is {width} pixels wide and {height} high; x must be "
                f"0 to {width - 1} and y 0 to {height - 1}"
            )


def _write(
    args: argparse.Namespace, paths: Sequence[Path], image_rgb: np.ndarray, inside: Inside, categories: Categories
) -> list[str]:
    """Writes the files and returns the names of those that there was something for."""
    detections = np.flatnonzero(inside.scores >= args.score_threshold)[: args.max_detections].tolist()
    if not detections:
        print(f"no detection scores {args.score_threshold:g} or more: lower --score-threshold to see what they look at")
    # Once each: with the focal loss, a query may yield several detections.
    centres = list(dict.fromkeys(_centre(box, inside.frame) for box in inside.boxes_xyxy[detections].tolist()))
    grid = grid_points(inside.frame, *_GRID)
    decoder = detection_looks(inside, detections, categories.names, args.head)
    encoder: list[Look] = []
    if inside.encoder is not None:
        encoder = point_looks(inside, args.points or [*centres, *grid], args.head)
    elif args.points:
        raise ValueError(f"--points asks for the encoder's attention, but {args.config_file} has no encoder layers")
    if not encoder and not decoder:
        raise ValueError(f"there is nothing to show: {args.config_file} has no encoder, and no detection is that good")
    written = []
    chosen = encoder if args.points or not centres else encoder[: len(centres)]
    for path, looks in ((paths[0], chosen), (paths[1], decoder)):
        if not looks:
            path.unlink(missing_ok=True)  # with --overwrite: it would not belong to the other files
        else:
            save_looks(path, image_rgb, inside.frame, _spread(looks))
            written.append(path.name)
    titled = {"Decoder: detections": decoder, "Encoder: points": encoder}
    groups = {title: looks for title, looks in titled.items() if looks}
    name = Path(args.image).name
    model = Path(args.config_file).stem
    save_attention_page(paths[2], image_rgb, inside.frame, groups, name=name, model=model, notes=_notes(args, inside))
    return [*written, paths[2].name]


def _centre(box_xyxy: Sequence[float], frame: Frame) -> tuple[float, float]:
    """Inside the picture, which a predicted box may leave."""
    x, y = (box_xyxy[0] + box_xyxy[2]) / 2, (box_xyxy[1] + box_xyxy[3]) / 2
    return min(max(x, 0.0), frame.width - 1.0), min(max(y, 0.0), frame.height - 1.0)


def _spread(looks: Sequence[Look]) -> list[Look]:
    """At most as many as a PNG has panels, evenly taken; the page shows all."""
    if len(looks) <= _PANELS:
        return list(looks)
    return [looks[round(i * (len(looks) - 1) / (_PANELS - 1))] for i in range(_PANELS)]


def _notes(args: argparse.Namespace, inside: Inside) -> list[str]:
    """How the page was made, below it."""
    layer = "last decoder layer" if args.layer is None else f"decoder layer {args.layer}"
    encoder = "last encoder layer" if args.encoder_layer is None else f"encoder layer {args.encoder_layer}"
    head = "the mean of all heads" if args.head is None else f"head {args.head}"
    sizes = " and ".join(f"{width} x {height}" for height, width in inside.frame.map_sizes)
    dense = isinstance(inside.decoder.module, MultiHeadAttention)
    legend = (
        "Each map is scaled by its own largest weight."
        if dense
        else "Dots are points that deformable attention samples, larger with their weight, a colour for each level."
    )
    return [
        f"Attention of the {layer} and the {encoder}, {head}; feature maps of {sizes} cells. {legend}",
        f"Config: {args.config_file}; weights: {args.weights or 'MODEL.WEIGHTS of the config'}; detections of score "
        f"{args.score_threshold:g} or more.",
    ]
