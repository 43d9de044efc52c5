from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from detr_d2.compare.records.results import RunResult, bbox_metrics, minutes, results_table
from detr_d2.files import write_json


def some_result(**changes: object) -> RunResult:
    values = {
        "model": "DETR",
        "config_file": "detr.yaml",
        "dataset": "shapes",
        "ap": 61.25,
        "ap50": 90.04,
        "ap75": 66.0,
        "per_class": {"circle": 70.0, "square": math.nan},
        "parameters": 4_049_000,
        "iterations": 2000,
        "train_seconds": 401.7,
        "inference_ms": 12.34,
        "seed": 3,
    }
    return RunResult(**{**values, **changes})  # type: ignore[arg-type]


def test_a_saved_result_comes_back(tmp_path: Path) -> None:
    result = some_result(extra={"threads": 2, "list": [1, 2]})
    result.save(tmp_path / "new" / "r.json")
    again = RunResult.load(tmp_path / "new" / "r.json")
    assert math.isnan(again.per_class["square"])
    assert math.isnan(again.train_images_per_second)
    assert repr(again) == repr(result)  # NaN is not equal to itself
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.json"]


def test_the_file_is_plain_json_without_nan(tmp_path: Path) -> None:
    some_result().save(tmp_path / "r.json")

    def refuse(text: str) -> None:
        raise AssertionError(text)

    values = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert values["per_class"] == {"circle": 70.0, "square": None}
    assert values["ap"] == 61.25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a result file"),
        ("[]", "its format is not 1"),
        ('{"format": 2}', "its format is not 1; delete it and run again"),
        ('{"format": 1, "model": "x", "new_key": 1}', "new_key"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json") as error:
        RunResult.load(tmp_path / "r.json")
    assert message in str(error.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_figures_of_the_coco_evaluator() -> None:
    metrics = {"AP": 50.0, "AP50": 80.0, "AP75": 55.0, "APs": 1.0, "AP-big dog": 40.0, "AP-AP": 60.0}
    found = bbox_metrics(metrics)
    assert found == {"ap": 50.0, "ap50": 80.0, "ap75": 55.0, "per_class": {"big dog": 40.0, "AP": 60.0}}
    nothing = bbox_metrics({})
    assert math.isnan(nothing["ap"])
    assert nothing["per_class"] == {}


def test_table() -> None:
    results = [some_result(), some_result(model="Faster R-CNN", ap=7.0, inference_ms=math.nan, train_seconds=59.6)]
    lines = results_table(results).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["model", "AP", "AP50", "AP75", "parameters", "iterations", "training", "ms/image"]
    assert lines[2].split() == ["DETR", "61.2", "90.0", "66.0", "4.0", "M", "2,000", "6:42", "12.3"]
    assert lines[3].split()[-2:] == ["1:00", "-"]
    assert lines[2].index("61.2") + 4 == lines[3].index(" 7.0") + 4  # numbers are aligned to the right

    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results_table(results, markdown=True).splitlines()
    ]
    assert [row[0] for row in rows[2:]] == ["DETR", "Faster R-CNN"]
    assert all(cell.endswith(":") for cell in rows[1][1:])
    assert {len(row) for row in rows} == {8}


def test_table_has_the_mask_figures_that_some_result_has() -> None:
    results = [some_result(extra={"mask AP": 40.04, "PQ": 61.0, "threads": 2}), some_result(extra={"mask AP": 39.0})]
    header, _, first, second = results_table(results).splitlines()
    assert re.split(r"\s{2,}", header)[:7] == ["model", "AP", "AP50", "AP75", "mask AP", "PQ", "parameters"]
    assert first.split()[3:6] == ["66.0", "40.0", "61.0"]
    assert second.split()[3:6] == ["66.0", "39.0", "-"]


def test_minutes() -> None:
    assert [minutes(x) for x in (0.0, 59.4, 59.6, 61.4, 3600.0, math.nan)] == [
        "0:00",
        "0:59",
        "1:00",
        "1:01",
        "60:00",
        "-",
    ]
