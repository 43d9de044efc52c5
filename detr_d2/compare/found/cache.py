"""What a model makes of images, on disk: a folder for one model and dataset, a file for each chunk of images."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from detectron2.config import CfgNode

from ...data import read_image
from ...files import write_file, write_json
from ...prediction.predictor import ImagePredictor
from ..records.files import from_json, to_json
from .nms import Candidates

CACHE_FORMAT = 1
CHUNK = 50  # images per file

_Record = TypeVar("_Record")


def config_hash(cfg: CfgNode) -> str:
    """Hash of the part of a config that a prediction depends on."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    keys = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "RESIZE_ROUNDING")
    part = [cfg.MODEL.dump(), cfg.TEST.DETECTIONS_PER_IMAGE, [cfg.INPUT[key] for key in keys]]
    return hashlib.sha256(repr(part).encode()).hexdigest()


def combined_hash(parts: Mapping[str, Any]) -> str:
    """One short hash of several named values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


_CACHED = re.compile(r"\d{7}-\d{7}\.(npz|json\.gz)|figures-[0-9a-f]{32}\.json|classes\.json")


def forget_predictions(folder: Path) -> None:
    """Deletes what the cache holds of a model, file by file; what else is in its folder stays."""
    for path in [*folder.glob("*"), *folder.glob("masks-*/*")]:
        if _CACHED.fullmatch(path.name):
            path.unlink()


class ImageCache(ABC, Generic[_Record]):
    """A record for each image of what one model says of it on one dataset, or a text that says what went wrong.

    Args:
        folder: of the files, named after everything that the records depend on.
    """

    suffix: str
    """Of the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def chunks(self, num_images: int) -> list[range]:
        """Indices of the images that share a file."""
        return [range(start, min(start + CHUNK, num_images)) for start in range(0, num_images, CHUNK)]

    @abstractmethod
    def read(self, chunk: range) -> list[_Record | str] | None:
        """What `write` has written for these images; None if there is no such file, or a broken one."""

    @abstractmethod
    def write(self, chunk: range, records: Sequence[_Record | str]) -> None:
        """Keeps the records of these images."""

    def path(self, chunk: range) -> Path:
        """The file of these images."""
        return self.folder / f"{chunk.start:07d}-{chunk.stop:07d}{self.suffix}"

    def collect(
        self,
        predictor: Callable[[], ImagePredictor],
        file_names: Sequence[str],
        run: Callable[[ImagePredictor, np.ndarray], _Record],
        watch: Callable[[Sequence[_Record | str]], object],
    ) -> list[_Record | str]:
        """Makes a record of each image, or reads what an earlier run has left.

        After each chunk of images the records are on disk, so that a run that is stopped goes on from there. An image
        that the model cannot process does not stop it, and is tried again in the next run.

        Args:
            predictor: gives the model; called only if it has to run.
            file_names: of the N images.
            run: makes the record of an image, which it gets as (H, W, 3) BGR.
            watch: called with all records so far after each image.

        Returns:
            N records.
        """
        ready: ImagePredictor | None = None
        records: list[_Record | str] = []
        for chunk in self.chunks(len(file_names)):
            known = self.read(chunk) or [""] * len(chunk)
            for old, index in zip(known, chunk, strict=True):
                if isinstance(old, str):
                    ready = ready or predictor()
                    try:
                        old = run(ready, read_image(file_names[index], "BGR"))
                    except Exception as error:  # whatever it is, the others are worked on; the report names it
                        old = " ".join(f"{type(error).__name__}: {error}".split())
                records.append(old)
                watch(records)
            if any(isinstance(old, str) for old in known):
                self.write(chunk, records[chunk.start : chunk.stop])
        return records


class CandidateCache(ImageCache[list[Candidates]]):
    """Keeps the candidates of each image per layer, or what went wrong with it."""

    suffix = ".npz"

    def read(self, chunk: range) -> list[list[Candidates] | str] | None:
        try:
            with np.load(self.path(chunk), allow_pickle=False) as arrays:
                return _unpack({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, chunk: range, records: Sequence[list[Candidates] | str]) -> None:
        arrays = _pack(records)
        write_file(self.path(chunk), lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _pack(records: Sequence[list[Candidates] | str]) -> dict[str, np.ndarray]:
    flat = [x for record in records if not isinstance(record, str) for x in record]
    sizes = [(*(x.network_size or x.image_size), *x.image_size) for x in flat]
    return {
        "format": np.array(CACHE_FORMAT),
        "layers": np.array([-1 if isinstance(record, str) else len(record) for record in records]),
        "errors": np.array([record if isinstance(record, str) else "" for record in records]),
        "sizes": np.array(sizes, dtype=np.int32).reshape(-1, 4),
        "counts": np.array([len(x.scores) for x in flat], dtype=np.int64),
        "boxes_xyxy": np.concatenate([np.zeros((0, 4), np.float32), *(x.boxes_xyxy for x in flat)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(x.scores for x in flat)]),
        "classes": np.concatenate([np.zeros(0, np.int64), *(x.classes for x in flat)]).astype(np.int32),
    }


def _unpack(arrays: Mapping[str, np.ndarray]) -> list[list[Candidates] | str]:
    if int(arrays["format"]) != CACHE_FORMAT:
        raise ValueError("another format")
    ends = np.cumsum(arrays["counts"])
    flat = [
        Candidates(
            boxes_xyxy=arrays["boxes_xyxy"][end - count : end],
            scores=arrays["scores"][end - count : end],
            classes=arrays["classes"][end - count : end].astype(np.int64),
            network_size=(int(size[0]), int(size[1])),
            image_size=(int(size[2]), int(size[3])),
        )
        for end, count, size in zip(ends, arrays["counts"], arrays["sizes"], strict=True)
    ]
    rest = iter(flat)
    return [
        str(error) if layers < 0 else [next(rest) for _ in range(layers)]
        for layers, error in zip(arrays["layers"].tolist(), arrays["errors"].tolist(), strict=True)
    ]


def remembered(
    path: Path, kind: type[_Record], make: Callable[[], _Record], *, keep: Callable[[_Record], bool] = lambda _: True
) -> _Record:
    """The record in a JSON file; if there is none, or one of another layout, what `make` makes.

    Args:
        path: of the file.
        kind: of the record.
        make: makes it.
        keep: whether what was made goes into the file.
    """
    try:
        return from_json(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        record = make()
        if keep(record):
            write_json(path, to_json(record))
        return record
