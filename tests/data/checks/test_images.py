"""All images of a dataset before the first step: there, of the annotated size, not nearly black; and why not."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from detr_d2.data import check_datasets, check_images, check_test_images, register_coco, tell_of_images
from detr_d2.data.checks import images as image_checks

Make = Callable[..., dict[str, Any]]
Write = Callable[..., str]


def write_images(folder: Path, number: int, suffix: str = ".jpg") -> tuple[list[str], np.ndarray]:
    """Grey pictures of 9x6: their paths and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}{suffix}" for index in range(number)]
    for path in paths:
        Image.new("L", (9, 6), 99).save(path)
    return [str(path) for path in paths], np.tile([9, 6], (number, 1))


def turn(path: str | Path) -> None:
    """Adds the orientation of a phone that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def test_every_size_is_compared(tmp_path: Path) -> None:
    paths, sizes = write_images(tmp_path, 60)
    check_images("mine", paths, sizes)
    turn(paths[31])
    with pytest.raises(ValueError, match=r"mine: 1 of 60 .*31\.jpg is 6x9 pixels \(after EXIF.* says 9x6: correct the"):
        check_images("mine", paths, sizes)
    sizes[31] = 6, 9
    check_images("mine", paths, sizes)
    sizes[[3, 44]] = 0  # unknown
    check_images("mine", paths, sizes)
    Path(paths[7]).write_bytes(b"nothing")
    Path(paths[8]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 60 images .*7\.jpg cannot be read .*; .*8\.jpg cannot be read"):
        check_images("mine", paths, sizes)


@pytest.mark.parametrize("split", ["TRAIN", "TEST", "TEST alone"])
def test_of_training_and_evaluation_sets(cfg: Any, write_coco: Write, make_annotation: Make, split: str) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])], num_images=40)
    Image.new("L", (10, 20)).save(Path(spec.partition("=")[2].rpartition(":")[2]) / "21.png")
    cfg.MODEL.DETR.NUM_CLASSES = 3
    cfg.DATASETS[split.split()[0]] = (register_coco(spec),)
    check = check_test_images if split == "TEST alone" else check_datasets
    with pytest.raises(ValueError, match=r"1 of 40 images .*21\.png is 10x20 pixels .* says 20x10"):
        check(cfg)


def test_what_was_seen_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, sizes = write_images(tmp_path, 40)
    check_images("mine", paths[:30], sizes[:30])
    read: list[str] = []

    def read_header(path: str) -> Any:
        read.append(path)
        return original(path)

    original = image_checks.read_header
    monkeypatch.setattr(image_checks, "read_header", read_header)
    check_images("mine", paths[:30], sizes[:30])
    assert read == []
    os.utime(paths[4], ns=(1, 1))
    check_images("mine", paths, sizes)
    assert set(read) == {paths[4], *paths[30:]}
    sizes[5] = 8, 6  # the annotations change, and no file
    with pytest.raises(ValueError, match=r"5\.jpg is 9x6 pixels"):
        check_images("mine", paths, sizes)


def test_of_training_images_only_as_many_as_the_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths, sizes = write_images(tmp_path, 40)
    Image.new("L", (3, 3)).save(paths[39])  # of the sample, which is looked at first
    with pytest.raises(ValueError, match=r"39\.jpg is 3x3"):
        check_images("mine", paths, sizes, seconds=-1)
    Image.new("L", (9, 6)).save(paths[39])
    monkeypatch.setattr(image_checks, "_PER_JOB", 4)
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        check_images("mine", paths, sizes, seconds=-1)
    assert "mine: after -1 s the sizes of 16 of 40 images are compared" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="detr_d2"):
        check_images("mine", paths, sizes, seconds=60)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("high", "low", "warned"), [(4095, 0, True), (30_000, 28_000, True), (65_535, 0, False), (9_000, 0, False)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_that_are_hardly_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, high: int, low: int, warned: bool, channels: int
) -> None:
    cv2 = pytest.importorskip("cv2")
    paths, sizes = write_images(tmp_path, 20, ".png")
    for path in paths:
        values = np.linspace(low, high, 9 * 6 * channels).astype(np.uint16).reshape(6, 9, channels)
        assert cv2.imwrite(path, values)
    for start in range(2):  # and after the second start, which reads nothing
        caplog.clear()
        check_images("mine", paths, sizes)
        assert len(caplog.records) == warned, start
    caplog.clear()
    tell_of_images("the inputs", paths)
    assert [x.getMessage().partition(":")[0] for x in caplog.records] == ["the inputs"] * warned


def test_dark_images_of_8_bits_are_nobodys_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_images("mine", *write_images(tmp_path, 3))
    assert caplog.records == []


def test_frames_are_said_before_the_first_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths, sizes = write_images(tmp_path, 30, ".gif")
    frames = [Image.new("L", (9, 6), level) for level in (0, 200)]
    frames[0].save(paths[18], save_all=True, append_images=frames[1:])
    check_images("mine", paths, sizes)
    (record,) = caplog.records
    assert f"{paths[18]} holds 2 frames" in record.getMessage()


def test_floats_are_refused_by_their_header(tmp_path: Path) -> None:
    paths, sizes = write_images(tmp_path, 40, ".tif")
    Image.fromarray(np.ones((6, 9), np.float32)).save(paths[21])
    with pytest.raises(ValueError, match=r"21\.tif cannot be read \(its values are floating-point"):
        check_images("mine", paths, sizes)


class _Store(PathHandler):
    """A store of files behind URIs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened = folder, set[str]()

    def _get_supported_prefixes(self) -> list[str]:
        return ["store://"]

    def _open(self, path: str, mode: str = "r", *_: Any, **__: Any) -> Any:
        self.opened.add(path)
        return (self.folder / path.removeprefix("store://")).open(mode)


