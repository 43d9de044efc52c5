"""The file of a comparison, and the tables made from it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison_example import example_comparison

from detr_d2.compare.records.comparison import load_comparison, save_comparison
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.records.files import to_json
from detr_d2.compare.report.files import (
    latex_table,
    main_rows,
    markdown_table,
    models_csv,
    nms_csv,
    per_class_csv,
    text_table,
)
from detr_d2.compare.report.measures import MEASURES, nms_point


def test_round_trip(tmp_path: Path) -> None:
    example = example_comparison()
    save_comparison(example, tmp_path / "a.json")
    loaded = load_comparison(tmp_path / "a.json")
    assert repr(loaded) == repr(example)  # NaN is not equal to itself
    assert math.isnan(loaded.models[0].crowds[1].recall.value)
    assert loaded.models[0].shipped is not None
    assert loaded.models[0].shipped.nms_threshold is None
    assert loaded.models[1].query_limit is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("dataset"), r"missing keys \['dataset'\] at the top"),
        (lambda x: x["models"][1].update(speed=3), r"keys \['speed'\] at models\[1\]"),
        (
            lambda x: x["models"][0]["nms"][2].update(layer="two"),
            r"models\[0\]\.nms\[2\]\.layer is 'two', expected int",
        ),
        (lambda x: x["dataset"].update(num_images=True), r"dataset\.num_images is True, expected int"),
        (lambda x: x["models"][0]["confidence"].update(ap=5), r"models\[0\]\.confidence\.ap is 5, expected dict"),
        (lambda x: x.update(format=99), "its format is not 3; make it again"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    content = {"format": 3, **to_json(example_comparison())}
    change(content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        load_comparison(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json"))


def test_no_json_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe nothing")
    with pytest.raises(ValueError, match=r"a\.json is not a result of `compare`"):
        load_comparison(tmp_path / "a.json")


def test_main_table() -> None:
    head, detr, rcnn, failed = main_rows(example_comparison())
    assert head[:3] == ["model", "AP", "AP50"]
    cells = dict(zip(head, detr, strict=True))
    assert (cells["AP"], cells["AP50"], cells["GFLOPs"], cells["MB/image"]) == ("65.0", "85.0", "3.2", "42")
    assert cells["AP without NMS"] == "65.0"
    assert dict(zip(head, rcnn, strict=True))["AP without NMS"] == "30.0"
    assert failed == ["RetinaNet *", *["-"] * 20]  # 13 of boxes, 4 of masks, 3 of panoptic maps


def test_the_point_of_an_nms_is_that_of_the_last_layer() -> None:
    detr = example_comparison().models[0]
    point = nms_point(detr, 0.5)
    assert point is not None
    assert point.layer == 3
    assert nms_point(detr, 0.123) is None


def test_markdown_and_latex_escape_labels() -> None:
    example = example_comparison()
    named = replace(example, models=[replace(example.models[0], label="a|b_c & 5%")])
    assert "| a\\|b_c & 5% " in markdown_table(named)
    tag = replace(example, models=[replace(example.models[0], label="<b>")])
    assert "| &lt;b> " in markdown_table(tag)
    assert r"a|b\_c \& 5\% " in latex_table(named)
    assert latex_table(named).count(r"\\") == 2


def test_markdown_tells_intervals_and_failures() -> None:
    text = markdown_table(example_comparison())
    assert "- DETR: AP 65.0, 95 % interval 61.9 to 67.9" in text
    assert "* RetinaNet failed: no.pth does not fit the config" in text
    unknown = {"ap": Interval(1.0, math.nan, math.nan)}
    few = [replace(x, confidence=unknown) for x in example_comparison().models]
    assert "nan" not in markdown_table(replace(example_comparison(), models=few))


def test_csv_keeps_full_precision_and_leaves_unknown_cells_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(models_csv(example_comparison()))))
    assert list(rows[0]) == [
        *("model", "config_file", "weights", "failed", "ap_low", "ap_high"),
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("mask_ap", "mask_ap50", "boundary_ap", "boundary_iou", "pq", "sq", "rq"),
        *("ar_max", "ap_without_nms", "recall", "extra", "count_error"),
        *("parameters_m", "gflops", "latency_p50_ms", "image_memory_mb", "weights_memory_mb"),
    ]
    assert [x["model"] for x in rows] == ["DETR", "Faster R-CNN", "RetinaNet"]
    assert float(rows[0]["ap_low"]) == 61.9
    assert rows[2]["ap"] == rows[2]["gflops"] == ""
    assert rows[2]["failed"] == "no.pth does not fit the config"
    classes = list(csv.DictReader(io.StringIO(per_class_csv(example_comparison()))))
    assert [x["class"] for x in classes[:3]] == ["circle", "square", "triangle <b>"]
    assert classes[2]["ap"] == ""
    points = list(csv.DictReader(io.StringIO(nms_csv(example_comparison()))))
    assert len(points) == 4 * 15
    assert points[0]["nms_threshold"] == ""
    assert [x["shipped"] for x in points].count("1") == 2


def test_every_table_holds_the_same_figures() -> None:
    example = example_comparison()
    expected = main_rows(example)
    markdown = [[x.strip() for x in line.strip("|").split("|")] for line in markdown_table(example).splitlines()[:5]]
    assert [markdown[0], *markdown[2:]] == expected
    assert all(cell.endswith("-:") for cell in markdown[1][1:])
    latex = [line for line in latex_table(example).splitlines() if line.endswith(r"\\")]
    assert [[x.strip() for x in line.removesuffix(r"\\").split("&")] for line in latex] == expected
    text = text_table(example).splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in (text[0], *text[2:])] == expected
    rows = list(csv.DictReader(io.StringIO(models_csv(example))))
    for measure in (x for x in MEASURES if x.head):
        value = rows[0][measure.csv or measure.key]
        assert expected[1][expected[0].index(measure.head)] == f"{float(value):.{measure.digits}f}"


def test_classes_of_few_objects() -> None:
    dataset = replace(example_comparison().dataset, class_names=["a", "b", "c", "d"], objects_per_class=[0, 1, 19, 20])
    assert dataset.rare_classes == ["b", "c"]  # nothing depends on "a"
