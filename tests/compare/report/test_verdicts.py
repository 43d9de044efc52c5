"""Which model of a comparison is ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from comparison_example import example_comparison
from example_variants import with_checkpoints, with_predictions

from detr_d2.compare.records.comparison import Comparison, Difference, ModelComparison
from detr_d2.compare.records.cost import StageLatency
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.report.measures import LATENCY, MEASURES, Measure
from detr_d2.compare.report.summary import interval_notes, summary
from detr_d2.compare.report.verdicts import barred_from, decide, paired_difference, verdict_of

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


def test_too_few_images_name_no_winner(example: Comparison) -> None:
    unknown = [replace(x, difference=Interval(5.0, _NAN, _NAN)) for x in example.differences]
    record = replace(example, differences=unknown)
    verdict = verdict_of(record, MEASURES[0])
    assert verdict.text == "no clear winner"
    assert "too few images" in verdict.detail
    latency = Difference("DETR", "Faster R-CNN", "latency_ms", Interval(5.0, _NAN, _NAN))
    assert "too few rounds" in verdict_of(replace(example, differences=[latency]), LATENCY).detail


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


# Who may win


def _with_random_weights(model: ModelComparison) -> ModelComparison:
    return replace(model, weights="", weights_sha256="")


def _of(key: str) -> Measure:
    return next(x for x in MEASURES if x.key == key)


def test_random_weights_win_nothing_but_cost(example: Comparison) -> None:
    detr, rcnn, _ = example.models
    record = replace(example, models=[detr, _with_random_weights(rcnn)])
    for key in ("ap", "ap75", "extra"):  # which it won before
        assert verdict_of(example, _of(key)).winner == "Faster R-CNN"
        assert verdict_of(record, _of(key)).winner is None
        assert "random" in verdict_of(record, _of(key)).detail
    assert barred_from(record, _of("gflops")) == {}
    assert verdict_of(replace(example, models=[_with_random_weights(detr), rcnn]), _of("ap")).winner == "Faster R-CNN"


def test_predictions_of_another_program_are_not_random(example: Comparison) -> None:
    record = with_predictions(example)
    assert verdict_of(record, _of("ap")).winner == "Faster R-CNN"


@pytest.mark.parametrize(
    ("recall", "extra", "winner"),
    [
        (-2.0, 6.5, "Faster R-CNN"),  # −5 to 1: may be noise
        (-4.0, 6.5, "Faster R-CNN"),  # it finds more, and repeats itself less
        (4.0, 6.5, None),  # it repeats itself less, and finds less
        (-4.0, -6.5, None),
        (4.0, -6.5, "DETR"),
    ],
)
def test_extra_boxes_are_not_won_by_finding_less(
    example: Comparison, recall: float, extra: float, winner: str | None
) -> None:
    known = {"recall": recall, "extra": extra}
    differences = [
        Difference("DETR", "Faster R-CNN", metric, Interval(value, value - 3, value + 3))
        for metric, value in known.items()
    ]
    detr, rcnn = (
        replace(x, operating=replace(x.operating, at=replace(x.operating.at, extra=value)))
        for x, value in zip(example.models, (10.0 + extra, 10.0), strict=False)
        if x.operating is not None
    )
    record = replace(example, models=[detr, rcnn], differences=differences)
    assert verdict_of(record, _of("extra")).winner == winner
    assert (verdict_of(record, _of("count_error")).winner is None) or winner is not None


def test_of_three_the_two_that_find_as_much_are_compared() -> None:
    values = {"a": 5.0, "b": 9.0, "c": 1.0}
    between = _between({("a", "b"): Interval(-4, -6, -2)})
    verdict = decide(values, between, _of("extra"), {"c": "it finds fewer objects than a"})
    assert verdict.winner == "a"
    assert "c cannot win" in verdict.detail


def test_two_checkpoints_name_no_winner_and_three_have_a_mean(example: Comparison) -> None:
    two, three = (with_checkpoints(example, aps) for aps in ([64.0, 66.0], [64.0, 65.5, 65.5]))
    assert verdict_of(two, MEASURES[0]).winner is None
    found = [summary(x).rows[0][1] for x in (two, three)]
    assert [x.text for x in found] == ["65.0", "65.0"]
    assert [x.detail for x in found] == ["64.0, 66.0", "61.0 to 69.0; 64.0, 65.5, 65.5"]
    assert any(
        "DETR: 3 checkpoints" in note and "Faster R-CNN: this checkpoint" in note for note in interval_notes(three)
    )
    assert any("one of each model" in note for note in interval_notes(example))