def test_of_uris_a_sample(tmp_path: Path) -> None:
    store = _Store(tmp_path)
    PathManager.register_handler(store, allow_override=True)
    paths, sizes = write_images(tmp_path, 50)
    uris = [f"store://{Path(path).name}" for path in paths]
    check_images("mine", uris, sizes)
    assert len(store.opened) == 16
    sizes[49] = 6, 9
    with pytest.raises(ValueError, match=r"store://49\.jpg is 9x6"):
        check_images("mine", uris, sizes)


def _rename(on_disk: str, written: str) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        (root / on_disk).parent.mkdir(parents=True, exist_ok=True)
        (root / "a.jpg").rename(root / on_disk)
        return written

    return change


def _link(root: Path) -> str:
    (root / "a.jpg").unlink()
    (root / "a.jpg").symlink_to("store/7f3a")
    return "a.jpg"


def _folder(root: Path) -> str:
    (root / "a.jpg").unlink()
    (root / "a.jpg").mkdir()
    return "a.jpg"


CAFE = unicodedata.normalize("NFC", "café.jpg")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_rename("b/c.jpg", "b\\c.jpg"), r"b/c\.jpg exists, but .* b\\c\.jpg, with backslashes instead of slashes:"),
        (_rename("my a.jpg", "my%20a.jpg"), r"my a\.jpg exists, but .* my%20a\.jpg, with %-escapes"),
        (_rename("a.jpg", "images/a.jpg"), r"images/a\.jpg exists, but .* images/a\.jpg, with another folder"),
        (_rename("deep/a.jpg", "a.jpg"), r"deep/a\.jpg exists, but .* a\.jpg, with another folder"),
        (_rename("a.jpg", "A.JPG"), r"a\.jpg exists, but .* A\.JPG, with other capitals"),
        (
            _rename("Train/a.jpg", "train/a.jpg"),
            r"Train/a\.jpg exists, .* train/a\.jpg, with other capitals in the fol",
        ),
        (_rename("a.png", "a.jpg"), r"a\.png exists, but .* a\.jpg, with another extension"),
        (
            _rename(unicodedata.normalize("NFD", CAFE), CAFE),
            r"'caf\\xe9\.jpg', with accents composed otherwise than in",
        ),
        (_rename("a.jpg", "/home/me/data/a.jpg"), r"images/a\.jpg exists, but .* /home/me/data/a\.jpg"),
        (_rename("a.jpg", "C:\\data\\A.jpg"), r"images/a\.jpg exists, .*with backslashes .* and other capitals and"),
        (_rename("a.jpg", "/home/me/x.jpg"), r"no folder /home/me \(an absolute path, perhaps of another machine\)"),
        (_rename("a.jpg", "x.jpg"), r"images holds a\.jpg: check the image folder"),
        (_rename("a.jpg", "a.jpg\n"), r"a\.jpg exists, but .* 'a\.jpg\\n', with blanks around it"),
        (_link, r"a\.jpg is a link to store/7f3a, which does not exist"),
        (_folder, r"a\.jpg is a folder"),
    ],
)
def test_why_files_are_missing(tmp_path: Path, change: Callable[[Path], str], reason: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    Image.new("L", (9, 6)).save(root / "a.jpg")
    path = os.path.join(root, change(root))
    for given in (str(root), ""):  # of COCO files, and of functions, whose dicts name the file alone
        if given == "" and "/home" in path:
            continue
        with pytest.raises(ValueError, match=rf"mine: 1 image files are missing \(.*{reason if given else ''}"):
            check_images("mine", [path], np.array([[9, 6]]), root=given)


def test_every_machine_looks_at_its_own_images(
    cfg: Any, write_coco: Write, make_annotation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])])
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (register_coco(spec),), 3
    (Path(spec.rpartition(":")[2]) / "1.png").unlink()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda value: [([], None), value])
    with pytest.raises(ValueError, match="1 image files are missing"):  # the first process of another machine
        check_datasets(cfg)
    monkeypatch.setattr(comm, "get_local_rank", lambda: 1)
    assert check_datasets(cfg) == []


def test_datasets_of_dicts(cfg: Any, tmp_path: Path) -> None:
    paths, _ = write_images(tmp_path / "images", 40)
    annotation = {"bbox": [0, 0, 4, 4], "bbox_mode": 0, "category_id": 0}
    records = [{"file_name": x, "width": 9, "height": 6, "image_id": x, "annotations": [annotation]} for x in paths]
    DatasetCatalog.register("dicts", lambda: records)
    MetadataCatalog.get("dicts").thing_classes = ["a"]
    cfg.DATASETS.TEST, cfg.MODEL.DETR.NUM_CLASSES = ("dicts",), 1
    check_datasets(cfg)
    turn(paths[23])
    with pytest.raises(ValueError, match=r"dicts: 1 of 40 images .*23\.jpg is 6x9"):
        check_datasets(cfg)
