"""What the user says of detectors that are not run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from coco_files import CocoFiles

from detr_d2.compare.data import load_ground_truth
from detr_d2.compare.found.given import GivenSpec, parse_predictions, read_given
from detr_d2.data import register_coco
from detr_d2.files import file_hash


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("A=a.json", GivenSpec("A", "a.json")),
        ("A b = folder/a.json , raw", GivenSpec("A b", "folder/a.json", "raw")),
        ("A=a.json,nms", GivenSpec("A", "a.json", "nms")),
        ("A=x,y/a=b.json,nms", GivenSpec("A", "x,y/a=b.json", "nms")),
        ("A=x,y/a.json", GivenSpec("A", "x,y/a.json")),
        ("A=results", GivenSpec("A", "results")),
    ],
)
def test_specs(spec: str, expected: GivenSpec) -> None:
    assert parse_predictions([spec], [], []) == [expected]


@pytest.mark.parametrize("spec", ["a.json", "=a.json", "A=", "A=,raw", "A=a.json,filtered", "A=a.json,"])
def test_specs_that_cannot_be_read(spec: str) -> None:
    with pytest.raises(ValueError, match=r"--predictions .*: expected LABEL=results.json, such as"):
        parse_predictions([spec], [], [])


def test_labels_are_given_once() -> None:
    for specs, models in ((["A=a.json", "A=b.json"], []), (["A=a.json"], ["B", "A"])):
        with pytest.raises(ValueError, match="label 'A' is given twice"):
            parse_predictions(specs, [], models)


def test_costs() -> None:
    first, second = parse_predictions(["A=a.json", "B=C=b.json"], ["A=6.5:32.1e6"], [])
    assert second.cost is None
    cost = first.cost
    assert cost is not None
    assert (cost.given, cost.parameters) == (True, 32_100_000)
    assert [(x.stage, x.p50_ms) for x in cost.latency] == [("total", 6.5)]
    assert math.isnan(cost.latency[0].p95_ms)
    assert math.isnan(cost.gflops)
    assert (cost.throughput, cost.image_size, cost.backbone_path) == ([], [], "")


@pytest.mark.parametrize("cost", ["A", "A=6.5", "A=:5", "A=0:5", "A=-1:5", "A=nan:5", "A=6.5:0", "A=6.5:inf", "=1:2"])
def test_costs_that_cannot_be_read(cost: str) -> None:
    with pytest.raises(ValueError, match=r"--cost .*: expected LABEL=latency_ms:params, such as"):
        parse_predictions(["A=a.json"], [cost], [])


def test_costs_are_of_detectors_that_do_not_run() -> None:
    with pytest.raises(ValueError, match="'M' is no label of --predictions; the cost of a model that runs is measured"):
        parse_predictions(["A=a.json"], ["M=1:2"], ["M"])
    with pytest.raises(ValueError, match=r"'B' is no label of --predictions; there are \['A'\]"):
        parse_predictions(["A=a.json"], ["B=1:2"], ["M"])
    with pytest.raises(ValueError, match="--cost: the label 'A' is given twice"):
        parse_predictions(["A=a.json"], ["A=1:2", "A=1:2"], [])


@pytest.mark.parametrize(("word", "looks"), [("", "cannot be told"), (",raw", ""), (",nms", "")])
def test_the_record_before_there_are_figures(word: str, looks: str, tiny_coco: CocoFiles, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    boxes = [[0, 0, 40, 40], [0, 10, 40, 40], [0, 10, 40, 39]]  # the first two have an IoU of 30 / 50
    classes = [1, 1, 23]
    rows = [{"image_id": 1, "category_id": k, "bbox": x, "score": 0.5} for k, x in zip(classes, boxes, strict=True)]
    path.write_text(json.dumps(rows))
    truth = load_ground_truth(register_coco(tiny_coco.spec("given")))
    (spec,) = parse_predictions([f"A={path}{word}"], ["A=6.5:7"], [])
    record = read_given(spec, truth, [1, 23, 56], limit=3).identity
    assert (record.label, record.family, record.run.parameters, record.run.inference_ms) == ("A", "other", 7, 6.5)
    assert record.cost == spec.cost
    assert record.predictions is not None
    assert record.predictions.sha256 == file_hash(path)
    assert (record.predictions.said, record.predictions.looks) == (spec.said, looks)
    assert record.predictions.largest_iou == pytest.approx(0.6)
    assert record.shipped is not None
    assert record.shipped.nms_threshold is None
    assert record.shipped.nms_switched_off == (word == ",raw")
    assert record.notes == ["its file has no detection in 2 of the 3 images"]
