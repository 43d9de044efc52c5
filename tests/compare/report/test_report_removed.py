"""The strip of what NMS removed, and the matrix of what is taken for what, on the page of `compare`."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_html import Node, cells, parse

from detr_d2.compare.records.comparison import Comparison
from detr_d2.compare.records.figures import ConfusionMatrix
from detr_d2.compare.records.pictures import Removal
from detr_d2.compare.records.sets import ExtraBoxes, OperatingPoint, ScoreCurve, ScorePoint
from detr_d2.compare.report import page
from detr_d2.compare.report.confusion import confusions
from detr_d2.compare.report.gallery import make_gallery, without_images_elsewhere
from detr_d2.compare.report.removed import removed_strips


@pytest.fixture
def removal(tmp_path: Path) -> Removal:
    """Boxes on a file of 400 x 300 pixels that is red where the object is."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[100:150, 200:300] = (250, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a <b>.png")
    boxes: dict[str, Any] = {
        "object_box": [200, 100, 300, 150],
        "removed_box": [205, 100, 300, 148],
        "kept_box": [180, 90, 290, 150],
    }
    return Removal(
        str(tmp_path / "a <b>.png"), 5, 400, 300, 2, removed_score=0.875, kept_score=0.925, iou=0.75, **boxes
    )


def with_removals(example: Comparison, *removals: Removal, **changes: Any) -> Comparison:
    """The second model, which has NMS, has these."""
    return replace(example, models=[example.models[0], replace(example.models[1], removals=list(removals), **changes)])


def test_a_crop_holds_the_three_boxes(example: Comparison, removal: Removal) -> None:
    (strip,) = removed_strips(with_removals(example, removal))
    (crop,) = strip.crops
    # A square around 180 to 300 and 90 to 150, with a fifth of 120 pixels on each side: from (156, 36).
    assert (crop.width, crop.height) == (168, 168)
    places = {x.kind: (x.x, x.y, x.width, x.height) for x in crop.rectangles}
    assert places == {"object": (44, 64, 100, 50), "kept": (24, 54, 110, 60), "removed": (49, 64, 95, 48)}
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(crop.picture.partition(",")[2]))), dtype=int)
    assert picture.shape == (168, 168, 3)
    assert picture[68:110, 48:140, 0].min() > 200
    assert picture[68:110, :38, 0].max() < 60
    assert crop.caption == "triangle <b>: 0.88 removed for 0.93, IoU 0.75"


def test_a_crop_ends_where_the_image_does_and_is_small(example: Comparison, removal: Removal) -> None:
    whole = replace(removal, object_box=[0.0, 0.0, 400.0, 300.0])
    corner = replace(removal, object_box=[0.0, 0.0, 20.0, 20.0], removed_box=[0, 0, 2, 2], kept_box=[0, 0, 2, 2])
    outside = replace(
        removal,
        object_box=[380.0, 280.0, 500.0, 400.0],
        removed_box=[380, 280, 400, 300],
        kept_box=[380, 280, 400, 300],
    )
    (strip,) = removed_strips(with_removals(example, whole, corner, outside))
    assert [(x.width, x.height) for x in strip.crops] == [(400, 300), (28, 28), (28, 28)]
    assert Image.open(io.BytesIO(base64.b64decode(strip.crops[0].picture.partition(",")[2]))).size == (240, 180)
    assert [(x.rectangles[0].x, x.rectangles[0].y) for x in strip.crops[1:]] == [(0, 0), (8, 8)]


def test_a_lost_image_is_named(example: Comparison, removal: Removal) -> None:
    (strip,) = removed_strips(with_removals(example, replace(removal, file_name="gone.png"), removal))
    assert len(strip.crops) == 1
    assert strip.skipped[0].startswith("gone.png is not shown, as it cannot be read")


def test_pictures_from_elsewhere_are_taken_out(example: Comparison, removal: Removal, tmp_path: Path) -> None:
    dataset = replace(example.dataset, image_root=str(tmp_path / "data"))
    shown, outside = without_images_elsewhere(replace(with_removals(example, removal), dataset=dataset, gallery=[]))
    assert (shown.models[1].removals, outside) == ([], [removal.file_name])
    dataset = replace(example.dataset, image_root=str(tmp_path))
    shown, outside = without_images_elsewhere(replace(with_removals(example, removal), dataset=dataset, gallery=[]))
    assert (shown.models[1].removals, outside) == ([removal], [])


def test_models_with_nms_say_what_it_takes(example: Comparison, removal: Removal) -> None:
    lost = ExtraBoxes("shipped", 0.5, 100, 90, 0.0, 0.0, 7)
    (strip,) = removed_strips(with_removals(example, removal, extra_boxes=[lost]))
    assert strip.label == "Faster R-CNN"
    assert strip.says == (
        "Faster R-CNN: 7 objects lose their right detections to NMS; 1 of the highest scores is shown."
    )
    (strip,) = removed_strips(with_removals(example, extra_boxes=[]))
    assert "no right detection away from Faster R-CNN" in strip.says
    assert removed_strips(replace(example, models=[example.models[0]])) == []  # DETR has no NMS


