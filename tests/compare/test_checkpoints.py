"""Several checkpoints of one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison_example import example_comparison
from scipy import stats

from detr_d2.compare.checkpoints import differences, mean, pooled
from detr_d2.compare.measure.everything import Measured
from detr_d2.compare.measure.intervals import METRICS
from detr_d2.compare.models import ModelSpec, parse_models
from detr_d2.compare.records.comparison import CrashedImage, ModelComparison
from detr_d2.compare.records.figures import ConfusionMatrix, Interval
from detr_d2.compare.records.files import from_json, to_json
from detr_d2.compare.records.sets import CrowdBin, OperatingPoint, ScoreCurve, ScorePoint

DETR = example_comparison().models[0]
IMAGES = 40


def measured(name: str, ap: float, samples: Sequence[float] = (0.0,), **changes: Any) -> Measured:
    """A checkpoint with this AP; all its other figures with an interval are 7."""
    assert DETR.coco is not None
    record = replace(
        DETR,
        weights=name,
        weights_sha256=f"hash of {name}",
        coco=replace(DETR.coco, ap=ap),
        run=replace(DETR.run, ap=ap, seed=len(name)),
        confidence={x: Interval(ap if x == "ap" else 7.0, 0.0, 100.0) for x in METRICS},
        **changes,
    )
    drawn = {x: list(samples) if x == "ap" else [7.0] * len(samples) for x in METRICS}
    return Measured(record, drawn, [float(len(name))] * IMAGES)


def with_names(*names: str) -> Callable[..., list[Measured]]:
    """Checkpoints with one value each of some fields."""
    return lambda **values: [
        measured(x, 50.0 + i, **{key: value[i] for key, value in values.items()}) for i, x in enumerate(names)
    ]


def test_a_single_checkpoint_is_what_it_is() -> None:
    only = measured("a.pth", 50.0)
    assert pooled([only]) is only


def test_three_checkpoints() -> None:
    # Means 61, 70 and 73 over the checkpoints: 68 as they are, deviation s = 6.245; resampled 67 and 71.
    parts = [measured("a", 61, [60, 64]), measured("b", 70, [69, 73]), measured("c", 73, [72, 76])]
    found = pooled(parts)
    result = found.record.confidence["ap"]
    assert result.value == pytest.approx(68)
    assert result.checkpoints == [61, 70, 73]
    middle = 2 * 68 - 69
    half = math.sqrt((1.96 * 2) ** 2 + (stats.t.ppf(0.975, 2) * math.sqrt(39) / math.sqrt(3)) ** 2)
    assert result.low == pytest.approx(middle - half)
    assert result.high == pytest.approx(middle + half)
    assert found.samples["ap"] == pytest.approx([67, 71])
    assert (found.record.confidence["ap50"].low, found.record.confidence["ap50"].high) == (7, 7)
    assert [(x.weights, x.weights_sha256, x.ap) for x in found.record.checkpoints] == [
        ("a", "hash of a", 61),
        ("b", "hash of b", 70),
        ("c", "hash of c", 73),
    ]
    assert found.record.coco is not None
    assert found.record.coco.ap == found.record.run.ap == pytest.approx(68)
    assert found.record.run.seed == -1


def test_the_bounds_of_three_checkpoints_are_cut_once_they_are_known() -> None:
    parts = [measured("a", 90, [90, 90]), measured("b", 95, [95, 95]), measured("c", 100, [100, 100])]
    result = pooled(parts).record.confidence["ap"]
    assert result.high == 100
    assert result.low == pytest.approx(95 - stats.t.ppf(0.975, 2) * 5 / math.sqrt(3))


def test_two_checkpoints_have_values_and_no_interval() -> None:
    two = pooled([measured("a", 60, [60, 61]), measured("b", 62, [62, 63])])
    result = two.record.confidence["ap"]
    assert (result.value, result.checkpoints) == (61, [60, 62])
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    other = measured("c", 10.0, [10, 11], label="other")
    found = next(x for x in differences([two, other]) if x.metric == "ap")
    assert (found.first, found.second, found.difference.value) == ("DETR", "other", 51)
    assert math.isnan(found.difference.low)


def test_differences_of_models_of_several_and_of_one() -> None:
    a = pooled([measured("a", 61, [60, 62]), measured("b", 70, [69, 71]), measured("c", 73, [72, 74])])
    b = measured("d", 50.0, [49, 51], label="other")
    found = next(x for x in differences([a, b]) if x.metric == "ap").difference
    half = stats.t.ppf(0.975, 2) * math.sqrt(39) / math.sqrt(3)  # the same draws: images say nothing of the difference
    assert (found.value, found.low, found.high) == pytest.approx((18, 18 - half, 18 + half))
    assert len(differences([a, b, measured("e", 1.0, label="third")])) == 3 * len(METRICS)


def test_figures_are_means_field_by_field() -> None:
    assert DETR.counting is not None
    second = replace(
        DETR,
        nms=[replace(x, ap=x.ap + 2) for x in DETR.nms],
        counting=replace(DETR.counting, exact_share=40.0),
        curves=[replace(x, precision=[y / 2 for y in x.precision]) for x in DETR.curves],
        errors=[replace(x, count=x.count + 3, delta_ap50=x.delta_ap50 + 1) for x in DETR.errors],
    )
    found = mean([DETR, second, second])
    assert [x.ap for x in found.nms] == pytest.approx([x.ap + 4 / 3 for x in DETR.nms])
    assert [(x.layer, x.nms_threshold, x.shipped) for x in found.nms] == [
        (x.layer, x.nms_threshold, x.shipped) for x in DETR.nms
    ]
    assert found.counting is not None
    assert found.counting.exact_share == pytest.approx((60 + 40 + 40) / 3)
    assert found.curves[0].precision[10] == pytest.approx(DETR.curves[0].precision[10] * 2 / 3)
    assert [x.count for x in found.errors] == [x.count + 2 for x in DETR.errors]
    assert [x.delta_ap50 for x in found.errors] == pytest.approx([x.delta_ap50 + 2 / 3 for x in DETR.errors])
    assert found.shipped == DETR.shipped
    assert found.masks == mean([DETR.masks, DETR.masks])
    assert mean([DETR, replace(DETR, masks=None)]).masks is None


def test_means_of_values() -> None:
    assert mean([1, 2, 4]) == 2  # counts stay counts
    assert mean([1.0, 2.0, 4.5]) == 2.5
    assert math.isnan(mean([1.0, math.nan]))
    assert mean(["a", "b"]) == "a"
    assert mean([True, False]) is True
    assert mean([{"a": 1.0, "b": 2.0}, {"a": 2.0}]) == {"a": 1.5}
    with pytest.raises(ValueError, match="lists of 1, 2 entries"):
        mean([[1.0], [1.0, 2.0]])


def test_what_shows_single_detections_is_that_of_the_first() -> None:
    matrices = [ConfusionMatrix(["x"], [[i, 0], [0, 0]]) for i in range(2)]
    parts = with_names("first", "second one")(confusion=matrices)
    found = pooled(parts)
    assert found.record.confusion == matrices[0]
    assert (found.record.weights, found.record.weights_sha256) == ("first", "hash of first")
    assert found.f1_per_image == parts[0].f1_per_image != parts[1].f1_per_image


def test_notes_and_failed_images_of_all() -> None:
    crashed = [CrashedImage(f"{i}.png", "broken") for i in range(3)]
    found = pooled(
        with_names("a.pth", "b.pth")(
            notes=[["of all"], ["of all", "of one"]],
            crashed_images=[[crashed[2], crashed[0]], [crashed[1], replace(crashed[0], error="other")]],
        )
    ).record
    assert found.notes[1:] == ["of all", "b.pth: of one"]
    assert found.notes[0].startswith("its figures are the means of 2 checkpoints")
    assert found.crashed_images == crashed


def point(recall: float, score: float = math.nan) -> ScorePoint:
    return ScorePoint(score, 50.0, recall, 60.0, math.nan, 0.0, 1.0, [recall], [])


def test_operating_points() -> None:
    def operating(score: float, recall: float, curve: ScoreCurve) -> OperatingPoint:
        return OperatingPoint(False, [score, score], [0, 1], point(recall), [point(recall + 1, 0.5)], curve)

    first = ScoreCurve([0.2, 0.6], [50.0, 100.0], [80.0, 40.0], [60.0, 50.0])
    second = ScoreCurve([0.4, 0.8], [60.0, 90.0], [70.0, 30.0], [65.0, 45.0])
    parts = [operating(0.3, 80.0, first), operating(0.5, 60.0, second)]
    found = mean(parts)
    assert found.scores == [0.3, 0.3]  # with which the detections of the first are shown
    assert (found.at.recall, found.others[0].recall, found.others[0].score) == (70, 71, 0.5)
    assert math.isnan(found.at.extra)
    # Every second of 0.2, 0.4, 0.6, 0.8; at 0.6 the second one is half-way down.
    assert found.curve.scores == [0.2, 0.6]
    assert found.curve.recall == pytest.approx([(80 + 70) / 2, (40 + 50) / 2])
    assert found.curve.precision == pytest.approx([(50 + 60) / 2, (100 + 75) / 2])
    above = mean([replace(first, scores=[0.1, 0.2]), replace(second, scores=[0.7, 0.8])])
    assert above.recall[1] == pytest.approx((0 + 70) / 2)  # the first has no detection so good


def test_intervals_within_records() -> None:
    bins = [
        CrowdBin(0.5, 0.7, 30, Interval(x, x - 4, x + 6), None, x, Interval(x, x, x), Interval(x, x - 90, x + 90))
        for x in (40.0, 50.0, 60.0)
    ]
    found = mean(bins)
    trainings = stats.t.ppf(0.975, 2) * 10 / math.sqrt(3)
    half = math.hypot(5, trainings)
    assert (found.recall.value, found.recall.low, found.recall.high) == pytest.approx((50, 51 - half, 51 + half))
    assert found.recall.checkpoints == [40, 50, 60]
    assert found.recall_without_nms is None
    assert found.lost is not None
    assert found.lost.low == pytest.approx(50 - trainings)
    assert (found.ap.low, found.ap.high) == (0, 100)
    assert math.isnan(mean(bins[:2]).recall.low)


def test_the_record_is_written_and_read() -> None:
    record = pooled([measured("a", 61.0), measured("b", 70.0), measured("c", 73.0)]).record
    assert to_json(from_json(ModelComparison, to_json(record))) == to_json(record)


def test_model_specs(tmp_path: Path) -> None:
    (model,) = parse_models(["Faster R-CNN = a.yaml , folder/b.pth"])
    assert model == ModelSpec("Faster R-CNN", "a.yaml", "folder/b.pth")
    assert parse_models(["A=a.yaml,"])[0].weights == ""
    (model,) = parse_models(["DETR=a.yaml,a.pth, b.pth,c.pth"])
    assert (model.weights, model.more_weights) == ("a.pth", ("b.pth", "c.pth"))
    path = tmp_path / "lr=1,wd=0.pth"
    path.write_text("")
    assert parse_models([f"DETR=a.yaml,{path}"]) == [ModelSpec("DETR", "a.yaml", str(path))]


@pytest.mark.parametrize(
    ("weights", "message"),
    [("a.pth,", "are missing"), (",a.pth", "are missing"), ("a.pth,b.pth,a.pth", "given twice")],
)
def test_wrong_lists_of_checkpoints(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_models([f"DETR=a.yaml,{weights}"])
