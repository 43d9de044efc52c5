"""The page of `compare` as a whole, read by an HTML parser; what its script does is tested in a browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from comparison_example import CLASSES, example_comparison
from report_html import Node, cells, gallery_data, parse

import detr_d2.compare.report
from detr_d2.compare.records.comparison import Comparison, DatasetSummary, ModelComparison
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.report.page import SECTIONS, render, write_report

_NAN = float("nan")
_EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(2)>\'"&$x^$'


# The page as a whole


def test_sections_stand_in_their_order_under_headings_that_skip_no_level(root: Node) -> None:
    assert [x.attributes["id"] for x in root.find_all("section")] == list(SECTIONS)
    levels = [int(x.tag[1]) for x in root.find_all() if re.fullmatch("h[1-6]", x.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert [x.text() for x in root.find_all("h2")] == [title for title, _ in SECTIONS.values()]
    links = {x.attributes["href"]: x.text() for x in root.find("nav").find_all("a")}
    assert links == {f"#{name}": short for name, (_, short) in SECTIONS.items()}


def test_every_section_of_a_full_record_has_something_to_show(root: Node) -> None:
    for section in root.find_all("section"):
        assert not [
            x.text() for x in section.find_all() if x.attributes.get("class") == "nothing" and "script" not in x.text()
        ]
        assert list(section.find_all("p"))
        assert [x for x in section.find_all() if x.tag in ("table", "figure", "article")]


def test_ids_are_unique_and_every_reference_has_its_target(page: str, root: Node) -> None:
    ids = [x.attributes["id"] for x in root.find_all() if "id" in x.attributes]
    assert len(ids) == len(set(ids))
    used = [x.attributes["href"] for x in root.find_all() if x.attributes.get("href", "").startswith("#")]
    used += [
        f"#{x.attributes[key]}" for key in ("for", "aria-labelledby") for x in root.find_all() if key in x.attributes
    ]
    used += re.findall(r"url\((#[^)]+)\)", page)
    assert len(used) > 50
    assert {name[1:] for name in used} <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page: str, root: Node) -> None:
    assert "://" not in page
    assert "@import" not in page
    for node in root.find_all():
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert node.attributes.get(key, "#").startswith(("#", "data:")), node
        assert not [key for key in node.attributes if key.startswith("on")]


def test_the_policy_allows_this_script_and_no_other(root: Node) -> None:
    policy = next(x.attributes["content"] for x in root.find_all("meta") if "http-equiv" in x.attributes)
    scripts = [x for x in root.find_all("script") if "type" not in x.attributes]
    ((code,),) = [x.children for x in scripts]
    assert isinstance(code, str)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_pictures_say_what_they_show(root: Node) -> None:
    described = [x for x in root.find_all() if x.attributes.get("role") == "img"]
    assert len(described) >= 14
    assert all(len(x.attributes["aria-label"]) > 10 for x in described)
    assert all("alt" in x.attributes for x in root.find_all("img"))
    assert all(x.attributes.get("aria-hidden") == "true" for x in root.find_all("svg"))


def test_controls_have_names(root: Node) -> None:
    labelled = {x.attributes["for"] for x in root.find_all("label") if "for" in x.attributes}
    inside = {id(x) for label in root.find_all("label") for x in label.find_all("input")}
    for control in [*root.find_all("input"), *root.find_all("select")]:
        assert control.attributes.get("id") in labelled or id(control) in inside
    assert all(x.text() for x in root.find_all("button"))


def test_the_head_fits_phones_and_both_colour_schemes(page: str, root: Node) -> None:
    assert root.find("html").attributes["lang"] == "en"
    assert root.find("meta", name="viewport").attributes["content"] == "width=device-width, initial-scale=1"
    assert root.find("meta", name="color-scheme").attributes["content"] == "light dark"
    for rule in ("(prefers-color-scheme: dark)", "(prefers-reduced-motion", "@media print", ":focus-visible"):
        assert rule in page


def test_how_it_was_made(root: Node) -> None:
    made = root.find("section", id="made")
    for text in (
        "python -m detr_d2 compare --dataset shapes_val",
        "3f" * 16,
        "detectron2 0.6",
        "a processor",
        "resamples 1000",
    ):
        assert text in made.text()
    table = cells(root, "made-table")
    assert table["Weights, SHA-256", "DETR"].text() == "ab" * 32
    assert table["IoU of its NMS", "Faster R-CNN"].text() == "0.50"
    assert table["Trained for", "DETR"].text() == "1,700 iterations of 16 images in 5:30 (min:s)"
    assert table["Trained for", "Faster R-CNN"].text() == "– : not known"
    assert table["Evaluated by", "DETR"].text().endswith("at most 100 detections of an image and class")
    assert table["Config", "RetinaNet"].text() == "retinanet.yaml"


def test_written_whole_into_a_new_folder(example: Comparison, page: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(example, path)
    assert path.read_text(encoding="utf-8") == page
    assert [x.name for x in path.parent.iterdir()] == ["report.html"]


def test_names_are_text_wherever_they_stand(images: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "<script>alert(3).png"
    file.write_bytes(Path(images[0]).read_bytes())
    record = example_comparison((str(file), f"{_EVIL}.png"))
    first, second, failed = record.models
    models = [
        replace(first, label=_EVIL, notes=[_EVIL], weights=_EVIL),
        second,
        replace(failed, failed=_EVIL, label=f"b{_EVIL}"),
    ]
    dataset = replace(record.dataset, name=_EVIL, class_names=[_EVIL, "b", "c"])
    shown = [replace(x, detections={_EVIL: x.detections["DETR"]}) for x in record.gallery]
    record = replace(
        record,
        models=models,
        dataset=dataset,
        gallery=shown,
        command=_EVIL,
        machine={_EVIL: _EVIL},
        settings={_EVIL: _EVIL},
    )
    root = parse(render(record))
    assert len(list(root.find_all("script"))) == 3
    assert not list(root.find_all("img", src="x"))
    assert root.find("title").text().endswith(_EVIL)
    assert cells(root, "classes-table")[_EVIL, "Objects"].text() == "60"
    assert _EVIL in [x.text() for x in root.find("table", id="summary-table").find_all("th")]
    assert any(_EVIL in x.attributes.get("aria-label", "") for x in root.find_all("div"))
    assert any(_EVIL in x.text() for x in root.find("section", id="gallery").find_all("li"))  # could not be read
    data = gallery_data(root)
    assert data["classes"][0] == _EVIL
    assert data["images"][0]["name"] == "<script>alert(3).png"
    assert len(data["images"][0]["detections"][0]["boxes"]) == 3


# What is missing


def test_a_failed_model_has_dashes_with_its_reason(root: Node) -> None:
    why = "– : RetinaNet failed, as said at the top"
    for name in ("summary-table", "operating-table", "nms-table", "counting-table", "errors-table", "cost-table"):
        column = [cell for (_, head), cell in cells(root, name).items() if head == "RetinaNet"]
        assert column
        assert {x.text() for x in column} == {why}
    assert "RetinaNet failed: no.pth does not fit the config." in root.find("header").text()
    assert [x.text() for x in root.find_all("figcaption")].count("RetinaNet") == 0


def test_a_figure_that_cannot_be_has_a_dash_with_its_reason(root: Node) -> None:
    table = cells(root, "classes-table")
    assert table[CLASSES[2], "AP, DETR"].text() == "– : no object of this class in the data"
    assert table[CLASSES[2], "AP, DETR"].attributes["data-sort"] == ""
    assert table["circle", "AP, DETR − Faster R-CNN"].text() == "−5.0"
    assert (
        cells(root, "crowds-table")["0.7 to 1, Faster R-CNN", "Lost to NMS (%)"].text().startswith("– : fewer than 20")
    )
    assert cells(root, "cost-table")["Images per second, 16 at once", "DETR"].text() == (
        "– : did not fit into memory, or failed"
    )
    notes = [x.text() for x in root.find_all("p", class_="reasons")]
    assert any(x.count("RetinaNet failed, as said at the top") == 1 for x in notes)  # once each


def test_notes_and_crashed_images_are_told(root: Node) -> None:
    text = root.find("header").text()
    assert "Faster R-CNN: it does not know the class 'triangle <b>'." in text
    assert (
        "Faster R-CNN could not process 1 image ; all objects there count as missed: images/007.png: RuntimeError"
        in text
    )


def test_a_record_with_nothing_in_it_is_a_page_of_sentences() -> None:
    dataset = DatasetSummary("none", "", "", 0, False, 0, 0, [], [], 0, "")
    root = parse(render(Comparison(dataset, [])))
    assert [x.attributes["id"] for x in root.find_all("section")] == ["summary", "made"]
    assert list(root.find("section", id="summary").find_all("p", class_="nothing"))
    assert not list(root.find_all("figure"))


def test_models_that_all_failed_leave_no_empty_sections(example: Comparison) -> None:
    failed = [replace(example.models[2], label=label) for label in ("a", "b")]
    root = parse(render(replace(example, models=failed, gallery=[], differences=[])))
    assert [x.attributes["id"] for x in root.find_all("section")] == ["summary", "made"]
    assert [x.attributes["href"] for x in root.find("nav").find_all("a")] == ["#summary", "#made"]
    assert list(root.find("section", id="summary").find_all("p", class_="nothing"))
    assert cells(root, "made-table")["Weights", "a"].text() == "no.pth"


def test_a_single_working_model_is_not_ahead_of_anything(example: Comparison) -> None:
    first, _, failed = example.models
    root = parse(render(replace(example, models=[first, failed], differences=[])))
    assert {head for _, head in cells(root, "summary-table")} == {"Measure", "DETR", "RetinaNet"}
    assert "named as ahead" not in root.text()
    assert "65.0" in root.find("article").text()
    gallery = root.find("section", id="gallery")
    assert gallery.find("h2").text() == "Pictures"
    assert "the images with most objects" in gallery.text().lower()
    assert "differ most" not in gallery.text()


@pytest.mark.parametrize(("number", "said"), [(1, "A single image tells"), (5, "5 images tell"), (6, "With 6 images")])
def test_few_images_are_said_to_be_few(example: Comparison, number: int, said: str) -> None:
    record = replace(example, dataset=replace(example.dataset, num_images=number))
    assert said in parse(render(record)).find("section", id="figures").text()


def test_a_model_that_ran_without_anything_measured(example: Comparison) -> None:
    run = example.models[0].run
    bare = [ModelComparison(label, "other", run, "", "", "") for label in ("a", "b")]
    root = parse(render(replace(example, models=bare, gallery=[], differences=[])))
    assert {cell.text() for (_, head), cell in cells(root, "summary-table").items() if head in "ab"} == {
        f"– : {why}" for why in ("not measured", "no object to find", "no object of this size", "no object is found")
    }
    assert list(root.find("section", id="gallery").find_all("p", class_="nothing"))


_KEYS = {"nms_threshold", "iou", "low", "high"}  # what a figure is of, which is always known


def test_figures_that_are_not_numbers_break_no_figure(example: Comparison) -> None:
    def blank(value: Any) -> Any:
        if isinstance(value, list):
            return [blank(x) for x in value]
        if is_dataclass(value) and not isinstance(value, type):
            known = {f.name: getattr(value, f.name) for f in fields(value)}
            kept = set() if isinstance(value, Interval) else _KEYS
            return replace(value, **{key: known[key] if key in kept else blank(known[key]) for key in known})
        return _NAN if isinstance(value, float) else value

    names = ("curves", "errors", "coco", "counting", "cost", "nms", "operating", "extra_boxes", "crowds", "cures")
    models = [replace(x, **{n: blank(getattr(x, n)) for n in names}, confidence={}) for x in example.models[:2]]
    root = parse(render(replace(example, models=models), gallery=0))
    assert cells(root, "summary-table")["AP", "DETR"].text() == "– : no object to find"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, example: Comparison, package: str) -> None:
    parts = [x for x in sys.modules if x.startswith("detr_d2.compare.report.")]
    for name in parts:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(detr_d2.compare.report, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'the report needs {package}: pip install "detr_d2\[report\]"'):
        render(example)