@pytest.fixture
def section(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A section of the page without its figures, which take seconds."""
    monkeypatch.setattr(page, "page_figures", lambda _: _Nothing())

    def find(comparison: Comparison, name: str) -> Node:
        return parse(page.render(comparison, gallery=0)).find("section", id=name)

    return find


class _Nothing(dict[str, Any]):
    """Of every figure."""

    def __missing__(self, key: str) -> Any:
        return {} if key == "swatches" else []


def test_strip_on_the_page(example: Comparison, removal: Removal, section: Any) -> None:
    root = section(with_removals(example, removal), "nms")
    (figure,) = root.find_all("figure")
    assert figure.find("img").attributes["alt"].startswith("Part of a <b>.png: an object (triangle <b>)")
    kinds = [group.attributes["class"] for group in figure.find_all("g")]
    assert kinds == ["crop-object", "crop-kept", "crop-removed"]
    assert figure.find("svg").attributes["viewbox"] == "0 0 168 168"
    line = list(figure.find_all("rect", class_="line"))[2]
    assert [line.attributes[key] for key in ("x", "y", "width", "height")] == ["49", "64", "95", "48"]
    assert figure.find("figcaption").text() == "triangle <b>: 0.88 removed for 0.93, IoU 0.75"


def test_boxes_are_told_apart_without_colours() -> None:
    style = (Path(page.__file__).with_name("templates") / "report.css").read_text()
    rules = [re.search(rf"\.crop-{kind} \.line {{([^}}]*)}}", style) for kind in ("object", "removed", "kept")]
    dashes = [rule and re.findall("stroke-dasharray: ([^;]*)", rule[1]) for rule in rules]
    assert [len(x or "") for x in dashes] == [1, 0, 1]  # one of them is solid
    assert dashes[0] != dashes[2]


def confused(example: Comparison, matrix: ConfusionMatrix | None) -> Comparison:
    first, *others = example.models
    return replace(example, models=[replace(first, confusion=matrix), *(replace(x, confusion=None) for x in others)])


def test_matrix_on_the_page(example: Comparison, section: Any) -> None:
    matrix = ConfusionMatrix(["circle", "triangle <b>"], [[1200, 300, 0], [0, 4, 6], [3, 0, 0]])
    root = section(confused(example, matrix), "accuracy")
    found = cells(root, "confusion-0")
    texts = {key: cell.text() for key, cell in found.items()}
    assert texts["circle", "circle"] == "1,200"
    assert texts["circle", "triangle <b>"] == "300"
    assert texts["triangle <b>", "not found"] == "6"
    assert (texts["no object", "circle"], texts["no object", "not found"]) == ("3", "")
    assert found["circle", "triangle <b>"].attributes["style"] == "--heat: 20"
    right = [key for key, cell in found.items() if cell.attributes.get("class") == "right"]
    assert right == [("circle", "circle"), ("triangle <b>", "triangle <b>")]


def test_of_many_classes_the_most_confused_pairs(example: Comparison, section: Any) -> None:
    counts = np.diag([*[10] * 20, 0])
    counts[3, 4], counts[5, 1], counts[20, 7], counts[2, 20] = 5, 10, 90, 80  # the last two are no confusions
    matrix = ConfusionMatrix([f"k{i}" for i in range(20)], counts.tolist())
    found = cells(section(confused(example, matrix), "accuracy"), "confusion-0")
    assert [(key[0], cell.text()) for key, cell in found.items() if key[1] == "taken for"] == [
        ("k5", "k1"),
        ("k3", "k4"),
    ]
    assert found["k3", "of the objects of its class"].text() == "33.3 %"
    nothing = ConfusionMatrix(matrix.names, np.diag([*[10] * 20, 0]).tolist())
    (one,) = confusions(confused(example, nothing))
    assert one.says == "DETR takes no class for another."
    assert confusions(confused(example, None)) == []


def test_gallery_knows_halves_operating_scores_and_worst_images(example: Comparison) -> None:
    nan = float("nan")
    at = ScorePoint(nan, nan, nan, nan, nan, nan, nan, [], [])
    operating = OperatingPoint(False, [0.123456, nan], [0, 1], at, [], ScoreCurve([], [], [], []))
    models = [replace(x, operating=y) for x, y in zip(example.models, (None, operating), strict=False)]
    entry = replace(example.gallery[0], half=1, worst_of=["Faster R-CNN", "one that failed"])
    data = make_gallery(replace(example, models=models, gallery=[entry]), 1).data
    assert data["scores"] == [[], [0.1235, None]]
    assert (data["images"][0]["half"], data["images"][0]["worstOf"]) == (1, [1])
