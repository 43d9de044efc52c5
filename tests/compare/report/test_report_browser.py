"""The page of `compare` in headless Chromium, without network.

Skipped where Chromium, its driver or selenium is missing; DETR_D2_REQUIRE_BROWSER=1 makes that a failure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_example import example_comparison
from PIL import Image

from detr_d2.compare.records.comparison import Comparison, ModelComparison
from detr_d2.compare.records.figures import ClassMetrics
from detr_d2.compare.records.pictures import Boxes
from detr_d2.compare.report.page import write_report

_LONG = "a_name_without_any_space_that_is_far_wider_than_the_screen_of_a_phone_" * 2


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The example, with four classes, names that are too long, and a box of another class on top of another."""
    folder = tmp_path_factory.mktemp("images")
    files = tuple(str(folder / f"{i}.png") for i in range(2))
    for file in files:
        Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(file)
    example = example_comparison((files[0], files[1]))
    names = ["circle", "square", "triangle", _LONG]
    dataset = replace(example.dataset, class_names=names, objects_per_class=[9, 100, 0, 20])
    models = [_with_classes(model, names) for model in example.models]
    models[2] = replace(models[2], label=_LONG)
    first, second = example.gallery
    crowd = replace(first.objects, boxes=[*first.objects.boxes, [0.0, 60.0, 60.0, 96.0]], classes=[0, 0, 1, 1])
    first = replace(first, objects=replace(crowd, crowd=[False, False, False, True]))
    # IoU: 1. Class-wise NMS keeps the first two, and the second stands on the crowd region of its class. The third
    # would count in an image of the other half.
    twins = Boxes([[5.0, 65.0, 50.0, 90.0]] * 3, [0, 1, 0], [0.9, 0.7, 0.65], [True, False, True])
    second = replace(second, detections={"DETR": twins})
    return replace(example, dataset=dataset, models=models, gallery=[first, replace(second, objects=first.objects)])


def _with_classes(model: ModelComparison, names: list[str]) -> ModelComparison:
    if model.coco is None:
        return model
    aps = [9.5, 80.0, float("nan"), 10.25]
    per_class = [ClassMetrics(name, 1, ap, ap, ap) for name, ap in zip(names, aps, strict=True)]
    return replace(model, coco=replace(model.coco, per_class=per_class))


