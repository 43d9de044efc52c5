from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import largest_file

from detr_d2.prediction import media
from detr_d2.prediction.media import VideoReader, VideoWriter, find_media, video_suffix


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "in/b.JPG",
        "in/a.png",
        "in/deep/er/c.mp4",
        "in/notes.txt",
        "in/.hidden.png",
        "in/.cache/d.png",
        "x.dat",
    )
    found = find_media([tmp_path / "x.dat", tmp_path / "in"])
    assert [str(item.name) for item in found] == ["x.dat", "a.png", "b.JPG", "deep/er/c.mp4"]
    assert [item.is_video for item in found] == [False, False, False, True]


def test_what_cannot_be_found(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "none/a.txt")
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        find_media([tmp_path / "in", tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="none holds no image and no video"):
        find_media([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"a\.png is given twice"):
        find_media([tmp_path / "in", tmp_path / "in" / ".." / "in" / "a.png"])


def test_a_video_comes_back(tmp_path: Path) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    levels = [20, 120, 220]
    with VideoWriter(path, fps=12.5, size=(64, 48)) as writer:
        for level in levels:
            writer.write(np.full((48, 64, 3), level, dtype=np.uint8))
        assert not path.exists()  # not before it is complete
    reader = VideoReader(path)
    assert reader.size == (64, 48)
    assert reader.fps == pytest.approx(12.5)
    assert len(reader) == 3
    assert [frame.mean() for frame in reader] == pytest.approx(levels, abs=4)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_video_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / f"clip{video_suffix()}", fps=10, size=(64, 48)) as writer:
            writer.write(np.zeros((48, 64, 3), dtype=np.uint8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, 5_000])
def test_a_full_disk_is_seen_though_opencv_says_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    path.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)

    def write() -> None:
        with VideoWriter(path, fps=10, size=(64, 48)) as writer:
            for frame in noise:
                writer.write(frame)

    with largest_file(size), pytest.raises(OSError, match=r"clip\.\w+ cannot be written: File too large.*untouched"):
        write()
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"
    write()
    assert len(VideoReader(path)) == len(noise)


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


@pytest.mark.parametrize(("fps", "used"), [(12.5, 12.5), (0, 25.0), (NAN, 25.0), (-1, 25.0), (90_000, 25.0)])
def test_rates_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, used: float) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: _Capture(1, "1", fps))
    assert VideoReader(tmp_path / "a.mp4").fps == used


def test_frames_of_another_size_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / f"clip{video_suffix()}"
    with VideoWriter(path, fps=10, size=(64, 48)) as writer:
        for size in ((48, 64), (32, 32), (48, 64)):
            writer.write(np.full((*size, 3), 99, dtype=np.uint8))
    assert len(list(VideoReader(path))) == 3


def test_links_are_files_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.png", "in/sub/y.png", "in/scan.jpg/z.png")
    (tmp_path / "in" / "a.png").symlink_to(tmp_path / "store" / "x.png")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "store" / "x.png")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "store" / "gone.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "sub" / "around").symlink_to(tmp_path / "in")
    names = [str(item.name) for item in find_media([tmp_path / "in"])]
    assert names == ["a.png", "b.png", "gone.png", "linked/x.png", "scan.jpg/z.png", "sub/y.png"]
    with pytest.raises(FileNotFoundError, match=r"gone\.png is a link to .*gone\.png, which does not exist"):
        find_media([tmp_path / "in" / "gone.png"])


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "in/a.gif", "in/a.txt", "in/sub/b.json", "in/.DS_Store")
    assert [str(item.name) for item in find_media([tmp_path / "in"])] == ["a.gif"]
    (record,) = caplog.records
    assert "in: 2 files are left out" in record.getMessage()
    assert "a.txt, sub/b.json" in record.getMessage()


def test_every_suffix_is_of_one_kind() -> None:
    assert not media.IMAGE_SUFFIXES & media.VIDEO_SUFFIXES
