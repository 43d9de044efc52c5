"""The page of looks in a browser: marks, list and keyboard show the same maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless_chromium import headless_chromium

from detr_d2.visualization.attention_page import save_attention_page
from detr_d2.visualization.looks import Frame, Look

_LONG = "a_name_without_any_space_that_is_far_wider_than_the_screen_of_a_phone_" * 2

# The brightest pixel of the canvas: x and y in parts of its size, and whether anything is drawn.
_BRIGHTEST = """
const canvas = document.querySelector("canvas"), context = canvas.getContext("2d");
const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
let best = 0, at = 0, drawn = false;
for (let i = 0; i < pixels.length; i += 4) {
  const sum = pixels[i] + pixels[i + 1] + pixels[i + 2];
  drawn = drawn || pixels[i + 3] > 0;
  if (pixels[i + 3] > 0 && sum > best) { best = sum; at = i / 4; }
}
return [(at % canvas.width) / canvas.width, Math.floor(at / canvas.width) / canvas.height, drawn];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_chromium() as driver:
        yield driver


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    """Two detections, the first of a map whose brightest cell is at the upper right, and three points."""
    frame = Frame(width=80, height=60, covered_width=100.0, covered_height=60.0, map_sizes=((3, 5),))
    heat, low = np.zeros((3, 5)), np.zeros((3, 5))
    heat[0, 3] = low[2, 0] = 1.0
    samples = np.array([[40.0, 30.0, 0.9, 0], [10.0, 50.0, 0.1, 1]])
    detections = [
        Look("cat 90%, query 3", box_xyxy=(40.0, 5.0, 75.0, 25.0), heat=heat),
        Look(_LONG, box_xyxy=(0.0, 0.0, 80.0, 60.0), samples=samples),
    ]
    points = [Look(f"point {x}, 10", point=(float(x), 10.0), heat=low) for x in (10, 40, 70)]
    groups = {"Decoder: detections": detections, "Encoder: points": points}
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    save_attention_page(tmp_path / "page.html", image, frame, groups, name=_LONG, model="detr", notes=[_LONG])
    browser.get_log("browser")
    browser.set_window_size(1000, 800)
    browser.get((tmp_path / "page.html").as_uri())
    yield browser
    assert [x for x in browser.get_log("browser") if x["level"] == "SEVERE"] == []


def elements(page: Any, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def now(page: Any) -> str:
    return elements(page, "#now")[0].text


def test_pointing_at_a_mark_shows_its_map(page: Any) -> None:
    from selenium.webdriver import ActionChains

    assert page.execute_script(_BRIGHTEST)[2] is False
    small, _ = elements(page, "#stage .box")
    ActionChains(page).move_to_element(small).perform()
    assert now(page).startswith("cat 90%, query 3: the brightest of 15 cells gets 100 %")
    x, y, _ = page.execute_script(_BRIGHTEST)
    assert x == pytest.approx(0.875, abs=0.13)  # the fourth of five cells over 100 pixels, of which the picture is 80
    assert y < 0.34


def test_the_keyboard_reaches_every_look(page: Any) -> None:
    from selenium.webdriver import Keys

    first = elements(page, "ol:not([hidden]) button")[0]
    page.execute_script("arguments[0].focus()", first)
    seen = [now(page)]
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT):
        page.switch_to.active_element.send_keys(key)
        seen.append(now(page))
    assert seen[0] == seen[2] != seen[1] == seen[3]  # around, and back
    assert page.execute_script(_BRIGHTEST)[2] is True


def test_the_groups_take_turns(page: Any) -> None:
    boxes, points = elements(page, "#stage .box"), elements(page, "#stage .point")
    assert [x.is_displayed() for x in (*boxes, *points)] == [True] * 2 + [False] * 3
    elements(page, "input[type=radio]")[1].click()
    assert [x.is_displayed() for x in (*boxes, *points)] == [False] * 2 + [True] * 3
    assert page.execute_script(_BRIGHTEST)[2] is False
    points[2].click()
    x, y, _ = page.execute_script(_BRIGHTEST)
    assert (x < 0.3, y > 0.6) == (True, True)
    elements(page, "#marks")[0].click()
    assert [x.is_displayed() for x in points] == [False] * 3
    assert len([x for x in elements(page, "ol button") if x.is_displayed()]) == 3


def test_nothing_is_wider_than_a_phone(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        elements(page, "ol:not([hidden]) button")[1].click()
        assert page.execute_script(_BRIGHTEST)[2] is True
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
