"""`python -m detr_d2 predict`: detections of a trained model in images, folders and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from tqdm import tqdm

from ..data import read_image
from ..engine.startup import choose_device, load_config
from ..evaluation.detector_keys import set_score_threshold
from ..evaluation.media import Media, VideoReader, VideoWriter, find_media, video_suffix
from ..evaluation.prediction import Categories, ImagePredictor, coco_results
from ..evaluation.results import write_json
from ..evaluation.trained_model import class_names_option, coco_option, load_trained_model
from .outputs import claim_files
from .quiet import quiet_libraries

_KEPT_SUFFIXES = {".jpg", ".jpeg", ".png"}  # others become PNG


def build_parser() -> argparse.ArgumentParser:
    """The command line of predict."""
    parser = argparse.ArgumentParser(
        prog="python -m detr_d2 predict",
        description="Draws the detections of a trained model and writes them in COCO's results format. "
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
    names.add_argument("--classes", metavar="A,B,C", help="class names, in the order of the model's classes")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides KEY VALUE ..., last")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predicts; returns 1 when some of the inputs could not be read."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    if not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold:g}, expected 0 to 1")
    media = find_media(args.inputs)
    outputs = _plan_outputs(media, Path(args.output), overwrite=args.overwrite)
    cfg = load_config(args.config_file, args.opts)
    setup_logger(name="detr_d2")
    choose_device(cfg)
    set_score_threshold(cfg, args.score_threshold)
    given, image_ids = coco_option(args.coco) if args.coco else (class_names_option(args.classes), {})
    model, categories = load_trained_model(cfg, args.weights or cfg.MODEL.WEIGHTS, given)
    predictor = ImagePredictor(cfg, model=model, score_threshold=args.score_threshold)
    run = _Run(predictor=predictor, categories=categories, image_ids=image_ids, folder=Path(args.output))
    failed = run.over(media, outputs)
    run.save()
    print(
        f"{len(run.results)} detections of score >= {args.score_threshold:g} in {len(run.images)} images and frames; "
        f"pictures, predictions.json and images.json are in {args.output}"
    )
    return 1 if failed else 0


def _plan_outputs(media: Sequence[Media], folder: Path, *, overwrite: bool) -> list[Path]:
    """Where each picture or video goes; makes the folder, so that a mistake shows before the work."""
    names: list[Path] = []
    for item in media:
        suffix = item.name.suffix.lower()
        if item.is_video:
            suffix = video_suffix()
        elif suffix not in _KEPT_SUFFIXES:
            suffix = ".png"
        names.append(_unused(item.name.with_suffix(suffix), names))
    outputs = [folder / name for name in names]
    sources = {item.path.resolve() for item in media}
    for path in outputs:
        if path.resolve() in sources:
            raise ValueError(f"{path} is an input and would be overwritten; choose another --output")
    files = [*outputs, folder / "predictions.json", folder / "images.json"]
    claim_files(files, output=folder, overwrite=overwrite)
    return outputs


def _unused(name: Path, taken: Sequence[Path]) -> Path:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = name.with_name(f"{name.stem}-{number}{name.suffix}")
    return candidate


class _Run:
    """Detections collected over all inputs.

    Args:
        predictor: the model.
        categories: its classes.
        image_ids: resolved file -> image id of an annotation file; other images get ids of their own.
        folder: of all outputs.
    """

    def __init__(
        self, *, predictor: ImagePredictor, categories: Categories, image_ids: dict[Path, int], folder: Path
    ) -> None:
        self.predictor = predictor
        self.categories = categories
        self.image_ids = image_ids
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._next_id = max(image_ids.values(), default=0) + 1

    def over(self, media: Sequence[Media], outputs: Sequence[Path]) -> int:
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
        """Writes predictions.json (COCO results) and images.json (what their ids mean)."""
        write_json(self.folder / "predictions.json", self.results)
        write_json(self.folder / "images.json", {"images": self.images, "categories": self.categories.to_json()})

    def _image(self, item: Media, output: Path) -> None:
        try:
            image = read_image(item.path, "BGR")
        except (FileNotFoundError, ValueError) as error:  # a link to nowhere is found, but cannot be read
            raise _Unreadable(str(error)) from error
        instances = self.predictor(image)
        drawn = Visualizer(image[:, :, ::-1], self.categories.metadata()).draw_instance_predictions(instances)
        if not cv2.imwrite(str(output), drawn.get_image()[:, :, ::-1]):
            raise OSError(f"cannot write {output}")
        self._add(item, instances, {"picture": self._picture(output)})

    def _video(self, item: Media, output: Path) -> None:
        visualizer = VideoVisualizer(self.categories.metadata())
        try:
            reader = VideoReader(item.path)
        except ValueError as error:
            raise _Unreadable(str(error)) from error
        with VideoWriter(output, fps=reader.fps, size=reader.size) as writer:
            frames = tqdm(_readable(reader), total=len(reader) or None, unit="frame", leave=False, disable=None)
            for number, frame in enumerate(frames):
                instances = self.predictor(frame)
                drawn = visualizer.draw_instance_predictions(frame[:, :, ::-1], instances)
                writer.write(drawn.get_image()[:, :, ::-1])
                self._add(item, instances, {"picture": self._picture(output), "frame": number})

    def _picture(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _add(self, item: Media, instances: Instances, more: dict[str, Any]) -> None:
        image_id = self.image_ids.get(item.path.resolve())
        if image_id is None:
            image_id, self._next_id = self._next_id, self._next_id + 1
        height, width = instances.image_size
        self.images.append({"id": image_id, "file_name": str(item.path), "height": height, "width": width, **more})
        self.results += coco_results(instances, image_id, self.categories)


class _Unreadable(Exception):
    """One of the inputs is broken; the others are worked on."""


def _readable(reader: VideoReader) -> Iterator[np.ndarray]:
    try:
        yield from reader
    except ValueError as error:
        raise _Unreadable(str(error)) from error
