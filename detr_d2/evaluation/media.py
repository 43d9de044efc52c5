"""Images, folders and videos: finding them, reading and writing videos."""

from __future__ import annotations

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

from ..files import new_file_by_name

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))


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

    A file that was named is taken whatever its suffix. Hidden files of folders are left out.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without any image or video, or the same file twice.
    """
    found: list[Media] = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_media(file.relative_to(path)))
            if not inside:
                suffixes = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
                raise ValueError(f"{path} holds no image and no video; looked for {suffixes}")
            found += [Media(path=file, name=file.relative_to(path)) for file in inside]
        elif path.exists():
            found.append(Media(path=path, name=Path(path.name)))
        else:
            raise FileNotFoundError(f"{path} does not exist; give image files, video files or folders of them")
    seen: set[Path] = set()
    for media in found:
        if media.path.resolve() in seen:
            raise ValueError(f"{media.path} is given twice; name it once")
        seen.add(media.path.resolve())
    return found


def _is_media(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and name.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


class VideoReader:
    """Frames of a video file.

    Raises:
        ValueError: OpenCV cannot open the file, or finds no frame in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ValueError(f"{path} cannot be read as a video by OpenCV {cv2.__version__}")
        self.fps: float = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.size = (  # (width, height), OpenCV's order
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    def __len__(self) -> int:
        """What the container says; some say nothing (0) or too much."""
        return max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = 0
        while True:
            ok, frame = self._capture.read()
            if not ok:
                break
            frames += 1
            yield frame
        self._capture.release()
        if frames == 0:
            raise ValueError(f"{self.path} cannot be read as a video: it holds no frame")


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
        """Append one (H, W, 3) uint8 frame."""
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
