"""`python -m detr_d2 predict`: detections, masks and panoptic maps of a model in images, folders and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.logger import setup_logger
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from tqdm import tqdm

from ..data import read_image, tell_of_images
from ..data.image_errors import naming_image
from ..data.registration import is_panoptic
from ..engine.startup.device import choose_device
from ..engine.startup.setup import import_user_modules, load_config
from ..files import write_json, write_picture
from ..panoptic_classes import PanopticClasses
from ..prediction.detector_keys import set_score_threshold
from ..prediction.media import Media, VideoReader, VideoWriter, find_media
from ..prediction.output_names import frame_name
from ..prediction.predict_outputs import IMAGES, MAPS, PANOPTIC, PREDICTIONS, Output, match_images, plan_outputs
from ..prediction.predictor import Categories, ImagePredictor, coco_results, panoptic_result
from ..prediction.trained_model import class_names_option, coco_option, load_trained_model
from ._options import add_import
from ._run import ends_with_its_folders, quiet_libraries


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
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S", help="0 to 1, default: %(default)s")
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


@ends_with_its_folders
def main(argv: Sequence[str] | None = None) -> int:
    """Predicts; returns 1 when some of the inputs could not be read."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold:g}, expected 0 to 1")
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
    run = _Run(
        predictor=predictor,
        categories=categories,
        image_ids=image_ids,
        matched=match_images(media, image_ids),
        folder=Path(args.output),
        panoptic=PanopticClasses.from_config(cfg) if maps else None,
    )
    tell_of_images("the inputs", [str(item.path) for item in media if not item.is_video])
    failed = run.over(media, outputs)
    run.save()
    print(
        f"{len(run.results)} detections of score >= {args.score_threshold:g} in {len(run.images)} images and frames; "
        f"pictures, predictions.json and images.json are in {args.output}"
    )
    return 1 if failed else 0


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


class _Run:
    """Detections collected over all inputs.

    Args:
        predictor: the model.
        categories: its classes.
        image_ids: file -> image id of an annotation file.
        matched: input -> which of these it has; other images get ids of their own.
        folder: of all outputs.
        panoptic: classes of a panoptic model.
    """

    def __init__(
        self,
        *,
        predictor: ImagePredictor,
        categories: Categories,
        image_ids: dict[Path, Any],
        matched: dict[Path, Any],
        folder: Path,
        panoptic: PanopticClasses | None = None,
    ) -> None:
        self.predictor = predictor
        self.categories = categories
        self.image_ids = image_ids
        self.matched = matched
        self.folder = folder
        self.panoptic = panoptic
        self.metadata = categories.metadata(panoptic)
        self.panoptic_results: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._next_id = 1 + int(max([0, *(x for x in image_ids.values() if isinstance(x, int | float))]))

    def over(self, media: Sequence[Media], outputs: Sequence[Output]) -> int:
        """Works on every input, goes on after one that cannot be read, and returns how many of those there were."""
        failed = 0
        with tqdm(total=len(media), unit="file", disable=None) as progress:
            for item, output in zip(media, outputs, strict=True):
                progress.set_postfix_str(str(item.name))
                try:
                    if item.is_video:
                        self._video(item, output)
                    else:
                        self._image(item, output)
                except _Unreadable as error:
                    failed += 1
                    progress.write(f"error: {error}", file=sys.stderr)
                progress.update()
        return failed

    def save(self) -> None:
        """Writes predictions.json (COCO results), images.json (what their ids mean), and panoptic.json."""
        write_json(self.folder / PREDICTIONS, self.results)
        described = {"images": self.images, "categories": self.categories.to_json()}
        write_json(self.folder / IMAGES, described)
        if self.panoptic is not None:
            categories = [
                {**category, "isthing": int(self.panoptic.is_thing(row))}
                for row, category in enumerate(self.categories.to_json())
            ]
            content = {"images": self.images, "annotations": self.panoptic_results, "categories": categories}
            write_json(self.folder / PANOPTIC, content)

    def _image(self, item: Media, output: Output) -> None:
        try:
            image = read_image(item.path, "BGR")
        except (FileNotFoundError, ValueError) as error:  # a link to nowhere is found, but cannot be read
            raise _Unreadable(str(error)) from error
        outputs = self._outputs(item, image)
        self._add(item, outputs, {"picture": output.picture.as_posix()}, output.map)
        visualizer = Visualizer(image[:, :, ::-1], self.metadata)
        if self.panoptic is None:
            drawn = visualizer.draw_instance_predictions(self.predictor.instances(outputs))
        else:
            drawn = visualizer.draw_panoptic_seg(outputs["panoptic_seg"][0].cpu(), outputs["panoptic_seg"][1])
        write_picture(self.folder / output.picture, drawn.get_image())

    def _video(self, item: Media, output: Output) -> None:
        visualizer = VideoVisualizer(self.metadata)
        try:
            reader = VideoReader(item.path)
        except ValueError as error:
            raise _Unreadable(str(error)) from error
        with ExitStack() as stack:
            writer: VideoWriter | None = None
            frames = tqdm(_readable(reader), total=len(reader) or None, unit="frame", leave=False, disable=None)
            for frame in frames:
                if writer is None:  # of the size that frames really have
                    writer = stack.enter_context(self._writer(output, reader.fps, frame))
                outputs = self._outputs(item, frame)
                more = {"picture": output.picture.as_posix(), "frame": reader.position}
                self._add(item, outputs, more, output.map and frame_name(output.map, reader.position))
                if self.panoptic is None:
                    drawn = visualizer.draw_instance_predictions(frame[:, :, ::-1], self.predictor.instances(outputs))
                else:
                    segment_map, segments = outputs["panoptic_seg"]
                    drawn = visualizer.draw_panoptic_seg_predictions(frame[:, :, ::-1], segment_map.cpu(), segments)
                writer.write(drawn.get_image()[:, :, ::-1])
        if (loss := reader.loss()) is not None:
            raise _Unreadable(loss)

    def _outputs(self, item: Media, image_bgr: np.ndarray) -> dict[str, Any]:
        with naming_image({"file_name": str(item.path)}):
            return self.predictor.outputs(image_bgr)

    def _writer(self, output: Output, fps: float, frame: np.ndarray) -> VideoWriter:
        try:
            return VideoWriter(self.folder / output.picture, fps=fps, size=(frame.shape[1], frame.shape[0]))
        except ValueError as error:  # of a size or rate that the codec does not take
            raise _Unreadable(str(error)) from error

    def _add(self, item: Media, outputs: dict[str, Any], more: dict[str, Any], name: Path | None) -> None:
        """Keeps the detections of an image or frame; a panoptic map goes into panoptic/ under `name`."""
        instances = self.predictor.instances(outputs)
        image_id = self.matched.get(item.path)
        if image_id is None:
            image_id, self._next_id = self._next_id, self._next_id + 1
        height, width = instances.image_size
        self.images.append({"id": image_id, "file_name": str(item.path), "height": height, "width": width, **more})
        self.results += coco_results(instances, image_id, self.categories)
        if self.panoptic is not None and name is not None:
            picture, result = panoptic_result(
                outputs["panoptic_seg"], image_id, name.as_posix(), self.categories, self.panoptic
            )
            self.panoptic_results.append(result)
            write_picture(self.folder / MAPS / name, picture)


class _Unreadable(Exception):
    """One of the inputs is broken, or a part of it; the others are worked on."""


def _readable(reader: VideoReader) -> Iterator[np.ndarray]:
    try:
        yield from reader
    except ValueError as error:
        raise _Unreadable(str(error)) from error
