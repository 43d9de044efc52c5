"""The first screen of the page of `compare`: figures and structure of its four cards, not their words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from example_variants import with_predictions
from report_html import Node

from detr_d2.compare.records.comparison import Comparison, Difference, ModelComparison
from detr_d2.compare.records.figures import Interval
from detr_d2.compare.report.cards import Card, cards, crowded_bin, nms_change


def _cards(comparison: Comparison) -> dict[str, Card]:
    return {card.title: card for card in cards(comparison)}


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_the_page_begins_with_four_cards_and_nms_comes_next(root: Node) -> None:
    first, second, *_ = root.find_all("section")
    assert [x.find("h3").text() for x in first.find_all("article")] == ["Accuracy", "NMS", "Crowds", "Cost"]
    assert all(len(list(x.find_all("svg", class_="spark"))) == 1 for x in first.find_all("article"))
    assert second.attributes["id"] == "nms"


def test_accuracy_names_the_winner_and_its_lead(example: Comparison) -> None:
    card = _cards(example)["Accuracy"]
    assert card.sentence.startswith("Faster R-CNN")
    assert _numbers(card.sentence) == ["5.0", "2.0", "8.0"]
    assert card.rows == [(0, "DETR", "65.0 (61.9 to 67.9)"), (1, "Faster R-CNN", "70.0 (66.9 to 72.9)")]
    noise = [Difference("DETR", "Faster R-CNN", "ap", Interval(-5.0, -11.0, 1.0))]
    assert "o clear winner" in _cards(replace(example, differences=noise))["Accuracy"].sentence
    alone = _cards(replace(example, models=example.models[:1]))["Accuracy"]
    assert _numbers(alone.sentence) == ["65.0"]


@pytest.mark.parametrize(
    ("without", "kept", "word", "said"),
    [
        (52.1, 88.3, "lives on", ["52", "88"]),
        (59.3, 60.4, "changes", ["1"]),
        (60.4, 59.3, "changes", ["1"]),
        (60.0, 60.3, "changes", ["1"]),  # by less than that
        (60.0, 67.0, "gains", ["7", "60", "67"]),  # 7 of 67 are less than a fifth
        (3.0, 7.0, "gains", ["4", "3", "7"]),  # more than a fifth, but few points
        (60.0, 55.0, "harmed", ["60", "55"]),
    ],
)
def test_nms_is_what_a_model_lives_on_or_not(
    example: Comparison, without: float, kept: float, word: str, said: list[str]
) -> None:
    rcnn = example.models[1]
    nms = [replace(p, ap=without if p.nms_threshold is None else kept) for p in rcnn.nms]
    (card,) = [x for x in cards(replace(example, models=[replace(rcnn, label="X", nms=nms)])) if x.title == "NMS"]
    assert word in card.sentence
    assert _numbers(card.sentence) == said
    assert card.rows == [(0, "X", f"{without} → {kept}")]


def _changes(model: ModelComparison) -> list[float]:
    return list(nms_change(model) or ())


def test_nms_of_a_model_is_its_own_and_else_the_usual_one(example: Comparison) -> None:
    detr, rcnn, _ = example.models
    assert nms_change(rcnn) == (30.0, 70.0)
    assert _changes(detr) == pytest.approx([65.0, 64.4])  # its last layer at 0.5: 65 − (1.1 − 0.5)
    assert rcnn.shipped is not None
    assert _changes(replace(rcnn, shipped=replace(rcnn.shipped, nms_threshold=0.7))) == pytest.approx([30.0, 62.0])
    assert nms_change(replace(rcnn, shipped=replace(rcnn.shipped, nms_switched_off=False))) is None


def test_crowds_speak_of_the_most_crowded_bin_with_enough_objects(example: Comparison) -> None:
    card = _cards(example)["Crowds"]
    # 22 objects of overlap 0.5 to 0.7: DETR 64 − 8, Faster R-CNN 66 − 20; NMS costs it 5, beyond noise.
    assert _numbers(card.sentence) == ["22", "0.5", "0.7", "56", "46", "5", "100"]
    assert card.rows[1] == (1, "Faster R-CNN", "46\u00a0% (40 to 52)")


def _with_bins(model: ModelComparison, count: int) -> ModelComparison:
    return replace(model, crowds=[replace(b, num_objects=count) for b in model.crowds])


def test_few_objects_are_no_crowd(example: Comparison) -> None:
    models = example.models[:2]
    assert crowded_bin([_with_bins(x, 19) for x in models]) is None
    most = crowded_bin([_with_bins(x, 20) for x in models])
    assert most is not None
    assert most.low == 0.7
    card = _cards(replace(example, models=[_with_bins(x, 19) for x in models]))["Crowds"]
    assert (card.rows, card.spark) == ([], "")


def test_what_nms_loses_is_said_only_beyond_noise(example: Comparison) -> None:
    rcnn = example.models[1]
    crowds = [replace(b, lost=Interval(5.0, 0.0, 10.0)) for b in rcnn.crowds]
    card = _cards(replace(example, models=[example.models[0], replace(rcnn, crowds=crowds)]))["Crowds"]
    assert _numbers(card.sentence) == ["22", "0.5", "0.7", "56", "46"]


def test_cost_names_the_fastest_beyond_noise(example: Comparison) -> None:
    card = _cards(example)["Cost"]
    assert card.rows == [(0, "DETR", "21.0 ms, 12.3 M"), (1, "Faster R-CNN", "25.0 ms, 12.3 M")]
    assert "o clear winner" in card.sentence  # the spreads overlap
    known = [Difference("DETR", "Faster R-CNN", "latency_ms", Interval(-4.0, -5.0, -3.0))]
    assert _numbers(_cards(replace(example, differences=known))["Cost"].sentence) == ["1.2", "21.0", "25.0"]
    given = _cards(with_predictions(example))["Cost"]
    assert given.rows[1][2].endswith("as given")


def test_what_was_not_measured_leaves_a_sentence(example: Comparison) -> None:
    bare = [ModelComparison(x, "other", example.models[0].run, "w", "", "") for x in "ab"]
    found = cards(replace(example, models=bare, differences=[]))
    assert [bool(x.sentence) for x in found] == [True] * 4
    assert not any(x.rows or x.spark for x in found)
    assert cards(replace(example, models=example.models[2:])) == []


def test_a_better_nms_is_worth_a_word(example: Comparison) -> None:
    rcnn = example.models[1]  # as shipped 70 at 0.5
    for ap, said in ((71.9, []), (72.1, ["72", "0.75"])):
        nms = [replace(p, ap=ap if p.nms_threshold == 0.75 else p.ap) for p in rcnn.nms]
        sentence = _cards(replace(example, models=[replace(rcnn, label="X", nms=nms)]))["NMS"].sentence
        assert _numbers(sentence) == ["30", "70", *said]


def test_detections_of_another_program_that_look_filtered_are_not_said_to_need_no_nms(example: Comparison) -> None:
    rcnn = example.models[1]
    assert rcnn.shipped is not None
    shipped = replace(rcnn.shipped, nms_threshold=None, nms_switched_off=False)
    known = replace(example, models=[example.models[0], replace(rcnn, shipped=shipped)])
    for looks, change in (("looks filtered at 0.6", None), ("cannot be told", (30.0, 70.0))):
        record = with_predictions(known, looks)
        assert nms_change(record.models[1]) == change
        assert (looks in _cards(record)["NMS"].sentence) == (change is None)
