"""Masks, boundaries and panoptic maps by hand, and what is kept of them on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from segmentation_cases import run_lengths

from detr_d2.compare.data import load_ground_truth
from detr_d2.compare.found.masks import SegmentationCache, collect_masks, segmentation_of
from detr_d2.compare.masks import Segment, Segmentation, encode
from detr_d2.compare.measure.masks import boundary_iou, mask_metrics, over_shared_objects
from detr_d2.compare.segmentation import panoptic_figures
from detr_d2.data import register_coco
from detr_d2.evaluation.arrays import GroundTruth, Rle, coco_dataset
from detr_d2.evaluation.ground_truth import load_mask_truth
from detr_d2.evaluation.panoptic import is_panoptic

SIZE = (60, 80)  # the diagonal is 100, the boundary 2 pixels wide


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def rle(mask: np.ndarray) -> Rle:
    return {"size": list(mask.shape), "counts": encode(mask)}


def truth_of(*images: list[tuple[int, np.ndarray]]) -> tuple[GroundTruth, list[Rle]]:
    """Ground truth of images with (class, mask) objects."""
    objects = [x for image in images for x in image]
    rles = [rle(mask) for _, mask in objects]
    ground_truth = GroundTruth(
        name="made",
        class_names=("a", "b"),
        image_ids=tuple(range(1, len(images) + 1)),
        file_names=tuple(f"{i}.png" for i in range(len(images))),
        sizes=np.array([SIZE] * len(images)),
        offsets=np.cumsum([0, *(len(x) for x in images)]),
        boxes_xywh=np.array([coco_mask.toBbox(x) for x in rles]).reshape(-1, 4),
        classes=np.array([k for k, _ in objects], dtype=np.int64),
        crowd=np.zeros(len(objects), dtype=bool),
        areas=np.array([mask.sum() for _, mask in objects], dtype=np.float64),
    )
    return ground_truth, rles


def found(*detections: tuple[int, float, np.ndarray], segments: list[Segment] | None = None) -> Segmentation:
    """What a model segments, from (class, score, mask)."""
    classes, scores, masks = zip(*detections, strict=True) if detections else ((), (), ())
    return Segmentation(list(SIZE), list(scores), list(classes), [encode(x) for x in masks], segments)


def test_boundary_iou_of_a_shifted_square_by_hand() -> None:
    """20 x 20 pixels, moved by 2: of the frames, 400 - 256 = 144 each, only the upper and lower sides meet, 4 x 18."""
    first, second = rle(block(10, 10, 20, 20)), rle(block(10, 12, 20, 20))
    assert boundary_iou(first, second) == pytest.approx(72 / (288 - 72))
    assert boundary_iou(first, first) == 1


def test_the_border_of_the_image_and_of_a_hole_are_contour() -> None:
    frame = block(0, 0, 20, 30) - block(2, 2, 16, 26)
    assert boundary_iou(rle(block(0, 0, 20, 30)), rle(frame)) == 1  # the frame, two pixels thin, is all boundary
    holed = block(5, 5, 40, 40) - block(20, 20, 10, 10)
    rims = block(5, 5, 40, 40) - block(7, 7, 36, 36) + block(18, 18, 14, 14) - block(20, 20, 10, 10)
    assert boundary_iou(rle(holed), rle(rims)) == 1


def test_masks_that_are_the_truth_score_100() -> None:
    objects = [(0, block(5, 5, 20, 20)), (1, block(30, 40, 20, 30))]
    ground_truth, truth = truth_of(objects, [(0, block(10, 10, 40, 40))])
    images = [found(*((k, 0.9, mask) for k, mask in objects)), found((0, 0.5, block(10, 10, 40, 40)))]
    metrics = mask_metrics(ground_truth, truth, images, np.arange(2))
    assert (metrics.ap, metrics.ap50, metrics.boundary_ap, metrics.boundary_iou) == pytest.approx((100,) * 4)
    assert metrics.matched == 3
    assert metrics.ap_small == pytest.approx(100)  # 400 and 600 pixels
    assert metrics.ap_medium == pytest.approx(100)  # 1,600
    assert np.isnan(metrics.ap_large)


def test_boundary_ap_takes_the_smaller_overlap() -> None:
    """Mask IoU 18/22 = 0.818 is right at 7 of 10 thresholds; Boundary IoU 72/216 = 1/3 at none."""
    ground_truth, truth = truth_of([(0, block(10, 10, 20, 20))])
    metrics = mask_metrics(ground_truth, truth, [found((0, 0.9, block(10, 12, 20, 20)))], np.arange(2))
    assert metrics.ap == pytest.approx(70)
    assert (metrics.ap50, metrics.ap75) == pytest.approx((100, 100))
    assert (metrics.boundary_ap, metrics.boundary_ap50) == (0, 0)
    assert metrics.boundary_iou == pytest.approx(100 / 3)
    assert metrics.matched == 1


def test_a_thin_mask_is_limited_by_its_mask_iou() -> None:
    """Masks that are all boundary: both IoUs are 20/40 = 0.5, right at the first threshold only."""
    ground_truth, truth = truth_of([(0, block(10, 10, 4, 20))])
    metrics = mask_metrics(ground_truth, truth, [found((0, 0.9, block(10, 10, 2, 20)))], np.arange(2))
    assert metrics.ap == metrics.boundary_ap == pytest.approx(10)


def test_boundary_iou_is_compared_on_what_all_models_find() -> None:
    """One model finds the easy object only, and draws it as the other does; alone it would be ahead."""
    easy, hard = block(5, 5, 20, 20), block(30, 40, 20, 20)
    ground_truth, truth = truth_of([(0, easy), (0, hard)])
    both = [found((0, 0.9, easy), (0, 0.8, block(30, 42, 20, 20)))]
    metrics = [mask_metrics(ground_truth, truth, images, np.arange(2)) for images in (both, [found((0, 0.9, easy))])]
    assert metrics[0].boundary_ious == pytest.approx([100, 100 / 3])
    assert metrics[1].boundary_ious == pytest.approx([100, np.nan], nan_ok=True)
    assert [(x.boundary_iou, x.matched) for x in metrics] == [(pytest.approx(200 / 3), 2), (100, 1)]
    shared = over_shared_objects(metrics)
    assert [(x.boundary_iou, x.matched, x.boundary_ious) for x in shared] == [(100, 1, [])] * 2
    assert [(x.ap, x.boundary_ap) for x in shared] == [(x.ap, x.boundary_ap) for x in metrics]
    nothing = mask_metrics(ground_truth, truth, [found()], np.arange(2))
    assert [x.matched for x in over_shared_objects([*metrics, nothing])] == [0, 0, 0]
    assert all(np.isnan(x.boundary_iou) for x in over_shared_objects([*metrics, nothing]))
    assert over_shared_objects([]) == []


def test_an_object_without_a_mask_is_found_by_nobody() -> None:
    square = block(5, 5, 20, 20)
    ground_truth, truth = truth_of([(0, square), (0, block(30, 40, 20, 20))])
    metrics = mask_metrics(ground_truth, [None, truth[1]], [found((0, 0.9, block(30, 40, 20, 20)))], np.arange(2))
    assert metrics.boundary_ious == pytest.approx([np.nan, 100], nan_ok=True)


def test_classes_of_the_model_are_those_of_the_data_by_the_map() -> None:
    square = block(10, 10, 20, 20)
    ground_truth, truth = truth_of([(1, square)])
    images = [found((2, 0.9, square), (0, 0.8, square))]
    assert mask_metrics(ground_truth, truth, images, np.array([-1, 0, 1])).ap == pytest.approx(100)
    assert mask_metrics(ground_truth, truth, images, np.array([1, 0, -1])).ap == pytest.approx(100)
    assert mask_metrics(ground_truth, truth, images, np.array([-1, 0, 0])).ap == 0


def test_no_detection_at_all_is_0_and_no_boundary() -> None:
    ground_truth, truth = truth_of([(0, block(10, 10, 20, 20))], [])
    metrics = mask_metrics(ground_truth, truth, [found(), found()], np.arange(2))
    assert metrics.ap == metrics.boundary_ap == 0
    assert np.isnan(metrics.boundary_iou)


def test_an_image_without_masks_is_counted_and_its_objects_are_missed() -> None:
    square = block(10, 10, 20, 20)
    ground_truth, truth = truth_of([(0, square)], [(0, square)])
    images = [found((0, 0.9, square)), Segmentation([1, 1], [], [], [], error="out of memory")]
    metrics = mask_metrics(ground_truth, truth, images, np.arange(2))
    assert metrics.failed_images == 1
    assert metrics.ap == pytest.approx(100 * 51 / 101)  # recall reaches one half


def test_crowds_count_neither_way() -> None:
    crowd, square = block(30, 40, 20, 30), block(5, 5, 20, 20)
    ground_truth, truth = truth_of([(0, square), (0, crowd)])
    ground_truth.crowd[1] = True
    images = [found((0, 0.9, crowd), (0, 0.8, square))]
    metrics = mask_metrics(ground_truth, truth, images, np.arange(2))
    assert (metrics.ap, metrics.boundary_ap, metrics.matched) == pytest.approx((100, 100, 1))


def test_boundary_ap_leaves_crowds_to_their_masks() -> None:
    """A detection inside a crowd region is ignored for what of it the region covers, not for its boundary."""
    ground_truth, truth = truth_of([(0, block(5, 5, 20, 20)), (0, block(30, 10, 28, 60))])
    ground_truth.crowd[1] = True
    images = [found((0, 0.9, block(38, 30, 8, 8)), (0, 0.8, block(5, 5, 20, 20)))]
    metrics = mask_metrics(ground_truth, truth, images, np.arange(2))
    assert (metrics.ap, metrics.boundary_ap, metrics.matched) == pytest.approx((100, 100, 1))


class SmallerIou(COCOeval):
    """Boundary AP by the paper, Sec. 5: the smaller of two IoUs, crowd regions by their masks alone."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        own, gts = super().computeIoU(imgId, catId), self._gts[imgId, catId]
        if len(own):
            found = sorted(self._dts[imgId, catId], key=lambda x: -x["score"])
            edges = [[rle(frame(coco_mask.decode(x["segmentation"]))) for x in part] for part in (found, gts)]
            iou = np.array(coco_mask.iou(*edges, [x["iscrowd"] for x in gts]))
            real = np.array([not x["iscrowd"] for x in gts])
            own[:, real] = np.minimum(own, iou)[:, real]
        return own


