"""`python -m detr_d2 predict`: detections, masks and panoptic maps of a model in images, folders and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count, groupby, tee
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.logger import setup_logger
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from tqdm import tqdm

from ..cli import quiet_libraries
from ..data import read_image, tell_of_images
from ..data.image_errors import naming_image
from ..data.registration import is_panoptic
from ..engine.startup.device import choose_device
from ..engine.startup.setup import import_user_modules, load_config
from ..files import write_picture
from ..panoptic_classes import PanopticClasses
from ..prediction import BatchPredictor, Categories, ImagePredictor
from ..prediction.categories import class_names_option, coco_option
from ..prediction.coco_output import CocoOutput
from ..prediction.detector_keys import set_score_threshold
from ..prediction.media import Media, find_media
from ..prediction.output_names import Output, frame_name, match_images, plan_outputs
from ..prediction.trained_model import load_trained_model
from ..prediction.videos import VideoReader, Write, new_video
from ._options import add_import, check_numbers


def build_parser() -> argparse.ArgumentParser:
    """The command line of predict."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 predict",
        description="Draws the detections of a trained model and writes them in COCO's results format, masks as RLE "
        "and panoptic maps as PNGs in OUTPUT/panoptic with OUTPUT/panoptic.json. "
        "Works with every detectron2 config that detects boxes.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, videos, or folders of them")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file, or name of a shipped config")
    parser.add_argument("--weights", metavar="FILE", help="trained model (default: MODEL.WEIGHTS of the config)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for pictures and JSON files")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run in that folder")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="0 to 1, default: %(default)s; 0 for detections that are to be evaluated",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="give the model up to N images at a time, of equal size after resizing, such as frames of a video; the "
        "detections are the same to rounding (default: %(default)s)",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--coco",
        metavar="NAME=annotations.json:image_root",
        help="take class names, category ids and image ids from this annotation file",
    )
    names.add_argument(
        "--coco-panoptic",
        metavar="NAME=panoptic.json:png_root:image_root",
        help="the same for a panoptic model, from this panoptic file",
    )
    names.add_argument("--classes", metavar="A,B,C", help="class names, in the order of the model's classes")
    add_import(parser, "such as one that registers a transformer")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predicts; returns 1 when some of the inputs could not be read."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}, expected 1 or more")
    check_numbers(args)
    setup_logger(name="detr_d2")
    media = find_media(args.inputs)
    cfg = load_config(args.config_file, args.opts, import_user_modules(args.imports))
    maps = is_panoptic(cfg) and cfg.MODEL.MASK_ON
    outputs = plan_outputs(media, Path(args.output), maps=maps, overwrite=args.overwrite)
    choose_device(cfg)
    set_score_threshold(cfg, args.score_threshold)
    if maps:
        cfg.MODEL.DETR.PANOPTIC.SEM_SEG = False  # nothing here shows it
    given, image_ids = _categories(args, panoptic=is_panoptic(cfg))
    model, categories = load_trained_model(cfg, args.weights or cfg.MODEL.WEIGHTS, given)
    predictor = ImagePredictor(cfg, model=model, score_threshold=args.score_threshold)
    collected = CocoOutput(Path(args.output), categories, PanopticClasses.from_config(cfg) if maps else None)
    # Images of equal size are looked for among so many; all frames of a video are.
    read_ahead = 1 if args.batch_size == 1 else 4 * args.batch_size
    run = _Run(
        predictor=BatchPredictor(predictor, batch_size=args.batch_size, window=read_ahead),
        collected=collected,
        metadata=categories.metadata(collected.panoptic),
        matched=match_images(media, image_ids),
        new_ids=count(1 + int(max([0, *(x for x in image_ids.values() if isinstance(x, int | float))]))),
    )
    tell_of_images("the inputs", [str(item.path) for item in media if not item.is_video])
    run.over(zip(media, outputs, strict=True), len(media))
    collected.save()
    print(
        f"{len(collected.results)} detections of score >= {args.score_threshold:g} in {len(collected.images)} images "
        f"and frames; pictures, predictions.json and images.json are in {args.output}"
    )
    if args.score_threshold > 0:
        print(
            "note: the AP of predictions.json is lower than that of the model, as detections below the threshold are "
            "not in it; to evaluate, or for compare --predictions, use --score-threshold 0"
        )
    return 1 if run.failed else 0


def _categories(args: argparse.Namespace, *, panoptic: bool) -> tuple[Categories | None, dict[Path, Any]]:
    """The classes that the user names, and the image ids of the annotation file where it is that which names them."""
    if args.coco_panoptic and not panoptic:
        raise ValueError(
            f"--coco-panoptic {args.coco_panoptic} is for panoptic models, but MODEL.DETR.PANOPTIC.ENABLED is False: "
            "give --coco"
        )
    if args.coco_panoptic:
        return coco_option(args.coco_panoptic, panoptic=True)
    return coco_option(args.coco) if args.coco else (class_names_option(args.classes), {})


