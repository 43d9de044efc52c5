"""Reading images: channel order, orientation, and what cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from detr_d2.data import DetrDatasetMapper, images, read_image
from detr_d2.data.images import read_header, read_labels, read_pillow
from detr_d2.data.panoptic.targets import panoptic_annotations
from detr_d2.data.stock_mapper import StockMapper
from detr_d2.panoptic_classes import PanopticClasses

RANDOM = np.random.default_rng(7)
ORIENTATION = 0x0112


def test_images_are_upright_in_the_order_asked_for(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "red.png", exif=exif)
    pixels = read_image(tmp_path / "red.png", "BGR")
    assert pixels.shape == (30, 20, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert read_image(str(tmp_path / "red.png"), "RGB")[0, 0].tolist() == [255, 0, 0]
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", "BGR").shape == (2, 3, 3)


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_images_may_be_written_to(tmp_path: Path, image_format: str) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", image_format)
    image[0, 0, 0] = 9
    assert read_image(tmp_path / "a.png", image_format)[0, 0, 0] == 0


@pytest.mark.parametrize("size", [0, 20, 200])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_broken_images_are_named(tmp_path: Path, size: int, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"image file .*broken{suffix} cannot be read"):
        read_image(path, "BGR")


def test_images_that_pillow_refuses_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)  # more than twice as many pixels are an error
    with pytest.raises(ValueError, match=r"huge\.png cannot be read .*decompression bomb"):
        read_image(tmp_path / "huge.png", "BGR")


def test_missing_images_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png", "BGR")


def oriented(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    """A file whose orientation says how to turn the pixels."""
    if path.suffix == ".tif":
        Image.fromarray(pixels).save(path, tiffinfo={ORIENTATION: orientation})
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp", "deep.tif", "deep.png"])
def test_images_are_turned_once(tmp_path: Path, name: str) -> None:
    grey = RANDOM.integers(0, 256, (6, 9), dtype=np.uint8)
    pixels = grey.astype(np.uint16) * 256 + 77 if name.startswith("deep") else np.stack([grey] * 3, axis=2)
    for orientation in range(1, 9):
        path = oriented(tmp_path / name, pixels, orientation)
        reference = Image.open(oriented(tmp_path / "reference.png", grey, orientation))
        expected = np.asarray(ImageOps.exif_transpose(reference).convert("RGB"))
        read = read_image(path, "RGB")
        header = read_header(path)
        assert read.shape == expected.shape == (header.height, header.width, 3)
        if path.suffix not in (".jpg", ".webp"):
            assert np.array_equal(read, expected), orientation
        assert np.array_equal(np.asarray(read_pillow(path)), read)
        record = {"file_name": str(path), "height": header.height, "width": header.width}
        mapper = StockMapper(is_train=False, augmentations=[], image_format="RGB")  # of the other detectors
        assert np.array_equal(mapper(record)["image"].permute(1, 2, 0).numpy(), read)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_read_as_opencv_reads_them(tmp_path: Path, channels: int, suffix: str) -> None:
    values = RANDOM.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), values.squeeze())
    read = read_image(path, "BGR")
    assert np.array_equal(read, np.broadcast_to(values[:, :, :3] >> 8, (5, 7, 3)))
    by_opencv = cv2.imread(str(path))
    assert by_opencv is not None
    difference = np.abs(by_opencv.astype(int) - read)
    assert difference.max() <= (suffix == ".tif" and channels > 1)  # libtiff rounds colours to the nearest
    assert np.array_equal(np.asarray(read_pillow(path)), read[:, :, ::-1])
    assert read_header(path).deep


def test_16_bits_of_any_byte_order_and_in_32(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)
    for kind in ("<u2", ">u2", "<i4"):
        Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
        assert np.array_equal(read_image(tmp_path / "a.tif", "L")[:, :, 0], values >> 8), kind


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.ones((2, 2), np.float32), r"a\.tif cannot be read \(its values are floating-point numbers"),
        (np.full((2, 2), 70_000, np.int32), r"a\.tif cannot be read \(its values go from 70000 to 70000"),
        (np.full((2, 2), -5, np.int32), r"a\.tif cannot be read \(its values go from -5 to -5"),
    ],
)
def test_values_without_a_known_range_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    for read in (read_pillow, lambda path: read_image(path, "BGR")):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.tif")


def write_png(path: Path, bits: int, row: bytes, width: int) -> None:
    """One row of grey pixels of few bits, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))


