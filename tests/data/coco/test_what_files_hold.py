"""Any value in any field of a COCO file is refused in one sentence, or all that follows gives finite numbers."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from annotation_chain import Refused, accept, train_and_evaluate
from coco_files import CocoFiles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FIELDS = [
    *(("images", key) for key in ("id", "file_name", "width", "height")),
    *(("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")),
    ("annotations", "ignore"),
    *(("categories", key) for key in ("id", "name", "supercategory")),
]
HUGE = 10**30
VALUES: list[Any] = [
    None, True, 0, -1, 2.5, 1e308, math.nan, -math.inf, 2**63, HUGE, "", "1", "a\x00b", [], [1], {},
]  # fmt: skip

# Values that look like the right ones and are not, or are written in another way.
_SIZE = [48, 64]  # height and width of the first image
NEAR_MISSES: list[Any] = [
    1.0, "1.0", " 1", "true", "0", False, "\ud800", "é", "..", "/", ".", "001.png", "./001.png",
    [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4, 5]], [[]], [1, 2, 3, 4, 5, 6], [[1, 2, 3, math.nan, 5, 6]],
    [[1e300, 0, 5, 5, 0, 5]], [["1", "2", "3", "4", "5", "6"]], [None], [[None]], [[[1, 2], [3, 4], [5, 6]]],
    {"size": _SIZE, "counts": [48 * 64]}, {"size": _SIZE, "counts": "abc"}, {"size": _SIZE, "counts": []},
    {"size": [1, 1], "counts": [1]}, {"size": _SIZE, "counts": [-1, 48 * 64 + 1]}, {"counts": [1]}, {"size": _SIZE},
    {"size": _SIZE, "counts": "PPPPPPPPPPPP"}, {"size": ["48", "64"], "counts": [48 * 64]},
    {"size": _SIZE, "counts": [2**40]}, {"size": [2**20, 2**20], "counts": [2**40]}, {"size": _SIZE, "counts": None},
    [1, 2, 3, 4], [1, 2, 3, "4"], [1, 2, 3], [1, 2, -3, 4], [0, 0, 1e9, 1e9], [math.inf, 0, 1, 1], [1, 2, 0, 0],
    [-50, -50, 10, 10], [1e-9, 1e-9, 1e-9, 1e-9], "1 2 3 4",
]  # fmt: skip

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
ANY_VALUE = st.sampled_from(VALUES) | st.sampled_from(NEAR_MISSES) | JSON_VALUES

accepted_and_refused = {True: 0, False: 0}


def run_chain(files: CocoFiles, content: dict[str, Any], *, masks: bool, draws: int) -> bool:
    """Whether a file is accepted; what is accepted must run to its end."""
    path = files.annotations.with_name(f"a{sum(accepted_and_refused.values())}.json")
    try:
        chain = accept(path, json.dumps(content).encode(), files.image_root, masks=masks)
    except Refused:
        accepted_and_refused[False] += 1
        return False
    assert math.isfinite(train_and_evaluate(chain, draws=draws)["bbox/AP"])
    accepted_and_refused[True] += 1
    return True


@pytest.mark.parametrize("field", FIELDS, ids="-".join)
@pytest.mark.parametrize("where", ["first", "all"])
def test_each_value_in_each_field(tiny_coco: CocoFiles, field: tuple[str, str], where: str):
    table, key = field
    for value in VALUES:
        content = copy.deepcopy(tiny_coco.content)
        for entry in content[table] if where == "all" else content[table][:1]:
            entry[key] = value
        run_chain(tiny_coco, content, masks=key == "segmentation", draws=2)


def put(content: dict[str, Any], data: st.DataObject) -> None:
    table, key = data.draw(st.sampled_from(FIELDS))
    entries = content[table]
    for index in data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=1)):
        if data.draw(st.integers(0, 9)) == 0:
            entries[index].pop(key, None)
        else:
            entries[index][key] = data.draw(ANY_VALUE)


def any_values(files: CocoFiles, data: st.DataObject, draws: int) -> None:
    content = copy.deepcopy(files.content)
    for _ in range(data.draw(st.integers(1, 2))):
        put(content, data)
    run_chain(files, content, masks=data.draw(st.booleans()), draws=draws)


_settings = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(_settings, max_examples=100)
@given(data=st.data())
def test_any_value_in_any_field(tiny_coco: CocoFiles, data: st.DataObject):
    any_values(tiny_coco, data, draws=4)


@pytest.mark.slow
@settings(_settings, max_examples=3000)
@given(data=st.data())
def test_any_value_in_any_field_at_length(tiny_coco: CocoFiles, data: st.DataObject):
    any_values(tiny_coco, data, draws=50)


def test_both_ends_are_reached(tiny_coco: CocoFiles):
    content = copy.deepcopy(tiny_coco.content)
    assert run_chain(tiny_coco, content, masks=True, draws=50)
    content["images"][0]["width"] = None
    assert not run_chain(tiny_coco, content, masks=True, draws=50)
