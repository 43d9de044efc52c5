"""Videos frame by frame: read by OpenCV, written as H.264 by PyAV, or as OpenCV can."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from ..files import new_file_by_name

_PATIENCE = 100  # frames in a row that cannot be decoded, after which nothing more is expected
_USUAL_RATE = Fraction(25)  # where the file does not say
_BT601 = 6  # as H.264 numbers it; what libswscale and OpenCV turn RGB into where nothing is said
_BT709 = 1  # of primaries and gamma: those of sRGB, nearly
_LIMITED = 1  # range: luma from 16 to 235
_OPENCV = ((".mp4", "mp4v", "MPEG-4 Part 2"), (".avi", "MJPG", "Motion JPEG"))  # suffix, code, name of a codec

logger = logging.getLogger(__name__)

Write = Callable[[np.ndarray], object]
Encoder = Callable[[Path, Fraction, tuple[int, int]], AbstractContextManager[Write]]


class VideoReader:
    """Frames of a video file; those that cannot be decoded are left out.

    Attributes:
        rate: frames per second, exact: 30000/1001 where the file says 29.97.
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
        known = Fraction(fps).limit_denominator(1001) if 0 < fps < 1000 else Fraction(0)  # 0 for NaN, too
        self.rate = known or _USUAL_RATE
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
        spare = 0.0 if self.path.suffix.lower() == ".avi" else max(float(self.rate), self._promised / 50)
        if self.damaged == 0 and self._promised - self.frames <= spare:
            return None
        expected = max(self._promised, self.frames + self.damaged)
        return (
            f"{self.path} is damaged or cut off: {self.frames} of {expected} frames could be read, the others are left "
            "out"
        )


@contextmanager
def new_video(path: Path, *, rate: Fraction, size: tuple[int, int]) -> Iterator[Write]:
    """Gives a function that appends a frame to a video, which appears under its name when the block ends well.

    Frames are (H, W, 3) uint8, BGR; one of another size than the video's is resized to it. H.264 has even sides only:
    an odd one gets a row or column more, a copy of the last.

    Args:
        path: of the video; its suffix is that of `video_suffix()`.
        rate: frames per second.
        size: (width, height) of the frames in pixels.

    Raises:
        ValueError: there can be no video of this size and rate.
        OSError: the file cannot be written.
    """
    frames = 0

    def write(frame_bgr: np.ndarray) -> None:
        nonlocal frames
        append(frame_bgr if frame_bgr.shape[1::-1] == size else cv2.resize(frame_bgr, size))
        frames += 1

    with new_file_by_name(path) as unfinished:
        with ExitStack() as stack:
            try:
                append = stack.enter_context(_encoder()[1](unfinished, rate, size))
            except ValueError as error:
                what = f"{size[0]}x{size[1]}, {float(rate):g} frames per second"
                raise ValueError(f"the video {path} ({what}) cannot be written: {error}") from error
            yield write
        found = max(int(cv2.VideoCapture(str(unfinished)).get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        if found != frames:  # of a full disk, OpenCV says nothing
            raise OSError(f"{path} cannot be written: {found} of {frames} frames are in the file")


def video_suffix() -> str:
    """Suffix of the videos that can be written here: ".mp4", or ".avi" where there is no encoder for that."""
    return _encoder()[0]


@cache
def _encoder() -> tuple[str, Encoder]:
    """Of H.264 where PyAV is there; otherwise says, once, what will not play the videos."""
    missing = _why_no_h264()
    if missing is None:
        return ".mp4", _h264
    with tempfile.TemporaryDirectory() as folder:
        for suffix, code, name in _OPENCV:
            encoder = partial(_opencv, code=code)
            with suppress(ValueError), encoder(Path(folder, f"probe{suffix}"), _USUAL_RATE, (64, 64)):
                logger.warning(
                    "Videos are written as %s, which no browser plays, nor GitHub or Slack, but VLC and ffplay do, as "
                    "%s: `pip install 'detr_d2[video]'` mends that.",
                    name, missing,
                )  # fmt: skip
                return suffix, encoder
    raise ValueError(
        f"{missing}, and OpenCV {cv2.__version__} can write neither MPEG-4 nor Motion JPEG videos: "
        "`pip install 'detr_d2[video]'`, or pass images instead"
    )


def _why_no_h264() -> str | None:
    try:
        import av
    except ImportError as error:
        return f"PyAV is missing ({error})"
    return None if "libx264" in av.codecs_available else f"PyAV {av.__version__} was built without libx264"


@contextmanager
def _h264(path: Path, rate: Fraction, size: tuple[int, int]) -> Iterator[Write]:
    """As all browsers play it: 4:2:0, and the index before the frames, so that it starts while it is loaded."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        # Said, because players guess the matrix by the size of the picture: BT.709 for 720 rows and more.
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        try:
            container.start_encoding()
        except av.FFmpegError as error:
            raise ValueError(f"libx264 does not take it ({error})") from error

        def write(frame_bgr: np.ndarray) -> None:
            bottom, right = (side % 2 for side in frame_bgr.shape[:2])
            even = np.pad(frame_bgr, ((0, bottom), (0, right), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="bgr24")))

        yield write
        container.mux(stream.encode())  # the frames that it has kept back


@contextmanager
def _opencv(path: Path, rate: Fraction, size: tuple[int, int], *, code: str) -> Iterator[Write]:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), float(rate), size)
    try:
        if not writer.isOpened():
            raise ValueError("OpenCV does not take it")
        yield lambda frame_bgr: writer.write(np.ascontiguousarray(frame_bgr))
    finally:
        writer.release()