def frame(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask of `SIZE` that are at most two from what is not mask, in the distance of a chess king."""
    padded = np.pad(mask, 2)
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(5) for x in range(5)]
    return mask - np.min(shifts, axis=0)


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects, images = [], []
    for _ in range(5):
        masks = [(int(rng.integers(2)), block(*rng.integers(0, 40, 2), *rng.integers(5, 30, 2))) for _ in range(5)]
        near = [(k, np.roll(mask, rng.integers(-2, 3, 2), (0, 1))) for k, mask in masks for _ in range(2)]
        near += [(k, mask - frame(mask)) for k, mask in masks if (mask > frame(mask)).any()]  # inside, crowds or not
        objects.append(masks)
        scores = np.sort(rng.random(len(near)))[::-1].tolist()
        images.append(found(*((k, score, mask) for score, (k, mask) in zip(scores, near, strict=True))))
    ground_truth, truth = truth_of(*objects)
    ground_truth.crowd[rng.random(25) < 0.2] = True
    metrics = mask_metrics(ground_truth, truth, images, np.arange(2))

    content = coco_dataset(ground_truth)
    real = [{**x, "segmentation": mask} for x, mask in zip(content["annotations"], truth, strict=True)]
    rows = [
        (i, *x)
        for i, image in enumerate(images, 1)
        for x in zip(image.scores, image.classes, image.counts, strict=True)
    ]
    guessed = [
        {
            "id": n,
            "image_id": i,
            "category_id": k + 1,
            "score": score,
            "iscrowd": 0,
            "area": float(coco_mask.area(mask)),
        }
        | {"segmentation": mask}
        for n, (i, score, k, mask) in enumerate(
            ((i, s, k, {"size": list(SIZE), "counts": c}) for i, s, k, c in rows), 1
        )
    ]
    both = []
    for annotations_of in (real, guessed):
        both.append(COCO())
        both[-1].dataset = {**content, "annotations": annotations_of}
        both[-1].createIndex()
    of_masks, of_edges = COCOeval(*both, "segm"), SmallerIou(*both, "segm")
    for evaluation in (of_masks, of_edges):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = [100 * x for x in (*of_masks.stats[:3], *of_edges.stats[:2])]
    measured = [metrics.ap, metrics.ap50, metrics.ap75, metrics.boundary_ap, metrics.boundary_ap50]
    assert measured == pytest.approx(expected, abs=1e-9)
    assert 1 < metrics.boundary_ap < metrics.ap < 95
    at_half = [x for x in of_masks.evalImgs if x is not None and x["aRng"] == of_masks.params.areaRng[0]]
    hits = [(x["dtMatches"][0] > 0) & ~x["dtIgnore"][0].astype(bool) for x in at_half]
    assert metrics.matched == sum(int(x.sum()) for x in hits)


def registered(tmp_path: Path, segmentation: Any, name: str) -> GroundTruth:
    """A COCO file of one image with two objects, the second with a given mask."""
    annotations = [
        {"id": 1, "bbox": [0, 0, 10, 20], "area": 5, "segmentation": [[0, 0, 10, 0, 10, 20, 0, 20]]},
        {"id": 2, "bbox": [5, 5, 4, 4], "segmentation": segmentation},
    ]
    annotations = [{"image_id": 7, "category_id": 3, **x} for x in annotations]
    images = [{"id": 7, "file_name": "7.png", "height": SIZE[0], "width": SIZE[1]}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "a"}]}
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return load_ground_truth(register_coco(f"{name}={tmp_path / name}.json:{tmp_path}"))


def test_polygons_and_run_lengths_of_a_file_become_masks(tmp_path: Path) -> None:
    mask = block(5, 5, 4, 4)
    plain = {"size": list(SIZE), "counts": run_lengths(mask)}
    packed = {"size": list(SIZE), "counts": encode(mask)}
    for number, form in enumerate((plain, packed, [[5, 5, 9, 5, 9, 9, 5, 9]])):
        ground_truth = registered(tmp_path, form, f"masks_{number}")
        assert ground_truth.areas.tolist() == [5, 16]  # as annotated, and counted
        truth = load_mask_truth(ground_truth)
        assert truth is not None
        assert np.array_equal(coco_mask.decode(truth.masks[0]), block(0, 0, 20, 10))
        assert np.array_equal(coco_mask.decode(truth.masks[1]), mask)


def test_data_with_boxes_alone_have_no_masks(tmp_path: Path) -> None:
    assert load_mask_truth(registered(tmp_path, [], "boxes_alone")) is None


def test_a_mask_of_another_size_than_its_image_is_an_error(tmp_path: Path) -> None:
    wrong = {"size": [10, 10], "counts": encode(np.ones((10, 10), np.uint8))}
    with pytest.raises(
        ValueError,
        match=r"1 of 2 objects of wrong_size .*7\.png, which has an RLE of height 10 and width 10 in an image",
    ):
        load_mask_truth(registered(tmp_path, wrong, "wrong_size"))


def test_bitmaps_of_a_dataset_of_dicts_are_masks() -> None:
    mask = block(5, 5, 4, 4).astype(bool)
    annotation = {"bbox": [5, 5, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": mask}
    record = {"file_name": "a.png", "image_id": 1, "height": SIZE[0], "width": SIZE[1], "annotations": [annotation]}
    DatasetCatalog.register("mask_dicts", lambda: [record])
    MetadataCatalog.get("mask_dicts").set(thing_classes=["a"])
    ground_truth = load_ground_truth("mask_dicts")
    truth = load_mask_truth(ground_truth)
    assert truth is not None
    assert np.array_equal(coco_mask.decode(truth.masks[0]), mask)
    assert ground_truth.areas.tolist() == [16]


def output() -> dict[str, Any]:
    """Of a model: two instances, the better one second, and a map of a thing and of stuff."""
    instances = Instances(SIZE)
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]))
    instances.scores = torch.tensor([0.25, 0.75])
    instances.pred_classes = torch.tensor([0, 1])
    instances.pred_masks = torch.from_numpy(np.stack([block(0, 0, 10, 10), block(20, 20, 10, 10)])).bool()
    ids = torch.from_numpy(block(20, 20, 10, 10).astype(np.int32)) + 2 * torch.from_numpy(
        block(40, 0, 20, 80).astype(np.int32)
    )
    segments = [
        {"id": 1, "isthing": True, "category_id": 1, "score": 0.9},
        {"id": 2, "isthing": False, "category_id": 3},
    ]
    return {"instances": instances, "panoptic_seg": (ids, segments)}


def test_what_is_kept_of_a_models_output(tmp_path: Path) -> None:
    kept = segmentation_of(output(), SIZE)
    assert (kept.scores, kept.classes) == ([0.75, 0.25], [1, 0])
    assert kept.counts == [encode(block(20, 20, 10, 10)), encode(block(0, 0, 10, 10))]
    assert kept.boxes == [[20, 20, 30, 30], [0, 0, 10, 10]]
    assert kept.segments == [
        Segment(1, True, encode(block(20, 20, 10, 10))),
        Segment(3, False, encode(block(40, 0, 20, 80))),
    ]
    cache = SegmentationCache(tmp_path)
    cache.write(range(2), [kept, kept])
    assert cache.read(range(2)) == [kept, kept]
    assert cache.read(range(2, 4)) is None
    (tmp_path / "0000000-0000002.json.gz").write_bytes(b"half")
    assert cache.read(range(2)) is None


class Predictor:
    """Stands in for a model; an image whose name holds "bad" is too much for it."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def inputs(self, image: np.ndarray) -> dict[str, Any]:
        return {"value": int(image[0, 0, 0])}

    def model(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.seen.append(inputs[0]["value"])
        if inputs[0]["value"] == 13:
            raise RuntimeError("out of memory")
        return [output()]


def test_images_are_segmented_once_and_failures_tried_again(tmp_path: Path) -> None:
    import cv2

    files = []
    for value in (11, 13, 12):
        files.append(str(tmp_path / f"{value}.png"))
        cv2.imwrite(files[-1], np.full((*SIZE, 3), value, dtype=np.uint8))
    model: Any = Predictor()
    first = collect_masks(lambda: model, files, SegmentationCache(tmp_path / "cache"))
    assert [x.error for x in first] == ["", "RuntimeError: out of memory", ""]
    assert model.seen == [11, 13, 12]
    again = collect_masks(lambda: model, files, SegmentationCache(tmp_path / "cache"))
    assert model.seen == [11, 13, 12, 13]
    assert again == first
    cv2.imwrite(files[1], np.full((*SIZE, 3), 14, dtype=np.uint8))
    assert collect_masks(lambda: model, files, SegmentationCache(tmp_path / "cache"))[1].error == ""

    def never() -> Any:
        raise AssertionError("nothing is left to do")

    assert len(collect_masks(never, files, SegmentationCache(tmp_path / "cache"))) == 3


@pytest.fixture
def panoptic(tmp_path: Path) -> GroundTruth:
    """A dataset of one image: a thing of 10 x 10 pixels, stuff on 20 x 80, the rest void."""
    import cv2

    from detr_d2.data.panoptic.registration import register_coco_panoptic

    ids = block(20, 20, 10, 10) * 5 + block(40, 0, 20, 80) * 9
    bgr = np.zeros((*SIZE, 3), dtype=np.uint8)
    bgr[..., 2] = ids  # an id is R + 256 G + 65536 B
    (tmp_path / "png").mkdir()
    cv2.imwrite(str(tmp_path / "png" / "7.png"), bgr)
    cv2.imwrite(str(tmp_path / "7.png"), np.zeros((*SIZE, 3), dtype=np.uint8))
    images = [{"id": 7, "file_name": "7.png", "height": SIZE[0], "width": SIZE[1]}]
    things = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    stuff = [{"id": 3, "name": "sky"}, {"id": 4, "name": "sea"}, {"id": 6, "name": "grass"}]
    segments = [
        {"id": 5, "category_id": 2, "area": 100, "bbox": [20, 20, 10, 10], "iscrowd": 0},
        {"id": 9, "category_id": 6, "area": 1600, "bbox": [0, 40, 80, 20], "iscrowd": 0},
    ]
    content = {
        "images": images,
        "categories": [{**x, "isthing": 1} for x in things] + [{**x, "isthing": 0} for x in stuff],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    boxes = [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [20, 20, 10, 10], "area": 100, "iscrowd": 0}]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": things}))
    name = f"panoptic_{tmp_path.name}"
    spec = f"{name}={tmp_path}/panoptic.json:{tmp_path}/png:{tmp_path}:{tmp_path}/boxes.json"
    return load_ground_truth(register_coco_panoptic(spec))


def test_panoptic_quality_of_a_dataset_by_hand(panoptic: GroundTruth) -> None:
    assert is_panoptic(panoptic.name)
    perfect = segmentation_of(output(), SIZE)  # dog, and the third kind of stuff
    metrics = panoptic_figures(panoptic, [perfect])
    assert (metrics.pq, metrics.sq, metrics.rq, metrics.pq_things, metrics.pq_stuff) == pytest.approx((100,) * 5)
    # Half of the stuff lost: IoU 3/4 of 1,600 pixels; the dog is a cup: one missed and one wrong class, PQ 0 each.
    segments = [Segment(0, True, encode(block(20, 20, 10, 10))), Segment(3, False, encode(block(40, 0, 15, 80)))]
    metrics = panoptic_figures(panoptic, [found(segments=segments)])
    assert (metrics.pq_things, metrics.pq_stuff, metrics.pq) == pytest.approx((0, 75, 25))
    assert (metrics.sq_stuff, metrics.rq_stuff) == pytest.approx((75, 100))


def test_an_image_that_failed_counts_as_nothing_found(panoptic: GroundTruth) -> None:
    metrics = panoptic_figures(panoptic, [Segmentation([1, 1], [], [], [], error="out of memory")])
    assert (metrics.pq, metrics.failed_images) == (0, 1)