@dataclass(frozen=True)
class _Frame:
    """An image, or a frame of a video.

    Args:
        media, output: what it is from, and where that goes.
        image: (H, W, 3) uint8, BGR.
        number, rate: of a video: its place in there, and frames per second.
    """

    media: Media
    output: Output
    image: np.ndarray
    number: int | None = None
    rate: Fraction = Fraction(1)


_Found = Iterable[tuple[_Frame, dict[str, Any]]]  # with what the model returns


@dataclass
class _Run:
    """The work on all inputs.

    Args:
        predictor: the model.
        collected: gets its predictions.
        metadata: for detectron2's visualizers.
        matched: input -> its image id in an annotation file.
        new_ids: for other images.
        failed: inputs that cannot be read, or not as a whole.
    """

    predictor: BatchPredictor
    collected: CocoOutput
    metadata: Metadata
    matched: dict[Path, Any]
    new_ids: Iterator[int]
    failed: set[Path] = field(default_factory=set)

    def over(self, planned: Iterable[tuple[Media, Output]], total: int) -> None:
        """Works on every input, and goes on after one that cannot be read."""
        frames, ahead = tee(self._read(tqdm(planned, total=total, unit="file", disable=None)))
        found = zip(frames, self.predictor.outputs(map(self._inputs, ahead)), strict=True)
        for item, group in groupby(found, key=lambda x: x[0].media):
            if item.is_video:
                self._draw_video(group)
            else:
                for frame, outputs in group:
                    write_picture(self.collected.folder / frame.output.picture, self._draw(frame, outputs))

    def _read(self, planned: tqdm) -> Iterator[_Frame]:
        for item, output in planned:
            planned.set_postfix_str(str(item.name))
            try:
                if item.is_video:
                    yield from self._read_video(item, output)
                else:
                    yield _Frame(item, output, read_image(item.path, "BGR"))
            except (FileNotFoundError, ValueError) as error:  # a link to nowhere is found, but cannot be read
                self._fail(item, error)

    def _read_video(self, item: Media, output: Output) -> Iterator[_Frame]:
        reader = VideoReader(item.path)
        for image in tqdm(reader, total=len(reader) or None, unit="frame", leave=False, disable=None):
            if item.path in self.failed:  # it cannot be written
                return
            yield _Frame(item, output, image, reader.position, reader.rate)
        if (loss := reader.loss()) is not None:
            raise ValueError(loss)

    def _inputs(self, frame: _Frame) -> dict[str, Any]:
        name = {"file_name": str(frame.media.path)}
        with naming_image(name):
            return self.predictor.predictor.inputs(frame.image) | name

    def _fail(self, item: Media, error: Exception) -> None:
        self.failed.add(item.path)
        tqdm.write(f"error: {error}", file=sys.stderr)

    def _draw_video(self, found: _Found) -> None:
        tracker = VideoVisualizer(self.metadata)
        with ExitStack() as stack:
            write: Write | None = None
            for frame, outputs in found:
                if write is None:  # of the size that frames really have
                    path, size = self.collected.folder / frame.output.picture, frame.image.shape[1::-1]
                    try:
                        write = stack.enter_context(new_video(path, rate=frame.rate, size=size))
                    except ValueError as error:  # of a size or rate that the codec does not take
                        self._fail(frame.media, error)
                        return
                write(self._draw(frame, outputs, tracker)[:, :, ::-1])

    def _draw(self, frame: _Frame, outputs: dict[str, Any], tracker: VideoVisualizer | None = None) -> np.ndarray:
        """Keeps what the model has found, and draws it; (H, W, 3) uint8, RGB."""
        image_id = self.matched.get(frame.media.path)
        image = {"id": next(self.new_ids) if image_id is None else image_id, "file_name": str(frame.media.path)}
        image |= {"height": frame.image.shape[0], "width": frame.image.shape[1]}
        image |= {"picture": frame.output.picture.as_posix()}
        map_name = frame.output.map
        if frame.number is not None:
            image["frame"] = frame.number
            map_name = map_name and frame_name(map_name, frame.number)
        self.collected.add(image, outputs, map_name)

        image_rgb = frame.image[:, :, ::-1]
        visualizer = Visualizer(image_rgb, self.metadata)
        if self.collected.panoptic is not None:
            segment_map, segments = outputs["panoptic_seg"]
            segment_map = segment_map.cpu()
            if tracker is None:
                drawn = visualizer.draw_panoptic_seg(segment_map, segments)
            else:
                drawn = tracker.draw_panoptic_seg_predictions(image_rgb, segment_map, segments)
        elif tracker is None:
            drawn = visualizer.draw_instance_predictions(outputs["instances"])
        else:
            drawn = tracker.draw_instance_predictions(image_rgb, outputs["instances"])
        picture: np.ndarray = drawn.get_image()
        return picture
