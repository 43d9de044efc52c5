"""Videos that come back as they were written, that browsers play, and that are damaged."""

from __future__ import annotations

import base64
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import largest_file
from headless_chromium import headless_chromium

from detr_d2.prediction import videos
from detr_d2.prediction.videos import VideoReader, new_video, video_suffix

NTSC = Fraction(30000, 1001)


def without_pyav(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "av", None)
    videos._encoder.cache_clear()


@pytest.fixture(params=["PyAV", "OpenCV"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to write videos."""
    if request.param == "OpenCV":
        without_pyav(monkeypatch)
    else:
        pytest.importorskip("av")
    yield request.param
    videos._encoder.cache_clear()


def halves(width: int, height: int) -> np.ndarray:
    """Orange on the left, green on the right; BGR."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = (40, 120, 200), (30, 220, 60)
    return frame


@pytest.mark.parametrize("rate", [Fraction(25, 2), NTSC, Fraction(10)])
def test_a_video_comes_back(encoder: str, rate: Fraction, tmp_path: Path) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    levels = [20, 120, 220]
    with new_video(path, rate=rate, size=(64, 48)) as write:
        for level in levels:
            write(np.full((48, 64, 3), level, dtype=np.uint8)[:, :, ::-1])
        assert not path.exists()  # not before it is complete
    reader = VideoReader(path)
    assert reader.size == (64, 48)
    assert reader.rate == rate if encoder == "PyAV" else reader.rate == pytest.approx(float(rate), rel=1e-5)
    assert len(reader) == 3
    assert [frame.mean() for frame in reader] == pytest.approx(levels, abs=4)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [(65, 47), (64, 47), (65, 48), (1, 1)])
def test_odd_sides_get_a_row_or_column(size: tuple[int, int], tmp_path: Path) -> None:
    """The picture is not scaled: its pixels stay where they are, and the last ones are repeated."""
    pytest.importorskip("av")
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    frame[:, size[0] // 2 :] = 200
    with new_video(tmp_path / "a.mp4", rate=NTSC, size=size) as write:
        write(frame)
    reader = VideoReader(tmp_path / "a.mp4")
    assert reader.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    (found,) = reader
    expected = np.pad(frame, ((0, size[1] % 2), (0, size[0] % 2), (0, 0)), mode="edge")
    assert np.abs(found.astype(int) - expected).mean() < 4
    assert np.abs(found[:, -1].astype(int) - 200).max() < 8


def test_h264_starts_while_it_is_loaded(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with new_video(tmp_path / "a.mp4", rate=NTSC, size=(64, 48)) as write:
        for _ in range(5):
            write(halves(64, 48))
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 5)
        assert stream.average_rate == NTSC


PLAY = """
const done = arguments[1], video = document.createElement("video");
video.onerror = () => done({error: video.error.message});
video.oncanplay = () => { video.oncanplay = null; video.currentTime = 0.1; };
video.onseeked = () => {
    const canvas = document.createElement("canvas"), place = canvas.getContext("2d");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    place.drawImage(video, 0, 0);
    const pixel = x => [...place.getImageData(x, 20, 1, 1).data].slice(0, 3);
    done({size: [canvas.width, canvas.height], duration: video.duration, pixels: [pixel(9), pixel(canvas.width - 9)]});
};
video.src = arguments[0];
"""


def test_browsers_play_h264(tmp_path: Path) -> None:
    """Small ones and large ones in the same colours, of which browsers guess otherwise."""
    pytest.importorskip("av")
    with headless_chromium() as driver:
        driver.get("about:blank")
        for width, height in ((96, 63), (960, 720)):
            path = tmp_path / f"{height}.mp4"
            with new_video(path, rate=NTSC, size=(width, height)) as write:
                for _ in range(15):
                    write(halves(width, height))
            url = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
            found = driver.execute_async_script(PLAY, url)
            assert "error" not in found, found
            assert found["size"] == [width, height + height % 2]
            assert found["duration"] == pytest.approx(15 * 1001 / 30000, abs=0.01)
            assert np.abs(np.array(found["pixels"]) - [[200, 120, 40], [60, 220, 30]]).max() <= 8


def test_without_pyav_a_line_says_what_plays_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_pyav(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert video_suffix() in (".mp4", ".avi")
        with new_video(tmp_path / f"a{video_suffix()}", rate=NTSC, size=(64, 48)) as write:
            write(halves(64, 48))
    videos._encoder.cache_clear()
    (record,) = caplog.records  # once
    assert "no browser plays" in record.getMessage()
    assert "PyAV is missing" in record.getMessage()
    assert "pip install 'detr_d2[video]'" in record.getMessage()


def test_without_any_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pyav(monkeypatch)
    monkeypatch.setattr(videos, "_OPENCV", ((".mp4", "????", "nothing"),))
    with pytest.raises(ValueError, match=r"PyAV is missing .*detr_d2\[video\]"):
        video_suffix()


@pytest.mark.usefixtures("encoder")
def test_a_video_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_video(tmp_path / f"clip{video_suffix()}", rate=NTSC, size=(64, 48)) as write:
            write(halves(64, 48))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("encoder")
def test_a_size_that_no_video_has(tmp_path: Path) -> None:
    def write() -> None:
        with new_video(tmp_path / f"clip{video_suffix()}", rate=NTSC, size=(0, 48)):
            pass

    with pytest.raises(ValueError, match=r"clip\.\w+ \(0x48, 29\.97 frames per second\) cannot be written"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("size", [0, 100, 5_000])
def test_a_full_disk_is_seen_though_opencv_says_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    path.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)

    def write_all() -> None:
        with new_video(path, rate=NTSC, size=(64, 48)) as write:
            for frame in noise:
                write(frame)

    with largest_file(size), pytest.raises(OSError, match=r"clip\.\w+ cannot be written: File too large.*untouched"):
        write_all()
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"
    write_all()
    assert len(VideoReader(path)) == len(noise)


@pytest.mark.usefixtures("encoder")
def test_frames_of_another_size_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    with new_video(path, rate=Fraction(10), size=(64, 48)) as write:
        for size in ((48, 64), (32, 32), (48, 64)):
            write(np.full((*size, 3), 99, dtype=np.uint8))
    assert len(list(VideoReader(path))) == 3


def test_broken_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read as a video"):
        list(VideoReader(tmp_path / "clip.mp4"))
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read as a video .*: it is empty"):
        list(VideoReader(tmp_path / "clip.mp4"))


def write_avi(path: Path, frames: int = 40) -> list[int]:
    """A video of which every frame stands for itself; the places of its frames in the file."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for level in range(frames):
        writer.write(np.full((64, 96, 3), 5 * level, np.uint8))
    writer.release()
    return [match.start() + 8 for match in re.finditer(b"00dc", path.read_bytes())][1:]  # the first is of the header


@pytest.mark.parametrize("damaged", [[0], [9], [9, 20, 21], [39], []])
def test_damaged_frames_are_left_out_and_counted(tmp_path: Path, damaged: Sequence[int]) -> None:
    path = tmp_path / "a.avi"
    places = write_avi(path)
    content = bytearray(path.read_bytes())
    for frame in damaged:
        content[places[frame] : places[frame] + 400] = bytes(400)
    path.write_bytes(content)
    reader = VideoReader(path)
    levels = [frame.mean() / 5 for frame in reader]
    assert 40 - 2 * len(damaged) <= len(levels) <= 40 - len(damaged)  # OpenCV loses the one after it as well
    assert len(levels) == reader.frames
    assert not {round(level) for level in levels} & set(damaged)
    if damaged:
        assert f"a.avi is damaged or cut off: {len(levels)} of 40 frames could be read" in str(reader.loss())
    else:
        assert reader.loss() is None


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_video_that_was_cut_off_is_said(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.avi"
    write_avi(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    reader = VideoReader(path)
    frames = len(list(reader))
    assert 0 < frames < 40
    assert f"{frames} of 40 frames could be read" in str(reader.loss())


class _Capture:
    """Stands in for OpenCV's: says that there are `count` frames, and delivers those that are 1."""

    def __init__(self, count: float, frames: str, fps: float) -> None:
        self.count, self.fps, self.frames = count, fps, list(frames)

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FRAME_COUNT: self.count, cv2.CAP_PROP_FPS: self.fps}.get(key, 8.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        good = bool(self.frames) and self.frames.pop(0) == "1"
        return good, np.zeros((8, 8, 3), np.uint8) if good else None

    def release(self) -> None:
        pass


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "count", "frames", "loss"),
    [
        ("a.mp4", 0, "111", None),
        ("a.mp4", -1, "111", None),
        ("a.mp4", NAN, "111", None),
        ("a.mp4", -9e18, "111", None),
        ("a.mp4", 9e18, "111", None),
        ("a.mp4", 2, "111", None),
        ("a.mkv", 3, "11", None),  # a length of sound that is longer than the pictures
        ("a.avi", 3, "11", "2 of 3"),
        ("a.mkv", 50, "1" * 20, "20 of 50"),
        ("a.mp4", 0, "11011", "4 of 5"),
        ("a.mp4", 5, "11011", "4 of 5"),
        ("a.avi", 200, "1" + "0" * 90 + "1" * 109, "110 of 200"),
        ("a.mp4", 2**40, "1", f"1 of {2**40}"),
    ],
)
def test_counts_that_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: float, frames: str, loss: str | None
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: _Capture(count, frames, 10.0))
    reader = VideoReader(tmp_path / name)
    positions = [reader.position for _ in reader]
    assert positions == [index for index, x in enumerate(frames) if x == "1"]
    assert (reader.loss() is None) == (loss is None)
    assert (loss or "") in (reader.loss() or "")
    assert len(reader) >= 0


@pytest.mark.parametrize(
    ("fps", "used"),
    [(12.5, Fraction(25, 2)), (29.97002997, NTSC), *((x, Fraction(25)) for x in (0, NAN, -1, 90_000, 1e-5))],
)
def test_rates_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, used: Fraction) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: _Capture(1, "1", fps))
    assert VideoReader(tmp_path / "a.mp4").rate == used
