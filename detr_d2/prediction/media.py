"""Images and videos among files and folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.checks.missing_files import broken_link

_STILL = "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png ppm tif tiff webp"
_MOVING = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _STILL.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _MOVING.split())

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Media:
    """One image or video to work on.

    Args:
        path: of the file.
        name: relative name for outputs: inside the folder that was given, or the file's own name.
    """

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """By the file's suffix; everything else is read as an image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_media(inputs: Sequence[str | os.PathLike[str]]) -> list[Media]:
    """Images and videos among files and folders, folders searched to the bottom, in sorted order.

    A file that was named is taken whatever its suffix. Hidden files of folders are left out; so are others that are
    neither images nor videos, and a line says how many. Links of different names are different files, wherever they
    lead to.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without any image or video, or the same path twice.
    """
    found: list[Media] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found += [Media(path=file, name=file.relative_to(path)) for file in _media_in(path)]
        elif path.exists():
            found.append(Media(path=path, name=Path(path.name)))
        else:
            fault = f"{os.fspath(given)} does not exist; give image files, video files or folders of them"
            raise FileNotFoundError(broken_link(path) or fault)
    seen: set[str] = set()
    for media in found:
        place = os.path.abspath(media.path)
        if place in seen:
            raise ValueError(f"{media.path} is given twice; name it once")
        seen.add(place)
    return found


def _media_in(folder: Path) -> list[Path]:
    files = sorted(_files(folder, frozenset()))
    inside = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not inside:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise ValueError(f"{folder} holds no image and no video; looked for {suffixes}")
    others = [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if others:
        some = ", ".join(str(file.relative_to(folder)) for file in others[:3])
        logger.warning(
            "%s: %d files are left out, as their names are not those of images or videos, such as %s.",
            folder, len(others), some,
        )  # fmt: skip
    return inside


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """All that is not hidden and no folder, through links as well, but not around in circles."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(Path(entry.path), above | {real})
            else:
                yield Path(entry.path)
