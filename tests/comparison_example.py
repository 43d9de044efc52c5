"""A comparison with something in every field, for tests of what is made from it: not measured, but plausible."""

from __future__ import annotations

from dataclasses import replace

from set_example import crowd_bins, cures, extra_boxes, operating_point

from detr_d2.compare.records.comparison import (
    Comparison,
    CrashedImage,
    DatasetSummary,
    Difference,
    ModelComparison,
    ShippedSettings,
)
from detr_d2.compare.records.cost import Cost, StageLatency, Throughput
from detr_d2.compare.records.figures import (
    ClassMetrics,
    CocoMetrics,
    ConfusionMatrix,
    ErrorKind,
    Interval,
    MaskMetrics,
    PanopticMetrics,
    PrecisionRecall,
)
from detr_d2.compare.records.pictures import Boxes, GalleryImage, Removal
from detr_d2.compare.records.results import RunResult
from detr_d2.compare.records.sets import CountGroup, Counting, NmsPoint, QueryGroup, QueryLimit

CLASSES = ["circle", "square", "triangle <b>"]
_NAN = float("nan")
_DIFFERENCES = {"ap": -5.0, "ap50": 0.5, "ap75": -7.0, "recall": -2.0, "extra": 6.5, "count_error": -0.4}
_SWEEP = [None, *(x / 100 for x in range(30, 100, 5))]


def example_comparison(image_files: tuple[str, str] = ("images/000.png", "images/001.png")) -> Comparison:
    """DETR, Faster R-CNN and a model that could not be loaded, on 40 images.

    Args:
        image_files: of the gallery, 128 x 96 pixels.
    """
    dataset = DatasetSummary(
        name="shapes_val",
        annotations="data/annotations.json",
        image_root="data/images",
        num_images=40,
        limited=True,
        num_objects=100,
        num_crowd=1,
        class_names=CLASSES,
        objects_per_class=[60, 40, 0],
        max_objects=6,
        fingerprint="3f" * 16,
        overlapped_share=12.0,
    )
    settings = {"limit": 40, "repeat": 10, "resamples": 1000, "score_threshold": None}
    return Comparison(
        dataset=dataset,
        models=[_detr(), replace(_faster_rcnn(), removals=[_removal(image_files[1])]), _failed()],
        differences=[
            Difference("DETR", "Faster R-CNN", metric, Interval(value, value - 3, value + 3))
            for metric, value in _DIFFERENCES.items()
        ],
        gallery=[_gallery_image(file, image_id) for image_id, file in enumerate(image_files, start=1)],
        machine={
            "system": "Linux x86_64",
            "processor": "a processor",
            "threads": 2,
            "torch": "2.15.0",
            "device": "cpu",
        },
        versions={"detr_d2": "0.1.0", "detectron2": "0.6", "torch": "2.15.0", "pycocotools": "2.0.11"},
        command="python -m detr_d2 compare --dataset shapes_val --model 'DETR=detr.yaml,detr.pth' --output out",
        created="2026-01-31T12:00:00+00:00",
        settings=settings,
    )


def _detr() -> ModelComparison:
    nms = [
        NmsPoint(
            layer, threshold, layer == 3 and threshold is None, 50.0 + 5 * layer + gain, 80.0 + 3 * layer, 20.0, 20.0
        )
        for layer in (1, 2, 3)
        for threshold, gain in ((x, 0.0 if x is None else (2 - layer) * (1.1 - x)) for x in _SWEEP)
    ]
    groups = [QueryGroup(1, 2, 22, 33, 1), QueryGroup(3, 6, 18, 67, 6)]
    model = _model(
        "DETR",
        "DETR",
        ap=65.0,
        shipped=ShippedSettings(None, 0.0, 100, 20, True),
        nms=nms,
        num_layers=3,
        query_limit=QueryLimit(20, 6, 0, 0, groups),
        stages={"total": 21.0, "backbone": 12.0, "transformer": 7.5, "rest": 1.5},
    )
    masks = MaskMetrics(61.5, 83.5, 66.5, 41.5, 62.5, _NAN, 44.5, 71.5, 58.5, 88, 0, "pycocotools 2.0.11")
    panoptic = PanopticMetrics(52.5, 81.5, 63.5, 48.5, 80.5, 59.5, 56.5, 82.5, 67.5)
    return replace(model, masks=masks, panoptic=panoptic, cures=cures())


def _faster_rcnn() -> ModelComparison:
    nms = [
        NmsPoint(
            1,
            x,
            x == 0.5,
            30.0 if x is None else 70.0 - 40 * abs(x - 0.5),
            90.0 if x == 0.5 else 70.0,
            300.0 if x is None else 400 * x,
            100.0,
        )
        for x in _SWEEP
    ]
    return _model(
        "Faster R-CNN",
        "R-CNN",
        ap=70.0,
        shipped=ShippedSettings(0.5, 0.05, 100, None, True),
        nms=nms,
        notes=["it does not know the class 'triangle <b>'"],
        crashed=[CrashedImage("images/007.png", "RuntimeError: out of memory")],
        stages={"total": 25.0, "backbone": 14.0, "proposals": 4.0, "heads": 5.0, "NMS": 0.5, "rest": 1.5},
    )


def _failed() -> ModelComparison:
    run = RunResult("RetinaNet", "retinanet.yaml", "shapes_val", _NAN, _NAN, _NAN)
    return ModelComparison("RetinaNet", "dense", run, "no.pth", "", "", failed="no.pth does not fit the config")


