"""Images, folders and videos: finding them, reading and writing videos."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..data.checks.missing_files import broken_link
from ..files import new_file_by_name

_STILL = "avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png ppm tif tiff webp"
_MOVING = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _STILL.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _MOVING.split())
_PATIENCE = 100  # frames in a row that cannot be decoded, after which nothing more is expected
_USUAL_FPS = 25.0  # where the file does not say
_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))


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


class VideoReader:
    """Frames of a video file; those that cannot be decoded are left out.

    Attributes:
        fps: frames per second.
        size: (width, height) in pixels.
        position: number of the frame that was delivered last, counted from 0, damaged ones included.
        frames: frames delivered so far.
        damaged: places left out between them.

    Raises:
        ValueError: OpenCV cannot open the file, or finds no frame in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            reason = "" if path.stat().st_size else ": it is empty"
            raise ValueError(f"{path} cannot be read as a video by OpenCV {cv2.__version__}{reason}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else _USUAL_FPS  # false for NaN
        self.size = (  # (width, height), OpenCV's order
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        self.position, self.frames, self.damaged = -1, 0, 0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._promised = int(count) if 0 < count < 2**53 else 0

    def __len__(self) -> int:
        """What the container says; some say nothing (0) or too much."""
        return self._promised

    def __iter__(self) -> Iterator[np.ndarray]:
        failures = 0  # in a row
        while failures < _PATIENCE:
            ok, frame = self._capture.read()
            self.position += 1
            if not ok:
                failures += 1
                continue
            self.damaged, failures = self.damaged + failures, 0
            self.frames += 1
            yield frame
        self._capture.release()
        if self.frames == 0:
            raise ValueError(f"{self.path} cannot be read as a video: it holds no frame")

    def loss(self) -> str | None:
        """After the last frame: a sentence if there should have been more.

        An AVI file counts its frames. Others may give a length from which the number is estimated, or hide frames at
        the ends, so that a second, or a fiftieth, less is no loss.
        """
        spare = 0.0 if self.path.suffix.lower() == ".avi" else max(self.fps, self._promised / 50)
        if self.damaged == 0 and self._promised - self.frames <= spare:
            return None
        expected = max(self._promised, self.frames + self.damaged)
        return (
            f"{self.path} is damaged or cut off: {self.frames} of {expected} frames could be read, the others are left "
            "out"
        )


class VideoWriter:
    """Writes frames to a file that appears under its name once it is complete.

    Args:
        path: of the video; its suffix is that of `video_suffix()`.
        fps: frames per second.
        size: (width, height) of the frames in pixels.

    Raises:
        ValueError: OpenCV cannot write such a video.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, *, fps: float, size: tuple[int, int]) -> None:
        self.path = path
        self._size = size
        self._frames = 0
        with ExitStack() as stack:
            self._partial = stack.enter_context(new_file_by_name(path))
            self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*_codec()[1]), fps, size)
            if not self._writer.isOpened():
                what = f"{size[0]}x{size[1]}, {fps:g} frames per second"
                raise ValueError(f"OpenCV cannot write the video {path} ({what})")
            stack.push(self._finish)
            self._stack = stack.pop_all()

    def write(self, frame_bgr: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 frame; one of another size is resized, as OpenCV would silently drop it."""
        if frame_bgr.shape[1::-1] != self._size:
            frame_bgr = cv2.resize(frame_bgr, self._size)
        self._writer.write(np.ascontiguousarray(frame_bgr))
        self._frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Closes the file and counts what is in it: of a full disk, OpenCV says nothing."""
        self._writer.release()
        found = max(int(cv2.VideoCapture(str(self._partial)).get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        if kind is None and found != self._frames:
            raise OSError(f"{self.path} cannot be written: {found} of {self._frames} frames are in the file")


def video_suffix() -> str:
    """Suffix of the videos OpenCV can write here: ".mp4", or ".avi" where it has no MPEG-4 encoder."""
    return _codec()[0]


@cache
def _codec() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        for suffix, fourcc in _CODECS:
            writer = cv2.VideoWriter(f"{folder}/probe{suffix}", cv2.VideoWriter.fourcc(*fourcc), 10.0, (64, 64))
            usable = writer.isOpened()
            writer.release()
            if usable:
                return suffix, fourcc
    raise ValueError(f"OpenCV {cv2.__version__} can write neither MPEG-4 nor Motion JPEG videos; pass images instead")
