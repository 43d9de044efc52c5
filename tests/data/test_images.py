"""Reading images: channel order, orientation, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detr_d2.data import read_image


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