@pytest.fixture(scope="module")
def url(record: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(record, path)
    return path.as_uri()


@pytest.fixture
def page(browser: Any, url: str) -> Any:
    """The page, freshly opened at the size of a desk; the test fails if the browser complains of anything."""
    browser.get_log("browser")
    _resize(browser, 1200)
    browser.get(url)
    yield browser
    assert browser.get_log("browser") == []


def _resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _css(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def _boxes(browser: Any) -> list[int]:
    """Number of boxes drawn per panel: ground truth, DETR, Faster R-CNN."""
    script = "return [...document.querySelectorAll('.frame')].map((x) => x.querySelectorAll('svg .box').length)"
    return browser.execute_script(script)


def _counts(browser: Any) -> list[str]:
    return [x.text for x in browser.find_elements("css selector", ".frame .count")]


def _press(browser: Any, selector: str, *keys: str) -> None:
    """Keys of a keyboard, by their names in selenium."""
    from selenium.webdriver.common.keys import Keys

    _css(browser, selector).send_keys(*(getattr(Keys, key) for key in keys))


def _choose(browser: Any, mode: str) -> None:
    _css(browser, f"input[name=mode][value={mode}]").click()


def test_it_opens_offline_and_asks_for_nothing(page: Any) -> None:
    assert page.title == "Detectors compared on shapes_val"
    script = "return performance.getEntriesByType('resource').map((x) => x.name).filter((x) => !x.startsWith('data:'))"
    assert page.execute_script(script) == []
    assert page.execute_script("return [...document.images].every((x) => x.complete && x.naturalWidth > 0)")
    assert _css(page, "#gallery-app").is_displayed()


def test_the_log_of_the_browser_is_read(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.html").write_text("<script>throw new Error('seen')</script>")
    browser.get((tmp_path / "broken.html").as_uri())
    assert "seen" in browser.get_log("browser")[0]["message"]


# Gallery, whose images are of half 0 and 1. DETR counts from score 0.6 and 0.7 on, Faster R-CNN from 0.7 and 0.8.
# Faster R-CNN has five boxes: 0.99 and 0.95 on the first object (IoU 1443 / 1716 = 0.841 with each other),
# 0.85 on the second, 0.8 and 0.3 on the third (IoU 1794 / 2183 = 0.822). DETR has 0.98, 0.91 and 0.4, one each.


def test_gallery_begins_with_what_the_models_ship(page: Any) -> None:
    assert _boxes(page) == [4, 2, 3]
    assert _counts(page) == [
        "3 objects",
        "2 boxes: 2 right, 0 wrong or double; 1 missed",
        "3 boxes: 3 right, 0 wrong or double; 0 missed",
    ]


def test_switch_turns_nms_off_and_on(page: Any) -> None:
    assert not _css(page, "#gallery-iou").is_enabled()
    _choose(page, "all")
    assert _boxes(page) == [4, 2, 4]
    assert _counts(page)[2] == "4 boxes: 3 right, 1 wrong or double; 0 missed"
    assert len(page.find_elements("css selector", ".frame:nth-child(3) .box.wrong")) == 1
    _choose(page, "nms")
    assert _boxes(page) == [4, 2, 3]
    _press(page, "#gallery-iou", "END")  # 0.95 is above every overlap
    assert _css(page, "#gallery-iou-value").text == "0.95"
    assert _boxes(page) == [4, 2, 4]
    _press(page, "#gallery-iou", *["ARROW_LEFT"] * 2)  # 0.85: still above 0.841
    assert _boxes(page) == [4, 2, 4]
    _press(page, "#gallery-iou", "ARROW_LEFT")
    assert _css(page, "#gallery-iou-value").text == "0.80"
    assert _boxes(page) == [4, 2, 3]


def test_slider_shows_boxes_of_lower_scores(page: Any) -> None:
    _choose(page, "all")
    _press(page, "#operating-score", "ARROW_RIGHT")
    assert _css(page, "#operating-value").text == "0.05 for all"
    assert _boxes(page) == [4, 3, 5]
    _choose(page, "nms")
    assert _boxes(page) == [4, 3, 3]  # 0.841 and 0.822 are above 0.5
    _press(page, "#gallery-iou", "HOME")  # 0.3: DETR's overlap is 570 / 2550 = 0.22
    assert _boxes(page) == [4, 3, 3]
    _press(page, "#operating-score", "END")  # 0.95
    assert _boxes(page) == [4, 1, 1]
    assert _counts(page)[1].startswith("1 box: 1 right")


def test_nms_is_class_wise_and_crowds_count_neither_way(page: Any) -> None:
    _press(page, "#gallery-next", "ENTER")
    assert _css(page, "#gallery-image").get_property("selectedIndex") == 1
    assert _boxes(page) == [4, 1, 0]  # 0.9; the other has just the operating score of this half, 0.7
    _choose(page, "nms")
    assert _boxes(page) == [4, 2, 0]  # equal boxes of two classes
    assert _counts(page)[1] == "2 boxes: 0 right, 1 wrong or double; 3 missed"
    assert len(page.find_elements("css selector", ".frame:nth-child(2) .box.ignored")) == 1


def test_images_are_chosen_by_keyboard(page: Any) -> None:
    first = _css(page, ".frame img")
    assert first.get_attribute("alt") == "0.png: Ground truth"
    assert not _css(page, "#gallery-previous").is_enabled()
    _press(page, "#gallery-image", "ARROW_DOWN")
    assert first.get_attribute("alt") == "1.png: Ground truth"
    assert not _css(page, "#gallery-next").is_enabled()
    _press(page, "#gallery-previous", "SPACE")
    assert first.get_attribute("alt") == "0.png: Ground truth"


def test_boxes_lie_where_the_objects_are(page: Any) -> None:
    script = """
        const frame = document.querySelector('.frame .picture').getBoundingClientRect();
        const box = document.querySelectorAll('.frame svg .box .line')[3].getBoundingClientRect();  // the first object
        return [box.left - frame.left, box.top - frame.top, box.right - frame.left, box.bottom - frame.top]
            .map((x) => x * 128 / frame.width)"""
    assert page.execute_script(script) == pytest.approx([10, 10, 50, 50], abs=1.5)  # half a line's width


def test_labels_can_be_switched_off_and_are_text(page: Any) -> None:
    labels = [x.text for x in page.find_elements("css selector", ".frame:nth-child(2) .box text")]
    assert sorted(labels) == ["circle 0.91", "circle 0.98"]
    _css(page, "#gallery-labels").click()
    assert page.find_elements("css selector", ".box text") == []
    assert _boxes(page) == [4, 2, 3]


def test_changes_are_said_once_they_are_made(page: Any) -> None:
    _choose(page, "all")
    said = _css(page, "#gallery-status").get_attribute("textContent")
    assert "Faster R-CNN: 4 boxes: 3 right, 1 wrong or double; 0 missed." in said


# Tables


def _column(page: Any, index: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('#classes-table tbody tr')].map((x) => x.cells[arguments[0]].innerText)"
    )
    return [text.split("\n")[0] for text in page.execute_script(script, index)]


def _sorted_columns(page: Any) -> list[str | None]:
    return [x.get_attribute("aria-sort") for x in page.find_elements("css selector", "#classes-table thead th")]


def test_a_table_sorts_by_numbers_both_ways_with_dashes_last(page: Any) -> None:
    assert set(_sorted_columns(page)) == {"none"}
    button = "#classes-table thead th:nth-child(3) button"
    _css(page, button).click()
    assert _sorted_columns(page)[:4] == ["none", "none", "descending", "none"]
    assert _column(page, 0) == ["square", _LONG, "circle", "triangle"]  # as text, 9.5 would stand before 80
    assert _column(page, 1) == ["100", "20", "9", "0"]
    _press(page, button, "ENTER")
    assert _sorted_columns(page)[2] == "ascending"
    assert _column(page, 0) == ["circle", _LONG, "square", "triangle"]


def test_a_table_sorts_by_names(page: Any) -> None:
    button = "#classes-table thead th:nth-child(1) button"
    _press(page, button, "SPACE")
    assert _sorted_columns(page)[0] == "ascending"
    assert _column(page, 0) == [_LONG, "circle", "square", "triangle"]
    _press(page, button, "SPACE")
    assert _column(page, 0) == ["triangle", "square", "circle", _LONG]
    _css(page, "#classes-table thead th:nth-child(2) button").click()
    assert _sorted_columns(page)[:2] == ["none", "descending"]
    assert _column(page, 1) == ["100", "20", "9", "0"]


# The slider of the operating point


def _table(page: Any, name: str) -> list[list[str]]:
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map((row) =>
        [...row.cells].map((cell) => (cell.querySelector('.value') ?? cell).textContent.trim()))"""
    return page.execute_script(script, name)


def _heights(page: Any, line: str) -> list[float]:
    """Of the points of a line in the figure of crowds, in percent."""
    script = """
        const plot = document.querySelector('#fig-crowds-recall svg:has([data-line])');
        const numbers = (name) => plot.querySelector(`[data-line="${name}"] path`)
            .getAttribute('d').match(/-?[\\d.]+/g).map(Number);
        const [, zero, , hundred] = numbers('scale');
        return numbers(arguments[0]).filter((_, i) => i % 2).map((y) => 100 * (y - zero) / (hundred - zero));"""
    return page.execute_script(script, line)


def test_the_slider_moves_figures_crowds_and_counting_together(page: Any) -> None:
    own = {name: _table(page, name) for name in ("operating-table", "crowds-table")}
    assert own["operating-table"][0][1] == "0.600 and 0.700"
    assert own["operating-table"][2][1:3] == ["64.0 %", "66.0 %"]
    heights = _heights(page, "1.crowds")
    assert heights == pytest.approx([66, 64, 60, 46, 36], abs=0.1)
    _press(page, "#operating-score", *["ARROW_RIGHT"] * 4)  # 0.2
    table = {row[0]: row[1:3] for row in _table(page, "operating-table")}
    assert table["Lowest score that counts"] == ["0.20", "0.20"]
    assert table["Precision"] == ["68.0 %", "68.0 %"]
    assert table["Recall"] == ["82.0 %", "88.0 %"]  # 90 − 8, and 6 more
    assert table["Extra boxes (% of found objects)"] == ["16.0", "1.6"]
    assert table["Counting error per image"] == ["1.70", "1.70"]
    crowds = {row[0]: row for row in _table(page, "crowds-table")}
    assert crowds["0.5 to 0.7, Faster R-CNN"][2:4] == ["68.0", "78.0"]
    assert _heights(page, "1.crowds") == pytest.approx([88, 86, 82, 68, 58], abs=0.1)
    assert _heights(page, "1.crowds_without_nms") == pytest.approx([88, 87, 85, 78, 73], abs=0.1)
    hidden = "return getComputedStyle(document.querySelector('[data-line=own]')).visibility"
    assert page.execute_script(hidden) == "hidden"  # intervals are of the operating point
    _css(page, "#operating-reset").click()
    assert _css(page, "#operating-value").text == "each model’s own"
    assert {name: _table(page, name) for name in own} == own
    assert _heights(page, "1.crowds") == pytest.approx(heights)
    assert page.execute_script(hidden) == "visible"


def test_the_line_of_the_slider_stands_at_its_score(page: Any) -> None:
    _press(page, "#operating-score", *["ARROW_RIGHT"] * 10)  # 0.5
    script = """
        const [moved, end, plot] = ['[data-line=score-0]', '[data-line=score-1]', '.plot svg:has([data-line=score-0])']
            .map((x) => document.querySelector(x).getBoundingClientRect());
        const start = Number(document.querySelector('[data-line=score-0] path').getAttribute('d').match(/[\\d.]+/)[0]);
        const scale = plot.width / document.querySelector('.plot svg:has([data-line=score-0])').viewBox.baseVal.width;
        const first = plot.left + start * scale;
        return (moved.left + moved.width / 2 - first) / (end.left + end.width / 2 - first);"""
    assert page.execute_script(script) == pytest.approx(0.5, abs=0.01)


# Screens, paper, keyboard


def test_light_and_dark(page: Any) -> None:
    def colours(scheme: str) -> list[int]:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        script = """return ['body', '.plot svg text'].map((x, i) =>
            getComputedStyle(document.querySelector(x))[i ? 'fill' : 'backgroundColor'])"""
        return [sum(map(int, text[4:-1].split(","))) for text in page.execute_script(script)]

    paper, ink = colours("light")
    assert (paper, ink < 200) == (3 * 255, True)
    paper, ink = colours("dark")
    assert (paper < 100, ink > 600) == (True, True)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_paper_shows_what_is_folded(page: Any) -> None:
    folded = "return document.querySelectorAll('details:not([open])').length"
    before = page.execute_script(folded)
    assert before > 3
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(folded) == 0
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(folded) == before
    assert len(page.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 10_000


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(200):
        ActionChains(page).send_keys(Keys.TAB).perform()
        active = page.switch_to.active_element
        if active.tag_name == "body":
            break
        seen.append(active.get_attribute("id") or active.text)
        assert active.value_of_css_property("outline-style") != "none"
        if len(seen) == 1:
            assert active.location["x"] >= 0  # the link that skips the sections
    assert seen[0] == "Skip to the summary"
    assert {"operating-score", "gallery-image", "gallery-next", "gallery-labels"} <= set(seen)
    assert any(text.startswith("AP50, DETR") for text in seen)
    assert "The numbers" in seen