def _model(
    label: str,
    family: str,
    *,
    ap: float,
    shipped: ShippedSettings,
    nms: list[NmsPoint],
    stages: dict[str, float],
    num_layers: int = 1,
    notes: list[str] | None = None,
    crashed: list[CrashedImage] | None = None,
    query_limit: QueryLimit | None = None,
) -> ModelComparison:
    per_class = [
        ClassMetrics(CLASSES[0], 60, ap + 2, ap + 22, ap + 5),
        ClassMetrics(CLASSES[1], 40, ap - 2, ap + 18, ap + 1),
        ClassMetrics(CLASSES[2], 0, _NAN, _NAN, _NAN),
    ]
    coco = CocoMetrics(
        ap, ap + 20, ap + 8, ap - 20, ap, ap + 10, ap - 25, ap + 2, ap + 3, ap - 18, ap + 2, ap + 12,
        100, per_class, "pycocotools 2.0.11",
    )  # fmt: skip
    recall = [float(x) for x in range(101)]
    curves = [
        PrecisionRecall(iou, recall, [max(0.0, 100 - slope * x**2 / 100) for x in recall])
        for iou, slope in ((0.5, 0.4), (0.75, 0.7), (None, 0.8))
    ]
    nms_model = shipped.nms_threshold is not None
    scores, lift = ((0.7, 0.8), 6.0) if nms_model else ((0.6, 0.7), 0.0)
    operating = operating_point(scores, nms=nms_model, lift=lift)
    run = RunResult(
        model=label,
        config_file=f"{label}.yaml",
        dataset="shapes_val",
        ap=coco.ap,
        ap50=coco.ap50,
        ap75=coco.ap75,
        per_class={x.name: x.ap for x in per_class},
        parameters=12_345_678,
        inference_ms=stages["total"],
    )
    if family == "DETR":
        run = replace(run, iterations=1700, train_seconds=330.0, extra={"images_per_iteration": 16})
    return ModelComparison(
        label=label,
        family=family,
        run=run,
        weights=f"{label}.pth",
        weights_sha256="ab" * 32,
        config_sha256="cd" * 32,
        notes=notes or [],
        crashed_images=crashed or [],
        shipped=shipped,
        coco=coco,
        confidence={
            "ap": Interval(ap, ap - 3.1, ap + 2.9),
            "ap50": Interval(ap + 20, ap + 16, ap + 23),
            "ap75": Interval(ap + 8, ap + 4, ap + 12),
            "recall": Interval(operating.at.recall, operating.at.recall - 4, operating.at.recall + 4),
            "extra": Interval(operating.at.extra, 0.0, operating.at.extra + 3),
            "count_error": Interval(operating.at.count_error, 0.5, 2.5),
        },
        curves=curves,
        num_layers=num_layers,
        nms=nms,
        operating=operating,
        extra_boxes=extra_boxes(operating.at, nms=nms_model),
        crowds=crowd_bins(operating.at, nms=nms_model),
        confusion=ConfusionMatrix(CLASSES[:2], [[52, 3, 5], [2, 30, 8], [6, 4, 0]]),
        counting=Counting(
            0.25,
            operating.at.count_error,
            60.0,
            [CountGroup(1, 2, 22, 1.5, 1.6, 0.25), CountGroup(3, 6, 18, 3.75, 4.0, 0.75)],
        ),
        query_limit=query_limit,
        errors=[
            ErrorKind(kind, count, gain)
            for kind, count, gain in (
                ("classification", 4, 1.5),
                ("localisation", 9, 3.25),
                ("both", 1, 0.1),
                ("duplicate", 3, 0.4),
                ("background", 12, 2.0),
                ("missed", 5, 4.5),
            )
        ],
        cost=Cost(
            parameters=12_345_678,
            gflops=3.21,
            flops_images=10,
            flops_uncounted={"aten::grid_sampler": 2},
            image_size=[128, 171],
            latency=[StageLatency(stage, x, 1.3 * x) for stage, x in stages.items()],
            throughput=[Throughput(1, 45.0), Throughput(4, 60.0), Throughput(16, _NAN)],
            repeat=10,
            device="cpu",
            backbone_path="fast",
            image_memory_mb=42.5,
            weights_memory_mb=49.25,
        ),
    )


def _gallery_image(file: str, image_id: int) -> GalleryImage:
    objects = Boxes(
        [[10.0, 10.0, 50.0, 50.0], [30.0, 20.0, 70.0, 60.0], [80.0, 40.0, 120.0, 90.0]],
        [0, 0, 1],
        crowd=[False, False, False],
    )
    detr = Boxes(
        [[11.0, 9.0, 50.0, 51.0], [31.0, 21.0, 69.0, 60.0], [82.0, 41.0, 118.0, 90.0]],
        [0, 0, 1],
        [0.98, 0.91, 0.4],
        [True, True, True],
    )
    faster_rcnn = Boxes(
        [
            [10.0, 11.0, 49.0, 50.0],
            [12.0, 10.0, 51.0, 52.0],
            [31.0, 20.0, 70.0, 61.0],
            [80.0, 40.0, 121.0, 91.0],
            [78.0, 42.0, 119.0, 88.0],
        ],
        [0, 0, 0, 1, 1],
        [0.99, 0.95, 0.85, 0.8, 0.3],
        [True, False, True, True, False],
    )
    found = {"DETR": detr, "Faster R-CNN": faster_rcnn}
    worst_of = ["DETR"] if image_id == 2 else []
    return GalleryImage(file, image_id, 128, 96, 0.5 / image_id, objects, found, worst_of, half=(image_id - 1) % 2)


def _removal(file: str) -> Removal:
    return Removal(
        file,
        2,
        128,
        96,
        0,
        object_box=[30.0, 20.0, 70.0, 60.0],
        removed_box=[31.0, 20.0, 70.0, 61.0],
        removed_score=0.85,
        kept_box=[20.0, 15.0, 62.0, 56.0],
        kept_score=0.95,
        iou=0.55,
    )
