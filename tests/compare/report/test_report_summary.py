"""Winners and tables of the page of `compare`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from comparison_example import example_comparison
from report_html import Node, cells, parse

from detr_d2.compare.records.comparison import Comparison, Difference, ModelComparison, ShippedSettings
from detr_d2.compare.records.cost import StageLatency
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.report.cells import decimal, number, span
from detr_d2.compare.report.files import markdown_table
from detr_d2.compare.report.measures import LATENCY, MEASURES
from detr_d2.compare.report.page import render
from detr_d2.compare.report.verdicts import decide, paired_difference, verdict_of

_NAN = float("nan")


# Winners


def _between(values: dict[tuple[str, str], Interval]) -> Callable[[str, str], Interval | None]:
    record = replace(
        example_comparison(), differences=[Difference(*names, "ap", interval) for names, interval in values.items()]
    )
    return paired_difference(record, "ap")


@pytest.mark.parametrize(
    ("values", "differences", "higher", "winner", "text"),
    [
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (2, 1, 3)}, True, "a", "a"),
        ({"a": 5.0, "b": 3.0}, {("b", "a"): (-2, -3, -1)}, True, "a", "a"),  # the other way round
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (-2, -3, -1)}, True, None, "no clear winner"),  # contradicts the values
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (2, -1, 5)}, True, None, "no clear winner"),
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (2, 0, 4)}, True, None, "no clear winner"),
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (2, _NAN, _NAN)}, True, None, "no clear winner"),
        ({"a": 5.0, "b": 3.0}, {("a", "b"): (2, 1, 3)}, False, "b", "b"),
        ({"a": 3.0, "b": 5.0}, {("a", "b"): (-2, -3, -1)}, False, "a", "a"),
        ({"a": 3.0, "b": 5.0}, {("b", "a"): (2, 1, 3)}, False, "a", "a"),
        ({"a": 5.0, "b": 3.0}, {}, True, None, "highest: a"),
        ({"a": 5.0, "b": 3.0}, {}, False, None, "lowest: b"),
        ({"a": 5.0, "b": 5.0}, {}, True, None, "equal"),
        ({"a": 5.0, "b": _NAN}, {}, True, None, "–"),
        ({}, {}, True, None, "–"),
        ({"a": 5.0, "b": 3.0, "c": 1.0}, {("a", "b"): (2, 1, 3), ("a", "c"): (4, 3, 5)}, True, "a", "a"),
        (
            {"a": 5.0, "b": 3.0, "c": 4.9},
            {("a", "b"): (2, 1, 3), ("c", "a"): (-0.1, -1, 1)},
            True,
            None,
            "no clear winner",
        ),
        ({"a": 5.0, "b": 3.0, "c": 1.0}, {("a", "b"): (2, 1, 3)}, True, None, "highest: a"),
    ],
)
def test_a_winner_is_ahead_of_all_others_beyond_noise(
    values: dict[str, float],
    differences: dict[tuple[str, str], tuple[float, float, float]],
    higher: bool,
    winner: str | None,
    text: str,
) -> None:
    between = _between({names: Interval(*x) for names, x in differences.items()})
    verdict = decide(values, between, replace(MEASURES[0], higher=higher))
    assert (verdict.winner, verdict.text) == (winner, text)


@pytest.mark.parametrize(("second", "winner", "text"), [(4.0, "a", "a"), (3.0, None, "equal"), (2.0, "b", "b")])
def test_figures_without_noise_need_no_interval(second: float, winner: str | None, text: str) -> None:
    exact = replace(MEASURES[0], higher=False, exact=True)
    verdict = decide({"a": 3.0, "b": second}, lambda *_: None, exact)
    assert (verdict.winner, verdict.text) == (winner, text)


def test_summary_names_winners_where_the_difference_is_beyond_noise(root: Node) -> None:
    table = cells(root, "summary-table")
    assert table["AP", "DETR"].text() == "65.0 61.9 to 67.9"
    assert (
        table["AP", "Ahead"].text() == "Faster R-CNN by 5.0 (2.0 to 8.0) over DETR"
    )  # the record: DETR − it, −8 to −2
    assert table["AP50", "Ahead"].text() == "no clear winner Faster R-CNN − DETR: −3.5 to +2.5, which may be noise"
    best = {key for key, cell in table.items() if "best" in cell.attributes.get("class", "")}
    assert best == {("AP", "Faster R-CNN"), ("AP75", "Faster R-CNN")}
    assert table["AP, small objects", "Ahead"].text() == "highest: Faster R-CNN not tested against noise"
    assert table["Parameters (millions)", "Ahead"].text() == "equal"
    assert "Faster R-CNN has the highest AP, by 5.0 (2.0 to 8.0) over DETR" in root.find("p", class_="lead").text()


def test_too_few_images_name_no_winner(example: Comparison) -> None:
    unknown = [replace(x, difference=Interval(5.0, _NAN, _NAN)) for x in example.differences]
    record = replace(example, differences=unknown)
    verdict = verdict_of(record, MEASURES[0])
    assert (verdict.text, verdict.detail) == ("no clear winner", "too few images for an interval")
    latency = Difference("DETR", "Faster R-CNN", "latency_ms", Interval(5.0, _NAN, _NAN))
    assert verdict_of(replace(example, differences=[latency]), LATENCY).detail == "too few rounds for an interval"


def test_differences_say_which_may_be_noise(root: Node) -> None:
    rows = root.find("table", id="differences").find("tbody").find_all("tr")
    read = [[x.text() for x in row.children if isinstance(x, Node)] for row in rows]
    assert read == [
        ["DETR − Faster R-CNN", "AP", "−5.0", "−8.0 to −2.0", "beyond noise"],
        ["DETR − Faster R-CNN", "AP50", "+0.5", "−2.5 to +3.5", "may be noise"],
        ["DETR − Faster R-CNN", "AP75", "−7.0", "−10.0 to −4.0", "beyond noise"],
    ]


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([(10.0, 19.0), (20.0, 30.0)], "DETR its 95th percentile lies below the other medians"),
        ([(20.0, 30.0), (10.0, 19.0)], "Faster R-CNN its 95th percentile lies below the other medians"),
        ([(10.0, 21.0), (20.0, 30.0)], "no clear winner the spreads (median to 95th percentile) overlap"),
    ],
)
def test_the_fastest_model_is_named_where_the_spreads_are_apart(
    example: Comparison, times: list[tuple[float, float]], text: str
) -> None:
    models = [*_with_times(example, times), example.models[2]]
    verdict = verdict_of(replace(example, models=models), LATENCY)
    assert f"{verdict.text} {verdict.detail}" == text
    assert (verdict.winner is None) == text.startswith("no")


def test_a_measured_difference_of_times_is_preferred(example: Comparison) -> None:
    models = [*_with_times(example, [(10.0, 21.0), (20.0, 30.0)]), example.models[2]]
    difference = Difference("DETR", "Faster R-CNN", "latency_ms", Interval(-10.0, -11.0, -9.0))
    verdict = verdict_of(replace(example, models=models, differences=[difference]), LATENCY)
    assert (verdict.winner, verdict.detail) == ("DETR", "by 10.0 (9.0 to 11.0) over Faster R-CNN")


def _with_times(example: Comparison, times: list[tuple[float, float]]) -> list[ModelComparison]:
    models = []
    for model, time in zip(example.models, times, strict=False):
        assert model.cost is not None
        models.append(replace(model, cost=replace(model.cost, latency=[StageLatency("total", *time)])))
    return models


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
        "pairs_50": 0.05,
        "mean_absolute_error": 0.5,
        "latency_ms": 21.0,
        "parameters": pytest.approx(12.345678),
        "gflops": 3.21,
        "image_memory_mb": 312.5,
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
    assert cells(root, "crowding-table")["0.3 to 0.5", "Recall without NMS, DETR"].text() == "90.0"
    cost = cells(root, "cost-table")
    assert cost["Path of the backbone", "DETR"].text() == "fast"
    assert cost["of it transformer", "DETR"].text() == "7.5 ms 95 % below 9.8"
    assert cost["of it transformer", "Faster R-CNN"].text() == "– : not a part of this model"
    assert cost["Multiply-adds of one image", "DETR"].text() == "3.21 × 10⁹ mean of 10 images; grid sampler not counted"
    body = root.find("table", id="duplicates-table").find("tbody")
    rows = [[x.text() for x in row.children if isinstance(x, Node)] for row in body.find_all("tr")]
    assert rows[5] == ["Faster R-CNN", "with NMS (IoU 0.5)", "108", "0.00", "0.00", "0", "94", "0", "92", "5"]
