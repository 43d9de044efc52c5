"""What the page of `compare` embeds for its gallery."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_html import gallery_data, parse

from detr_d2.compare.records.comparison import Comparison
from detr_d2.compare.records.pictures import GalleryImage
from detr_d2.compare.report.gallery import make_gallery, read_picture
from detr_d2.compare.report.page import render, write_report
from detr_d2.data import read_image


def test_gallery_embeds_small_pictures_with_boxes(tmp_path: Path, example: Comparison) -> None:
    Image.fromarray(np.zeros((800, 1600, 3), np.uint8)).save(tmp_path / "large.png")
    entry = replace(example.gallery[0], file_name=str(tmp_path / "large.png"), width=1600, height=800)
    (image,) = make_gallery(replace(example, gallery=[entry]), 12).data["images"]
    kind, _, content = image["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (640, 320)
    assert (image["name"], image["width"], image["height"]) == ("large.png", 1600, 800)
    assert image["objects"]["boxes"][1] == [30.0, 20.0, 70.0, 60.0]
    assert image["detections"][1]["scores"] == [0.99, 0.95, 0.85, 0.8, 0.3]
    assert image["detections"][1]["shipped"] == [True, False, True, True, False]
    assert len(image["detections"]) == 2  # not of the model that failed


def test_gallery_is_bounded(example: Comparison) -> None:
    root = parse(render(example, gallery=1))
    assert [x["name"] for x in gallery_data(root)["images"]] == ["0.png"]
    assert "The record names 1 more" in root.find("section", id="gallery").text()
    assert make_gallery(example, 0).num_images == 0
    with pytest.raises(ValueError, match="gallery is -1, expected the number of images to embed: 0 or more"):
        write_report(example, "never.html", gallery=-1)


def test_a_lost_image_is_named_and_the_next_takes_its_place(example: Comparison, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    entries = [replace(example.gallery[0], file_name=name) for name in ("gone.png", str(broken))]
    root = parse(render(replace(example, gallery=[*entries, example.gallery[1]]), gallery=1))
    assert [x["name"] for x in gallery_data(root)["images"]] == ["1.png"]
    first, second = (x.text() for x in root.find("section", id="gallery").find_all("li"))
    assert first.startswith("gone.png is not shown")
    assert f"{broken} is not shown, as it cannot be read" in second


def test_images_are_found_below_the_folder_of_the_dataset(example: Comparison, images: tuple[str, str]) -> None:
    entry: GalleryImage = replace(example.gallery[0], file_name=Path(images[0]).name)
    dataset = replace(example.dataset, image_root=str(Path(images[0]).parent))
    assert make_gallery(replace(example, gallery=[entry], dataset=dataset), 12).num_images == 1


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "16 bits", "palette", "transparent"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_those_that_models_see(tmp_path: Path, kind: str, orientation: int) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:5, :9] = (250, 40, 90)
    image = {
        "16 bits": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + 255),
        "palette": lambda: Image.fromarray(pixels).quantize(8),
        "transparent": lambda: Image.fromarray(np.dstack([pixels, np.full((20, 30), 99, np.uint8)])),
    }.get(kind, lambda: Image.fromarray(pixels))()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind if len(kind) == 3 else 'png'}"
    image.save(path, exif=exif)
    seen = np.asarray(read_picture(path))
    assert seen.shape == ((30, 20, 3) if orientation in (6, 8) else (20, 30, 3))
    np.testing.assert_array_equal(seen, read_image(path, "RGB"))
