from __future__ import annotations

from pathlib import Path

import pytest

from detr_d2.prediction import media
from detr_d2.prediction.media import find_media


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
