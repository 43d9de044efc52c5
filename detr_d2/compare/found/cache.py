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

from ...files import write_file, write_json
from ..record_files import from_json, to_json
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
    """Reads and writes a record for each image, of one model on one dataset.

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
    def read(self, chunk: range) -> list[_Record] | None:
        """What `write` has written for these images; None if there is no such file, or a broken one."""

    @abstractmethod
    def write(self, chunk: range, records: Sequence[_Record]) -> None:
        """Keeps the records of these images."""

    def path(self, chunk: range) -> Path:
        """The file of these images."""
        return self.folder / f"{chunk.start:07d}-{chunk.stop:07d}{self.suffix}"


class CandidateCache(ImageCache[list[Candidates] | str]):
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
    sizes = [(*x.network_size, *x.image_size) for x in flat]
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
