"""The page of looks: complete in itself, escaped, exact to a byte."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detr_d2.visualization.attention_page import save_attention_page
from detr_d2.visualization.looks import Frame, Look

FRAME = Frame(width=40, height=20, covered_width=48.0, covered_height=20.0, map_sizes=((2, 3),))
HEAT = np.array([[0.0, 0.1, 0.0], [0.5, 0.25, 0.0]])
SAMPLES = np.array([[10.0, 5.0, 0.5, 0], [41.0, 5.0, 0.25, 0], [39.96, 20.0, 0.125, 1], [-1.0, 5.0, 0.125, 1]])
NASTY = '</script><script>alert("1")</script>'
LOOKS = [
    Look(f"{NASTY} 90%, query 3", box_xyxy=(4.0, -5.0, 24.0, 10.0), heat=HEAT),
    Look("dog 80%, query 1", box_xyxy=(0.0, 0.0, 40.0, 20.0), samples=SAMPLES),
]
POINTS = [Look("point 10, 5", point=(10.0, 5.0), heat=HEAT)]


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of the data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [x for name, x in self.tags if name == tag and wanted.items() <= x.items()]


def make_page(folder: Path, **options: Any) -> str:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    groups = {"Decoder: detections": LOOKS, "Encoder: points": POINTS}
    path = folder / "page.html"
    save_attention_page(
        path, image, FRAME, groups, **{"name": f"{NASTY}.png", "model": NASTY, "notes": [NASTY], **options}
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture
def elements(tmp_path: Path) -> Elements:
    return Elements(make_page(tmp_path))


def data(elements: Elements) -> dict[str, Any]:
    return json.loads(elements.scripts[0])


def test_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = make_page(tmp_path)
    elements = Elements(page)
    links = [value for _, attributes in elements.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(links) == 1
    assert links[0] is not None
    assert links[0].startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?:|url\(|@import", page)
    assert len(page) < 20_000


def test_names_are_escaped(elements: Elements) -> None:
    assert len(elements.of("script")) == 2  # the data and the page's own
    assert not any("alert" in script for script in elements.scripts[1:])
    assert data(elements)["groups"][0][0]["text"].startswith(NASTY)
    assert elements.of("img")[0]["alt"] == f"{NASTY}.png"
    assert elements.of("button", **{"class": "box"})[0]["aria-label"] == f"{NASTY} 90%, query 3"


def test_every_look_has_a_mark_and_a_button_in_the_list(elements: Elements) -> None:
    assert len(elements.of("button", **{"class": "box"})) == 2
    assert len(elements.of("button", **{"class": "point"})) == 1
    assert len(elements.of("button")) == 2 * 3
    assert len(elements.of("input", type="radio")) == 2


def test_marks_stand_where_the_looks_are(elements: Elements) -> None:
    small, large = (x["style"] for x in elements.of("button", **{"class": "box"}))
    # Cut off at the upper edge; the small one lies above the large one.
    assert small == "left:10.00%;top:0.00%;width:50.00%;height:50.00%;z-index:750"
    assert large == "left:0.00%;top:0.00%;width:100.00%;height:100.00%;z-index:1"
    assert elements.of("button", **{"class": "point"})[0]["style"] == "left:25.00%;top:25.00%"


def test_maps_are_bytes_of_their_largest_weight(elements: Elements) -> None:
    content = data(elements)
    assert content["covered"] == [48.0, 20.0]
    heat = content["groups"][1][0]["heat"]
    assert (heat["width"], heat["height"]) == (3, 2)
    assert list(base64.b64decode(heat["data"])) == [0, 51, 0, 255, 128, 0]
    assert "the brightest of 6 cells gets 50 % of the attention" in content["groups"][1][0]["text"]


def test_samples_outside_of_the_picture_are_left_out(elements: Elements) -> None:
    look = data(elements)["groups"][0][1]
    assert look["samples"] == [[10.0, 5.0, 255, 0], [40.0, 20.0, 64, 1]]
    assert look["text"] == "dog 80%, query 1: 2 of 4 sampling points lie in the picture."


def test_without_jinja2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"detr_d2\[report\]"):
        make_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_script_but_that_of_the_page_may_run(tmp_path: Path) -> None:
    page = make_page(tmp_path)
    (policy,) = (x["content"] for x in Elements(page).of("meta") if x.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    assert "JSON.parse" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
