from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file

from detr_d2.evaluation.media import VideoReader, VideoWriter, find_media, video_suffix


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
