"""Files of predictions: what is read from them, and what is said of wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CocoFiles
from pycocotools import mask as coco_mask

from detr_d2.compare.data import load_ground_truth
from detr_d2.compare.found.given import parse_predictions, read_given
from detr_d2.compare.found.nms import OfflineNms
from detr_d2.compare.found.predictions import Predictions, read_predictions
from detr_d2.data import register_coco
from detr_d2.evaluation.arrays import GroundTruth

IDS = [1, 23, 56]  # of the categories of `CocoFiles`; its images are 1 (64 x 48), 2 (48 x 64) and 3 (40 x 40)
Rows = list[dict[str, Any]]


@pytest.fixture
def truth(tiny_coco: CocoFiles) -> GroundTruth:
    return load_ground_truth(register_coco(tiny_coco.spec("predicted")))


def row(image_id: Any = 1, category_id: Any = 1, bbox: Any = (4, 6, 20, 16), score: Any = 0.5, **more: Any) -> Any:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score, **more}


def rows() -> Rows:
    """Two images, not in order, a tie, and a box that reaches beyond its image."""
    return [
        row(2, 56, (10, 12, 18, 30), 0.7),
        row(1, 1, (4.5, 6, 20, 16), 0.3),
        row(1, 23, (30, 20, 36, 30), 0.9),
        row(1, 1, (0, 0, 5, 0), 0.3),
    ]


def read(content: Any, truth: GroundTruth, folder: Path, limit: int = 3) -> Predictions:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_predictions(str(path), truth, IDS, limit=limit)


def test_boxes_are_kept_as_they_are_best_first(truth: GroundTruth, tmp_path: Path) -> None:
    found = read(rows(), truth, tmp_path)
    assert found.masks is None
    first, second, third = found.images
    assert first.boxes_xyxy.tolist() == [[30, 20, 66, 50], [4.5, 6, 24.5, 22], [0, 0, 5, 0]]
    assert first.scores.tolist() == pytest.approx([0.9, 0.3, 0.3])
    assert first.classes.tolist() == [1, 0, 0]
    assert second.boxes_xyxy.tolist() == [[10, 12, 28, 42]]
    assert (second.classes.tolist(), len(third.scores)) == ([2], 0)
    assert [x.image_size for x in found.images] == [(48, 64), (64, 48), (40, 40)]
    # Neither clipped nor dropped: COCO's evaluation does not do so either.
    detections, kept = OfflineNms(found.images, limit=10**6, class_map=np.arange(3))(None)
    assert detections.boxes_xyxy.tolist() == [*first.boxes_xyxy.tolist(), [10, 12, 28, 42]]
    assert kept == pytest.approx(4 / 3)


def test_ids_may_be_texts_of_numbers(truth: GroundTruth, tmp_path: Path) -> None:
    found = read([row("2", "56"), row(1.0, 23)], truth, tmp_path)
    assert [x.classes.tolist() for x in found.images] == [[1], [2], []]


def test_only_the_first_images_are_used(truth: GroundTruth, tmp_path: Path) -> None:
    found = read(rows(), truth, tmp_path, limit=1)
    assert [len(x.scores) for x in found.images] == [3]


def squares(*corners: tuple[int, int], height: int = 48, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8, order="F")
    for x, y in corners:
        mask[y : y + 10, x : x + 8] = 1
    return mask


def test_masks_in_every_form_of_coco(truth: GroundTruth, tmp_path: Path) -> None:
    compressed = coco_mask.encode(squares((4, 6)))
    plain = {"size": [48, 64], "counts": [48 * 4 + 6, *[10, 38] * 7, 10, 48 * 64 - 48 * 11 - 16]}
    empty = {"size": [48, 64], "counts": [48 * 64]}
    forms = [
        {"size": [48, 64], "counts": compressed["counts"].decode()},
        plain,
        [[4, 6, 12, 6, 12, 16, 4, 16]],
        empty,
    ]
    content = [row(1, 1, score=0.9 - i / 10, segmentation=x) for i, x in enumerate(forms)]
    found = read(content, truth, tmp_path)
    assert found.masks is not None
    first = found.masks[0]
    assert first.size == [48, 64]
    assert first.scores == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert first.counts[:3] == [compressed["counts"].decode()] * 3
    assert coco_mask.area({"size": [48, 64], "counts": first.counts[3]}) == 0
    assert (found.masks[1].counts, found.masks[1].size) == ([], [64, 48])


def test_boxes_around_masks(truth: GroundTruth, tmp_path: Path) -> None:
    counts = coco_mask.encode(squares((4, 6), (20, 30)))["counts"].decode()
    entry = row(1, 1, segmentation={"size": [48, 64], "counts": counts})
    del entry["bbox"]
    assert read([entry], truth, tmp_path).images[0].boxes_xyxy.tolist() == [[4, 6, 28, 40]]


def edited(**changes: Any) -> Rows:
    """The last of three entries changed."""
    return [row(), row(2, 56), {**row(), **changes}]


def without(key: str) -> Rows:
    return [row(), {k: v for k, v in row().items() if k != key}]


def corners(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    return x, y, x + width, y + height


XYXY = [row(1, 1, corners(30, 20, 24, 22)), row(2, 56, corners(10, 30, 18, 30)), row(3, 1, corners(2, 3, 10, 10))]

WRONG: dict[str, tuple[Any, str]] = {
    "empty file": ("", r"results\.json is empty: write"),
    "empty list": ([], "holds an empty list, no detection: write"),
    "cut off": (json.dumps(rows())[:-30], "is not complete JSON .* cut off"),
    "lines": ("\n".join(json.dumps(x) for x in rows()), "holds JSON lines, .*: expected one list of such objects"),
    "not JSON": ("image,class,score\n", "is not valid JSON"),
    "an archive": ("PK\3\4", "is a ZIP archive"),
    "annotations": (
        {"images": [], "annotations": rows(), "categories": []},
        r"is no list, but an object with the keys \['images', 'annotations', 'categories'\]: .* is a list of objects",
    ),
    "a number": ("3", "is no list, but 3"),
    "a list of numbers": ([row(), 3], "entry #1 3 is not an object with the keys image_id"),
    "no score": (without("score"), r'detection #1 has no "score" \(1 of 2 .* annotations have none'),
    "no box": (without("bbox"), r'detection #1 has no "bbox" \(1 of 2 have none\), but each needs bbox: add it$'),
    "no image": (without("image_id"), 'detection #1 has no "image_id"'),
    "no class": (without("category_id"), 'detection #1 has no "category_id"'),
    "key points": (
        [{k: v for k, v in row(keypoints=[1, 2, 2]).items() if k != "bbox"}],
        'has no "bbox" .*; key points are not compared, only boxes and masks',
    ),
    "NaN": (edited(score=float("nan")), "detection #2 has score nan; expected a number from 0 to 1; .*: correct"),
    "infinite": (edited(score=float("inf")), "detection #2 has score inf"),
    "percent": (edited(score=97.5), r"detection #2 has score 97\.5; .*percentages are divided by 100"),
    "logits": (edited(score=-1.5), r"detection #2 has score -1\.5; .*logits go through the sigmoid"),
    "no number": (edited(score=None), "detection #2 has score None"),
    "three numbers": (edited(bbox=[1, 2, 3]), r"detection #2 has bbox \[1, 2, 3\]; expected x, y, width and height"),
    "a box of NaN": (edited(bbox=[1, 2, 3, float("nan")]), "detection #2 has bbox"),
    "a negative width": (edited(bbox=[30, 2, -3, 4]), "detection #2 has bbox .* the last two not negative"),
    "corners": (
        XYXY,
        r"2 of 3 boxes reach beyond their image, while 3 lie inside if they are corners x1, y1, x2, y2; x, y, width "
        r"and height are expected: convert them, the first of them detection #0, with bbox \[30\.0, 20\.0, 54\.0, 42\.0"
        r"\] in an image of 64x48",
    ),
    "centres": ([row(1, 1, (42, 31, 24, 22)), row(2, 56, (29, 44, 18, 30))], "inside if they are centre x, centre y"),
    "fractions": ([row(bbox=(0.1, 0.2, 0.3, 0.25))], "look like fractions .*: convert them, .* detection #0"),
    "an unknown image": (
        edited(image_id=4),
        r'"image_id" has ids 1\.\.4 where the data has 1\.\.3, so that 1 of 3 detections are of an unknown image '
        r"\(detection #2 has 4\): remove them, or give the data that they were made on",
    ),
    "images from 0": (
        [row(0, 1), row(1, 56, (1, 2, 3, 4))],
        r"ids 0\.\.1 where the data has 1\.\.3.*: they are off by one; add 1 to each",
    ),
    "names of images": (edited(image_id="images/002.png"), "these are file names; write the ids"),
    "stems of images": ([row("002")], "these are file names"),
    "an image of no id": (edited(image_id=[1]), r"detection #2 has image_id \[1\]; expected a number or a text"),
    "classes from 0": (
        [row(1, k) for k in (0, 1, 2)],
        r'"category_id" has ids 0\.\.2 where the data has 1\.\.56, so that 2 of 3 detections are of an unknown class '
        r"\(detection #0 has 0, detection #2 has 2\): they look like the places of the classes, counted from 0; write "
        "the ids of the annotations",
    ),
    "classes from 1": ([row(1, k) for k in (1, 2, 3)], "places of the classes, counted from 1"),
    "classes off by one": ([row(1, k) for k in (0, 22, 55)], "they are off by one; add 1 to each"),
    "classes one too high": ([row(1, k) for k in (24, 57)], "they are off by one; subtract 1 from each"),
    "an unknown class": (edited(category_id=90), "detection #2 has 90.*and remove detections of other classes"),
    "names of classes": (edited(category_id="red"), r"has ids \['1', '56', 'red'\] where the data has 1\.\.56"),
    "some masks": (
        [row(segmentation=[[4, 6, 12, 6, 12, 16]]), row()],
        "detection #1 has no segmentation: give each a mask, or none",
    ),
    "masks of another size": (
        edited(segmentation={"size": [40, 40], "counts": [1600]})
        and [row(segmentation={"size": [4, 4], "counts": [16]})],
        "detection #0 has an RLE of height 4 and width 4 in an image of height 48 and width 64: write an RLE",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_sentence(case: str, truth: GroundTruth, tmp_path: Path) -> None:
    content, said = WRONG[case]
    with pytest.raises(ValueError, match=said) as error:
        read(content, truth, tmp_path)
    text = str(error.value)
    assert text.startswith(str(tmp_path / "results.json"))
    assert "\n" not in text


def test_the_eighty_classes_of_coco(truth: GroundTruth, tmp_path: Path) -> None:
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [x for x in range(1, 91) if x not in gaps]
    path = tmp_path / "results.json"
    path.write_text(json.dumps([row(1, k) for k in range(80)]))
    with pytest.raises(ValueError, match=r"ids 0\.\.79 where the data has 1\.\.90.*counted from 0"):
        read_predictions(str(path), truth, ids, limit=3)
    path.write_text(json.dumps([row(1, ids[k]) for k in range(80)]))
    assert read_predictions(str(path), truth, ids, limit=3).images[0].classes.tolist() == list(range(80))


def many(tmp_path: Path, *, images: int = 12) -> tuple[GroundTruth, Rows]:
    """Images with an object each of two classes of four, and detections on the objects, the better one right."""
    annotations: Rows = []
    found: Rows = []
    for i in range(images):
        for k, box in ((1, [5, 5, 20, 20]), (2, [50, 50, 30, 20])):
            ids = {"image_id": i, "category_id": k + 10}
            annotations.append({**ids, "id": len(annotations), "bbox": box, "area": 9, "iscrowd": 0})
            found += [{**ids, "bbox": box, "score": 0.9}, {**ids, "category_id": 10, "bbox": box, "score": 0.1}]
    sizes = [{"id": i, "file_name": f"{i:02d}.png", "width": 100, "height": 100} for i in range(images)]
    categories = [{"id": k + 10, "name": f"c{k}"} for k in range(4)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps({"images": sizes, "annotations": annotations, "categories": categories}))
    return load_ground_truth(register_coco(f"many {tmp_path.name}={path}:{tmp_path}")), found


@pytest.mark.parametrize(
    ("step", "images", "said"),
    [
        (0, 12, ""),
        (-1, 12, "24 of 24 objects are taken for the class before their own, and 0 for their own: .* add 1 to each"),
        (1, 12, "24 of 24 objects are taken for the class after their own, .* subtract 1 from each"),
        (-1, 9, ""),  # too few to tell
    ],
)
def test_classes_that_are_known_and_off_by_one(step: int, images: int, said: str, tmp_path: Path) -> None:
    truth, found = many(tmp_path, images=images)
    shifted = [{**x, "category_id": x["category_id"] + step if x["score"] > 0.5 else 13} for x in found]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(shifted))
    if said:
        with pytest.raises(ValueError, match=said):
            read_predictions(str(path), truth, [10, 11, 12, 13], limit=len(truth))
    else:
        assert len(read_predictions(str(path), truth, [10, 11, 12, 13], limit=len(truth)).images) == images


def test_a_detector_that_is_merely_bad_is_not_called_off_by_one(tmp_path: Path) -> None:
    truth, found = many(tmp_path)
    path = tmp_path / "results.json"
    for wrong in (12, 8):  # images in which the classes of both objects are off by one
        bad = [{**x, "category_id": 11 if x["image_id"] >= wrong else x["category_id"] + 1} for x in found]
        path.write_text(json.dumps([x for x in bad if x["score"] > 0.5]))
        if wrong == 12:
            with pytest.raises(ValueError, match="off by one"):
                read_predictions(str(path), truth, [10, 11, 12, 13], limit=len(truth))
        else:  # 16 of 24, and 4 are right
            assert len(read_predictions(str(path), truth, [10, 11, 12, 13], limit=len(truth)).images) == 12


@pytest.mark.parametrize(
    "box",
    [
        lambda w, h: (-3, -3, w + 6, h + 6),  # of the whole image, not clipped to it
        lambda w, h: (3, 3, w - 1.5, h - 1.5),  # which would lie inside as corners, too
        lambda w, h: (w - 10, h - 10, 11, 11),
        lambda w, h: (w + 5, h + 5, 20, 20),  # beside it
    ],
)
def test_boxes_of_detectors_may_reach_beyond_the_image(
    box: Callable[[int, int], Any], truth: GroundTruth, tmp_path: Path
) -> None:
    sizes = {1: (64, 48), 2: (48, 64), 3: (40, 40)}
    found = read([row(i, 1, box(*size)) for i, size in sizes.items()], truth, tmp_path)
    assert [len(x.scores) for x in found.images] == [1, 1, 1]


def test_files_that_are_not_there(truth: GroundTruth, tmp_path: Path) -> None:
    (spec,) = parse_predictions([f"A={tmp_path / 'no.json'}"], [], [])
    with pytest.raises(ValueError, match=r"a file of predictions .*no\.json cannot be read .*check the path given to"):
        read_given(spec, truth, IDS, limit=3)
