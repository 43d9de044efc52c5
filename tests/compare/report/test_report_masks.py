"""Masks and panoptic maps in page and tables: there if a model has them, nowhere if none has."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_html import Node, cells, parse

from detr_d2.compare.records.comparison import Comparison, load_comparison, save_comparison
from detr_d2.compare.report.files import latex_table, main_rows, markdown_table, models_csv
from detr_d2.compare.report.measures import MEASURES, measures_of
from detr_d2.compare.report.page import SECTIONS, render
from detr_d2.compare.report.summary import summary

HEADS = ["mask AP", "mask AP50", "boundary AP", "boundary IoU", "PQ", "SQ", "RQ"]


@pytest.fixture
def boxes_alone(example: Comparison) -> Comparison:
    return replace(example, models=[replace(x, masks=None, panoptic=None) for x in example.models])


def test_a_page_without_masks_does_not_speak_of_them(boxes_alone: Comparison) -> None:
    root = parse(render(boxes_alone))
    assert [x.attributes["id"] for x in root.find_all("section")] == [x for x in SECTIONS if x != "masks"]
    text = root.text()
    assert "Mask AP" not in text
    assert "anoptic" not in text
    assert main_rows(boxes_alone)[0][-1] == "weights (MB)"
    assert "mask_ap" not in models_csv(boxes_alone)
    assert measures_of(boxes_alone) == [x for x in MEASURES if not x.part]


def test_the_page_has_every_figure_of_masks_and_maps(root: Node) -> None:
    masks = cells(root, "masks-table")
    for name, value in (("Mask AP", "61.5"), ("Mask AP50", "83.5"), ("Boundary AP", "44.5"), ("Boundary AP50", "71.5")):
        assert masks[name, "DETR"].text() == value
    assert masks["Boundary IoU of what all find (median)", "DETR"].text() == "58.5 of 88 objects"
    assert masks["Mask AP, large objects", "DETR"].text().startswith("–")
    assert "Faster R-CNN has no masks" in masks["Mask AP", "Faster R-CNN"].text()
    maps = cells(root, "panoptic-table")
    for name, value in (("Panoptic quality (PQ)", "52.5"), ("PQ, things", "48.5"), ("RQ, stuff", "67.5")):
        assert maps[name, "DETR"].text() == value


def test_masks_alone_leave_the_maps_out(example: Comparison) -> None:
    without = replace(example, models=[replace(x, panoptic=None) for x in example.models])
    text = parse(render(without)).text()
    assert "Mask AP" in text
    assert "Panoptic" not in text
    assert [x for x in main_rows(without)[0] if x in HEADS] == HEADS[:4]


def test_the_summary_has_the_main_figures_after_ap(example: Comparison) -> None:
    names = [line[0].text for line in summary(example).rows]
    assert names[5:9] == ["AP, large objects", "Mask AP", "Boundary AP", "Panoptic quality (PQ)"]
    assert [line[1].text for line in summary(example).rows[6:9]] == ["61.5", "44.5", "52.5"]


def test_tables_have_columns_of_masks(example: Comparison) -> None:
    head, detr, rcnn, _ = main_rows(example)
    first = head.index("mask AP")
    assert head[first - 1 : first + 8] == ["APl", *HEADS, "AR"]
    assert detr[first : first + 7] == ["61.5", "83.5", "44.5", "58.5", "52.5", "81.5", "63.5"]
    assert rcnn[first : first + 7] == ["-"] * 7
    assert re.search(r"\|\s+mask AP \|", markdown_table(example))
    assert re.search(r"&\s+boundary AP &", latex_table(example))
    rows = list(csv.DictReader(io.StringIO(models_csv(example))))
    assert (rows[0]["mask_ap"], rows[0]["boundary_iou"], rows[0]["pq"], rows[1]["pq"]) == ("61.5", "58.5", "52.5", "")


def test_results_keep_the_figures_and_older_files_have_none(example: Comparison, tmp_path: Path) -> None:
    import json

    save_comparison(example, tmp_path / "a.json")
    again = load_comparison(tmp_path / "a.json")
    assert again.models[0].panoptic == example.models[0].panoptic
    assert again.models[0].masks is not None
    assert again.models[0].masks.boundary_ap == 44.5
    content = json.loads((tmp_path / "a.json").read_text())
    for model in content["models"]:
        del model["masks"], model["panoptic"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert load_comparison(tmp_path / "old.json").models[0].masks is None