def test_labels_are_the_numbers_in_the_file(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [9] * 756)
    pictures = {
        "palette": palette,
        "grey": Image.fromarray(labels),
        "three": Image.fromarray(np.stack([labels] * 3, 2)),
    }
    pictures["deep"] = Image.fromarray(labels.astype(np.uint16))
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_labels(tmp_path / f"{name}.png"), labels), name
    Image.fromarray(labels > 0).save(tmp_path / "one.png")
    assert np.array_equal(read_labels(tmp_path / "one.png"), labels > 0)
    write_png(tmp_path / "two.png", 2, bytes([0b00011011]), 4)
    write_png(tmp_path / "four.png", 4, bytes([0x3F]), 2)
    assert read_labels(tmp_path / "two.png").tolist() == [[0, 1, 2, 3]]
    assert read_labels(tmp_path / "four.png").tolist() == [[3, 15]]
    assert np.array_equal(read_labels(oriented(tmp_path / "turned.png", labels, 6)), np.rot90(labels, -1))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (RANDOM.integers(0, 256, (2, 2, 3), dtype=np.uint8), "it is a colour picture of mode RGB"),
        (np.full((2, 2), 256, np.uint16), "not whole numbers from 0 to 255"),
    ],
)
def test_pictures_that_are_no_labels_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png cannot be read \(.*{message}"):
        read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["sem_seg of the mapper", "sem_seg of detectron2's", "panoptic"])
def test_label_images_with_a_palette_are_targets_by_index(tmp_path: Path, kind: str) -> None:
    labels = Image.new("P", (4, 3), 2)
    labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [9] * 759)
    labels.save(tmp_path / "labels.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "annotations": [],
    }
    if kind == "panoptic":
        classes = PanopticClasses(num_things=1, num_stuff=2, layout="separated")
        (found,) = panoptic_annotations(record, (3, 4), classes)
        assert found["category_id"] == 2
        return
    mapper: Any = DetrDatasetMapper if kind == "sem_seg of the mapper" else StockMapper
    assert mapper(is_train=True, augmentations=[], image_format="RGB")(record)["sem_seg"].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a pointer of Git LFS"),
        (b"<html>", "it is a web page"),
        (b"text", r"it is of no kind that Pillow [\d.]+ knows"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_header, read_pillow, read_labels):
        with pytest.raises(ValueError, match=rf"a\.png cannot be read \({reason}.*\): replace it or leave it out"):
            read(tmp_path / "a.png")


def test_links_to_nowhere_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png is a link to gone\.png, which does not exist"):
        read_image(tmp_path / "a.png", "RGB")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=r"b\.png cannot be read \(it is a folder\)"):
        read_header(tmp_path / "b.png")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_the_first_of_several_frames_is_read_and_said_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_said", [])
    frames = [Image.new("L", (8, 6), level) for level in (10, 120, 230)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for _ in range(2):
        assert read_image(tmp_path / name, "L").mean() == pytest.approx(10, abs=3)
    assert read_header(tmp_path / name).frames == 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{name} holds 3 frames or pages" in line
    assert "the first" in line


def test_headers_are_read_without_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("png", "jpg", "tif"):
        oriented(tmp_path / f"a.{suffix}", np.zeros((5, 8, 3), np.uint8), 1)
    Image.new("RGB", (8, 5)).save(tmp_path / "a.png", pnginfo=_comment())  # a text is no orientation
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for suffix in ("png", "jpg", "tif"):
        header = read_header(tmp_path / f"a.{suffix}")
        assert (header.width, header.height, header.frames, header.deep) == (8, 5, 1, False)


def _comment() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "of a camera")
    return info


@pytest.mark.parametrize("mapper", [StockMapper, DetrDatasetMapper])
def test_mappers_name_the_image_whatever_goes_wrong(tmp_path: Path, mapper: Any) -> None:
    make = mapper(is_train=False, augmentations=[], image_format="RGB")
    path = tmp_path / "a.jpg"
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.jpg.*got \(64, 64\), expect \(5, 64\)"):
        make({"file_name": str(path), "width": 5, "height": 64})
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"image file .*a\.jpg cannot be read"):
        make({"file_name": str(path)})
    with pytest.raises(FileNotFoundError, match=r"b\.jpg"):
        make({"file_name": str(tmp_path / "b.jpg")})
