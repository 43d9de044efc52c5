"""The summary and the tables of the page of `compare`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from example_variants import with_predictions
from report_html import Node, cells, parse

from detr_d2.compare.records.comparison import Comparison, ShippedSettings
from detr_d2.compare.report.cells import decimal, number, span
from detr_d2.compare.report.files import markdown_table
from detr_d2.compare.report.measures import MEASURES
from detr_d2.compare.report.page import render
from detr_d2.compare.report.summary import interval_notes

_NAN = float("nan")


def test_summary_names_winners_where_the_difference_is_beyond_noise(root: Node) -> None:
    table = cells(root, "summary-table")
    assert table["AP", "DETR"].text() == "65.0 61.9 to 67.9"
    assert (
        table["AP", "Ahead"].text() == "Faster R-CNN by 5.0 (2.0 to 8.0) over DETR"
    )  # the record: DETR − it, −8 to −2
    assert table["AP50", "Ahead"].text().startswith("no clear winner")
    assert "−3.5 to +2.5" in table["AP50", "Ahead"].text()
    best = {key for key, cell in table.items() if "best" in cell.attributes.get("class", "")}
    extra = "Extra boxes per found object (%)"
    assert best == {("AP", "Faster R-CNN"), ("AP75", "Faster R-CNN"), (extra, "Faster R-CNN")}
    assert table["AP, small objects", "Ahead"].text() == "highest: Faster R-CNN not tested against noise"
    assert table["Parameters (millions)", "Ahead"].text() == "equal"


def test_differences_say_which_may_be_noise(root: Node) -> None:
    rows = root.find("table", id="differences").find("tbody").find_all("tr")
    read = [[x.text() for x in row.children if isinstance(x, Node)] for row in rows]
    assert read[:3] == [
        ["DETR − Faster R-CNN", "AP", "−5.0", "−8.0 to −2.0", "beyond noise"],
        ["DETR − Faster R-CNN", "AP50", "+0.5", "−2.5 to +3.5", "may be noise"],
        ["DETR − Faster R-CNN", "AP75", "−7.0", "−10.0 to −4.0", "beyond noise"],
    ]


def test_every_measure_of_the_summary_reads_another_figure(example: Comparison) -> None:
    assert len({measure.key for measure in MEASURES}) == len({measure.name for measure in MEASURES}) == len(MEASURES)
    values = {x.key: x.value(example.models[0]) for x in MEASURES if x.summary and not x.part}
    assert values == {
        "ap": 65.0,
        "ap50": 85.0,
        "ap75": 73.0,
        "ap_small": 45.0,
        "ap_medium": 65.0,
        "ap_large": 75.0,
        "ar_max": 68.0,
        "recall": 64.0,  # 90 − 40 × 0.65
        "extra": pytest.approx(7.0),  # 20 × 0.35
        "count_error": pytest.approx(1.1),  # 4 × 0.15 + 0.5
        "latency_ms": 21.0,
        "parameters": pytest.approx(12.345678),
        "gflops": 3.21,
        "image_memory_mb": 42.5,
        "weights_memory_mb": 49.25,
    }


# Numbers


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1234.56, 1, "1,234.6"),
        (-1.25, 1, "−1.2"),
        (-0.04, 1, "0.0"),
        (0.0, 0, "0"),
        (-0.06, 1, "−0.1"),
        (100.0, 0, "100"),
    ],
)
def test_numbers_as_read(value: float, digits: int, text: str) -> None:
    assert decimal(value, digits) == text


def test_signed_numbers_and_spans() -> None:
    assert [decimal(x, sign=True) for x in (1.0, -1.0, 0.0)] == ["+1.0", "−1.0", "0.0"]
    assert span(-1.0, 2.0, sign=True) == "−1.0 to +2.0"
    assert span(_NAN, 2.0) == ""


@pytest.mark.parametrize("value", [None, _NAN, math.inf])
def test_what_is_no_number_is_a_dash(value: float | None) -> None:
    cell = number(value, reason="why")
    assert (cell.text, cell.reason, cell.sort) == ("–", "why", None)


def test_tables_hold_the_figures_of_the_record(root: Node, example: Comparison) -> None:
    nms = cells(root, "nms-table")
    assert nms["NMS at IoU 0.5", "Faster R-CNN"].text() == "70.0 200.0 per image, as shipped"
    assert nms["without NMS", "Faster R-CNN"].text() == "30.0 300.0 per image"
    assert nms["without NMS", "DETR"].text() == "65.0 20.0 per image, as shipped"  # its last layer
    assert nms["NMS at IoU 0.3", "DETR"].text() == "64.2 20.0 per image"  # 65 − (1.1 − 0.3)
    stays = replace(example.models[1], shipped=ShippedSettings(None, _NAN, 10**6, None, nms_switched_off=False))
    other = parse(render(replace(example, models=[example.models[0], stays])))
    assert "cannot be switched off" in cells(other, "nms-table")["without NMS", "Faster R-CNN"].text()
    assert cells(other, "made-table")["Most detections of an image", "Faster R-CNN"].text() == "no limit"
    assert " - |" in markdown_table(replace(example, models=[stays]))
    layers = cells(root, "layers-table-0")
    assert [layers[str(i), "none"].text() for i in (1, 2, 3)] == ["55.0", "60.0", "65.0"]
    assert layers["1", "0.3"].text() == "55.8"
    counting = cells(root, "counting-table")
    assert counting["Size of the error, images with 3 to 6 objects", "DETR"].text() == "0.75 4.0 found, 3.8 there"
    queries = cells(root, "queries-table")
    assert queries["Missed in images with 3 to 6 objects", "DETR"].text() == "9.0 % 6 of 67"
    assert {head for _, head in queries} == {"Measure", "DETR"}
    assert cells(root, "errors-table")["both", "DETR"].text() == "0.1 1 error"
    crowds = cells(root, "crowds-table")
    assert crowds["0.5 to 0.7, Faster R-CNN", "Found (%)"].text() == "46.0 40.0 to 52.0"  # 66 − 20
    assert crowds["0.5 to 0.7, Faster R-CNN", "Without NMS (%)"].text() == "56.0 51.0 to 61.0"
    assert crowds["0.5 to 0.7, Faster R-CNN", "By chance (%)"].text() == "51.0"
    assert crowds["0.5 to 0.7, Faster R-CNN", "Lost to NMS (%)"].text() == "5.0 3.0 to 7.0"
    assert crowds["0.5 to 0.7, DETR", "Lost to NMS (%)"].text().startswith("–")
    cost = cells(root, "cost-table")
    assert cost["Path of the backbone", "DETR"].text() == "fast"
    assert cost["of it transformer", "DETR"].text() == "7.5 ms 95 % below 9.8"
    assert cost["of it transformer", "Faster R-CNN"].text() == "– : not a part of this model"
    assert cost["Multiply-adds of one image", "DETR"].text() == "3.21 × 10⁹ mean of 10 images; grid sampler not counted"
    assert cost["Memory: one image adds", "DETR"].text() == "42 MB the largest timed"
    assert cost["of it NMS", "Faster R-CNN"].text() == "0.5 ms 95 % below 0.7"
    assert rows_of(root, "extra-table")[1:] == [
        ["DETR", "with NMS (IoU 0.5)", "101", "88", "1.1", "3.5", "2"],
        ["Faster R-CNN", "shipped (IoU 0.5)", "110", "90", "0.5", "2.5", "4"],
        ["Faster R-CNN", "without NMS", "412", "94", "338.3", "12.8", "0"],
        ["RetinaNet", *["– : RetinaNet failed, as said at the top"] * 6],
        [
            "Ground truth",
            "with NMS (IoU 0.5)",
            "100",
            *["– : not asked of the ground truth"] * 3,
            "12.0 % of the objects",
        ],
    ]
    cures = rows_of(root, "cures-table")
    assert [row[:3] for row in cures] == [
        ["DETR", "as shipped", "65.0"],
        ["DETR", "NMS (MODEL.DETR.NMS_THRESH_TEST 0.7)", "65.4 +0.4"],
        ["DETR", "one label per query (MODEL.DETR.ONE_CLASS_PER_QUERY True)", "64.5 −0.5"],
    ]


def rows_of(root: Node, table: str) -> list[list[str]]:
    """Text of the cells of every row."""
    body = root.find("table", id=table).find("tbody")
    return [[x.text() for x in row.children if isinstance(x, Node)] for row in body.find_all("tr")]


def test_classes_with_few_objects_are_named(example: Comparison) -> None:
    counts = {"circle": 60, "square": 19, "triangle": 20, "star": 1, "none": 0}
    data = replace(example.dataset, class_names=list(counts), objects_per_class=list(counts.values()))
    (note,) = [x for x in interval_notes(replace(example, dataset=data)) if "too narrow" in x]
    assert "square (19), star (1)" in note
    assert "triangle" not in note
    assert not [x for x in interval_notes(example) if "too narrow" in x]


@pytest.mark.usefixtures("no_figures")
def test_predictions_and_given_costs_are_marked(example: Comparison) -> None:
    root = parse(render(with_predictions(example)))
    assert cells(root, "summary-table")["Parameters (millions)", "Faster R-CNN"].text().endswith("as given")
    assert "looks filtered at 0.6" in root.find("section", id="nms").text()
    assert "looks filtered at 0.6" in cells(root, "made-table")["Its detections", "Faster R-CNN"].text()
    assert cells(root, "cost-table")["Measured on", "Faster R-CNN"].text() == "nothing: as given by the user"
