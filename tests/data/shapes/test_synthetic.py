"""The shapes dataset: exact truth, determinism, and a folder that is complete or absent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from detr_d2.data.shapes.synthetic import ShapesConfig, make_shapes
from detr_d2.data.shapes.synthetic_scene import DIFFICULTIES, Scene, draw_scene, mask_box

EVERYTHING: dict[str, Any] = {
    "rotation": 180.0, "max_overlap": 0.5, "crowding": 0.6, "min_visible": 0.4, "contrast": 0.45, "texture": 0.8,
    "noise": 10.0, "translucency": 0.5, "hidden": 0.35, "max_objects": 10,
}  # fmt: skip
CROWDED = ShapesConfig(**EVERYTHING)


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_easy_masks_are_the_pixels_of_one_colour() -> None:
    checked = 0
    for index in range(20):
        scene = draw_scene(ShapesConfig(), seed=3, index=index)
        for mask in scene.masks:
            colours = np.unique(scene.image[mask], axis=0)
            assert len(colours) == 1
            np.testing.assert_array_equal((scene.image == colours[0]).all(axis=-1), mask)
            checked += 1
    assert checked >= 20


def test_coco_boxes_and_areas_are_those_of_the_rle(tmp_path: Path) -> None:
    paths = make_shapes(tmp_path / "shapes", 6, seed=1, **EVERYTHING)
    content = json.loads(paths.annotations.read_text())
    assert [category["name"] for category in content["categories"]] == ["circle", "rectangle", "triangle"]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        mask = pycocotools.mask.decode(annotation["segmentation"])
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == expected
        assert annotation["area"] == mask.sum()
    image = np.asarray(Image.open(paths.images / content["images"][2]["file_name"]))
    np.testing.assert_array_equal(image, draw_scene(CROWDED, seed=1, index=2).image)


def test_shapes_look_like_their_class() -> None:
    """Fraction of the box that a shape fills: pi / 4, 1 and 1 / 2."""
    config = ShapesConfig(max_objects=1)
    expected = (np.pi / 4, 1.0, 0.5)
    seen = set()
    for index in range(30):
        scene = draw_scene(config, seed=0, index=index)
        x0, y0, x1, y1 = mask_box(scene.masks[0])
        assert scene.masks[0].sum() / ((x1 - x0) * (y1 - y0)) == pytest.approx(expected[scene.classes[0]], abs=0.06)
        seen.add(scene.classes[0])
    assert seen == {0, 1, 2}


def test_sizes_and_numbers_stay_in_their_ranges() -> None:
    config = ShapesConfig(min_objects=2, max_objects=3, min_size=20, max_size=30, max_overlap=0.0)
    counts = set()
    for index in range(40):
        scene = draw_scene(config, seed=5, index=index)
        counts.add(len(scene.masks) + scene.left_out)
        for mask in scene.masks:
            x0, y0, x1, y1 = mask_box(mask)
            assert 19 <= max(x1 - x0, y1 - y0) <= 31
    assert counts == {2, 3}


def test_picture_depends_on_seed_and_index_only(tmp_path: Path) -> None:
    few = make_shapes(tmp_path / "few", 2, seed=7, panoptic=True)
    more = make_shapes(tmp_path / "more", 4, seed=7, panoptic=True)
    again = make_shapes(tmp_path / "again", 4, seed=7, panoptic=True)
    other = make_shapes(tmp_path / "other", 2, seed=8, panoptic=True)
    assert _files(more.root) == _files(again.root)
    for name, content in _files(few.images).items():
        assert content == (more.images / name).read_bytes()
        assert content != (other.images / name).read_bytes()


@pytest.mark.parametrize(
    "changed", [{"contrast": 0.5}, {"texture": 0.5}, {"noise": 5.0}, {"translucency": 0.5}, {"panoptic": True}]
)
def test_looks_change_the_picture_but_not_its_truth(changed: dict[str, Any]) -> None:
    plain = draw_scene(ShapesConfig(), seed=1, index=0)
    changed_scene = draw_scene(replace(ShapesConfig(), **changed), seed=1, index=0)
    assert (plain.image != changed_scene.image).any()
    np.testing.assert_array_equal(plain.masks, changed_scene.masks)


@pytest.mark.parametrize("changed", [{"hidden": 0.5, "min_visible": 0.3}, {"rotation": 45.0}])
def test_hiding_and_turning_change_the_masks(changed: dict[str, Any]) -> None:
    config = replace(ShapesConfig(), **changed)
    pairs = [(draw_scene(ShapesConfig(), 1, i).masks, draw_scene(config, 1, i).masks) for i in range(8)]
    assert any(a.shape != b.shape or (a != b).any() for a, b in pairs)


def test_hidden_bands_show_background() -> None:
    """A shape alone, half of it hidden at most: the mask has a gap, and the picture shows no shape there."""
    config = ShapesConfig(max_objects=1, hidden=0.5, min_visible=0.1)
    gaps = 0
    for index in range(20):
        mask = draw_scene(config, seed=2, index=index).masks[0]
        x0, y0, x1, y1 = mask_box(mask)
        inside = mask[y0:y1, x0:x1]
        gaps += bool((~inside.any(axis=0)).any() or (~inside.any(axis=1)).any())
    assert gaps >= 3


def test_overlap_limit_and_visibility_hold() -> None:
    for index in range(10):
        apart = draw_scene(ShapesConfig(min_objects=4, max_overlap=0.0), seed=4, index=index)
        boxes = [mask_box(mask) for mask in apart.masks]
        for i, (ax0, ay0, ax1, ay1) in enumerate(boxes):
            for bx0, by0, bx1, by1 in boxes[:i]:
                assert min(ax1, bx1) <= max(ax0, bx0) or min(ay1, by1) <= max(ay0, by0)
        crowded = draw_scene(CROWDED, seed=4, index=index)
        assert (crowded.masks.sum(axis=0) <= 1).all()
        assert all(mask.any() for mask in crowded.masks)


def test_crowding_brings_shapes_together() -> None:
    def mean_distance(crowding: float) -> float:
        config = ShapesConfig(min_objects=2, max_objects=2, min_size=18, max_size=24, crowding=crowding)
        distances = []
        for index in range(60):
            boxes = np.array([mask_box(mask) for mask in draw_scene(config, 0, index).masks])
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            distances.append(np.linalg.norm(centres[0] - centres[1]))
        return float(np.mean(distances))

    assert mean_distance(1.0) < 0.6 * mean_distance(0.0)


def test_panoptic_segments_tile_the_picture(tmp_path: Path) -> None:
    paths = make_shapes(tmp_path / "shapes", 5, seed=2, panoptic=True)
    assert paths.panoptic is not None
    assert paths.panoptic_root is not None
    content = json.loads(paths.panoptic.read_text())
    instances = json.loads(paths.annotations.read_text())["annotations"]
    assert {c["name"]: c["isthing"] for c in content["categories"]} == {
        "circle": 1, "rectangle": 1, "triangle": 1, "sky": 0, "ground": 0, "water": 0,
    }  # fmt: skip
    for annotation in content["annotations"]:
        colours = np.asarray(Image.open(paths.panoptic_root / annotation["file_name"])).astype(int)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        assert sum(segment["area"] for segment in segments.values()) == ids.size
        things = [segment for segment in segments.values() if segment["category_id"] <= 3]
        ours = [a for a in instances if a["image_id"] == annotation["image_id"]]
        assert [segment["bbox"] for segment in things] == [a["bbox"] for a in ours]
        for segment, instance in zip(things, ours, strict=True):
            np.testing.assert_array_equal(ids == segment["id"], pycocotools.mask.decode(instance["segmentation"]))


def test_equal_call_reuses_and_other_parameters_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    assert not make_shapes(root, 2, seed=1).reused
    before = _files(root)
    assert make_shapes(root, 2, seed=1).reused
    with pytest.raises(ValueError, match=r"seed 1 \(asked: 2\)"):
        make_shapes(root, 2, seed=2)
    with pytest.raises(ValueError, match=r"noise 0\.0 \(asked: 1\.0\)"):
        make_shapes(root, 2, seed=1, noise=1.0)
    assert _files(root) == before
    (root / "images" / "000001.png").unlink()
    with pytest.raises(ValueError, match="files of it are missing now"):
        make_shapes(root, 2, seed=1)


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made by make-shapes"):
        make_shapes(tmp_path, 1, seed=0)
    with pytest.raises(ValueError, match="is a file"):
        make_shapes(tmp_path / "notes.txt", 1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write into"):
        make_shapes(tmp_path / "file" / "shapes", 1, seed=0)


def test_interrupted_call_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "shapes", 3, seed=0, on_image=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_objects": 0}, "shapes per image"),
        ({"min_size": 3}, "sizes must be"),
        ({"max_size": 129}, "do not fit"),
        ({"max_size": 100, "rotation": 10.0}, "do not fit"),
        ({"contrast": 1.5}, "contrast must lie between 0 and 1"),
        ({"translucency": 1.0}, "translucency must lie between 0 and 0.95"),
        ({"noise": -1.0}, "must not be negative"),
        ({"colour": 1}, r"unknown shapes parameters \['colour'\]"),
    ],
)
def test_impossible_parameters(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_shapes(tmp_path / "shapes", 1, seed=0, **parameters)


def test_presets_are_valid_and_unknown_ones_are_named() -> None:
    assert [ShapesConfig.preset(name).stacking for name in DIFFICULTIES] == [0.0, 0.8]
    with pytest.raises(ValueError, match="unknown difficulty 'extreme': choose one of easy, crowded"):
        ShapesConfig.preset("extreme")


def _largest_iou_in_class(scene: Scene) -> list[float]:
    """Of each shape, the largest IoU of its box with that of another shape of its class."""
    boxes = torch.tensor([mask_box(mask) for mask in scene.masks], dtype=torch.float)
    classes = torch.tensor(scene.classes)
    iou = box_iou(boxes, boxes) * (classes[:, None] == classes).fill_diagonal_(False)
    return iou.amax(1).tolist()


def test_crowded_shapes_overlap_within_their_class() -> None:
    """What NMS at an IoU of 0.5 cannot tell from duplicates: half of all shapes, where easy pictures have none."""
    share, left_out = {}, 0
    for name in DIFFICULTIES:
        scenes = [draw_scene(ShapesConfig.preset(name), seed=0, index=index) for index in range(60)]
        values = np.array([iou for scene in scenes for iou in _largest_iou_in_class(scene)])
        share[name] = (values > 0.5).mean()
        left_out += sum(scene.left_out for scene in scenes) if name == "crowded" else 0
        if name == "crowded":
            assert 3 <= len(values) / len(scenes) <= 8
    assert share["crowded"] > 0.4
    assert share["easy"] < 0.02
    assert left_out < 60


def test_stacked_shapes_can_be_seen_and_repeat_their_class() -> None:
    config = replace(ShapesConfig.preset("crowded"), stacking=1.0)
    for index in range(10):
        scene = draw_scene(config, seed=4, index=index)
        assert len(set(scene.classes)) == 1
        assert scene.masks.any(axis=(1, 2)).all()


@pytest.mark.parametrize("config", [{"stacking": 1.5}, {"stacking": -0.1}])
def test_stacking_is_a_probability(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="stacking must lie between 0 and 1"):
        ShapesConfig(**config)  # type: ignore[arg-type]


def test_folders_made_before_stacking_are_known(tmp_path: Path) -> None:
    paths = make_shapes(tmp_path / "shapes", 2, seed=0)
    file = paths.root / "parameters.json"
    made_with = json.loads(file.read_text())
    del made_with["stacking"]
    file.write_text(json.dumps(made_with))
    assert make_shapes(tmp_path / "shapes", 2, seed=0).reused
    with pytest.raises(ValueError, match="stacking"):
        make_shapes(tmp_path / "shapes", 2, seed=0, stacking=0.5)
