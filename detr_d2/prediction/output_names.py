"""Where `predict` writes what, and under which id: settled for all inputs before anything is written.

Outputs have the names of their inputs, with a number where two would have the same.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.output_folder import claim_files
from .coco_output import IMAGES, MAPS, PANOPTIC, PREDICTIONS
from .media import IMAGE_SUFFIXES, Media
from .videos import video_suffix

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")  # pictures of others become PNG


@dataclass(frozen=True)
class Output:
    """What is written for one input.

    Args:
        picture: the drawn image or video, relative to the output folder.
        map: panoptic map of an image, relative to `MAPS` in there; of a video the series of them, for `frame_name`;
            None without maps.
    """

    picture: Path
    map: Path | None = None


def plan_outputs(media: Sequence[Media], folder: Path, *, maps: bool, overwrite: bool) -> list[Output]:
    """One entry per input; makes the folders, so that a mistake shows before the work.

    Args:
        media: the inputs.
        folder: of all outputs.
        maps: whether panoptic maps are written.
        overwrite: whether files may exist already.

    Raises:
        ValueError: a file exists, or is an input.
        OSError: the folder cannot be written to.
    """
    names = OutputNames([PREDICTIONS, IMAGES, PANOPTIC])
    outputs = [Output(names.claim(_picture(item))) for item in media]
    if maps:
        found: dict[int, Path] = {}
        for index in sorted(range(len(media)), key=lambda i: media[i].is_video):  # series come last
            picture = outputs[index].picture
            claim, suffix = (names.claim_series, "") if media[index].is_video else (names.claim, ".png")
            found[index] = claim(MAPS / picture.with_name(picture.stem + suffix)).relative_to(MAPS)
        outputs = [Output(output.picture, found[index]) for index, output in enumerate(outputs)]
    files = [folder / PREDICTIONS, folder / IMAGES, *([folder / PANOPTIC] if maps else [])]
    for item, output in zip(media, outputs, strict=True):
        files.append(folder / output.picture)
        if output.map is not None:
            path = folder / MAPS / output.map
            files += _written_frames(path) if item.is_video else [path]
    sources = {item.path.resolve() for item in media}
    for path in files:
        if path.resolve() in sources:
            raise ValueError(f"{path} is an input and would be overwritten; choose another --output")
    claim_files(files, output=folder, overwrite=overwrite)
    return outputs


def _picture(item: Media) -> Path:
    if item.is_video:
        return item.name.with_name(item.name.stem + video_suffix())
    suffix = item.name.suffix.lower()
    stem = item.name.stem if suffix in IMAGE_SUFFIXES else item.name.name  # names may hold dots
    return item.name.with_name(stem + (suffix if suffix in _KEPT_SUFFIXES else ".png"))


def _written_frames(series: Path) -> list[Path]:
    """Maps of an earlier run; how many frames a video has shows when it is read only."""
    return [x for x in series.parent.iterdir() if is_frame(x.name, series.name)] if series.parent.is_dir() else []


def match_images(media: Sequence[Media], known: Mapping[Path, Any]) -> dict[Path, Any]:
    """The ids that inputs have in an annotation file, by path.

    An input of another name is taken for an image of the file if it is the same file behind links, no other image of
    the annotation file is that, and no other input.

    Args:
        media: the inputs.
        known: absolute path -> id.
    """
    places = {item.path: Path(os.path.abspath(item.path)) for item in media if not item.is_video}
    ids = {path: known[place] for path, place in places.items() if place in known}
    if not known or len(ids) == len(places):
        return ids
    by_file: dict[Path, list[Any]] = defaultdict(list)
    for place, image_id in known.items():
        by_file[place.resolve()].append(image_id)
    used = {repr(x) for x in ids.values()}
    for path in places:
        candidates = by_file.get(path.resolve(), [])
        if path not in ids and len(candidates) == 1 and repr(candidates[0]) not in used:
            ids[path] = candidates[0]
            used.add(repr(candidates[0]))
    return ids


def file_stem(label: str) -> str:
    """What a file about something that people call `label` is named: underscores for what a file system may refuse."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", label)[:100].strip(". ") or "_"


class OutputNames:
    """Hands out relative names of files; also different where capitals and the composition of accents do not count.

    Args:
        reserved: names that are taken from the beginning.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._series: set[str] = set()
        for name in reserved:
            self.claim(Path(name))

    def claim(self, name: Path) -> Path:
        """The name, or with a number behind its stem (or a folder's) if another file or folder has it."""
        folder = self._folder(name)
        free = _first_free(folder / name.name, lambda key: key not in self._files and key not in self._folders)
        self._files.add(_key(free))
        return free

    def claim_series(self, name: Path) -> Path:
        """A name that gives free names with `frame_name`, for any number; asked for after all calls of `claim`."""
        folder = self._folder(name)
        free = _first_free(folder / name.name, self._starts_nothing)
        self._series.add(_key(free))
        return free

    def _folder(self, name: Path) -> Path:
        folder = Path()
        for part in name.parts[:-1]:
            folder = _first_free(folder / part, lambda key: key not in self._files)
            self._folders.add(_key(folder))
        return folder

    def _starts_nothing(self, key: str) -> bool:
        return key not in self._series and not any(is_frame(x, key) for x in self._files | self._folders)


def frame_name(series: Path, number: int) -> Path:
    """Of the picture of a frame."""
    return series.with_name(f"{series.name}-{number:06d}.png")


def is_frame(name: str, series: str) -> bool:
    """Whether `frame_name` may give a name in a series."""
    return re.fullmatch(re.escape(series) + r"-\d{6,}\.png", name) is not None


def _key(name: Path) -> str:
    return unicodedata.normalize("NFC", name.as_posix()).casefold()


def _first_free(name: Path, is_free: Callable[[str], bool]) -> Path:
    number, candidate = 1, name
    while not is_free(_key(candidate)):
        number += 1
        candidate = name.with_name(f"{name.stem}-{number}{name.suffix}")
    return candidate
