from __future__ import annotations

import pytest
from detectron2.data.catalog import Metadata

from detr_d2.evaluation.prediction import Categories
from detr_d2.evaluation.trained_model import class_names_option


def test_original_ids_come_from_the_metadata() -> None:
    metadata = Metadata().set(
        thing_classes=["cat", "bear", "cup"], thing_dataset_id_to_contiguous_id={56: 2, 1: 0, 23: 1}
    )
    categories = Categories.from_metadata(metadata)
    assert categories == Categories(names=("cat", "bear", "cup"), ids=(1, 23, 56))
    assert categories.to_json()[1] == {"id": 23, "name": "bear"}
    assert categories.metadata().thing_classes == ["cat", "bear", "cup"]


def test_without_ids_classes_are_numbered_from_0() -> None:
    assert Categories.from_metadata(Metadata().set(thing_classes=["a", "b"])) == Categories(("a", "b"), (0, 1))
    assert Categories.from_metadata(Metadata()) is None


def test_names_and_ids_must_fit() -> None:
    with pytest.raises(ValueError, match="2 class names but 1 category ids"):
        Categories(("a", "b"), (1,))
    with pytest.raises(ValueError, match="not all different"):
        Categories(("a", "b"), (1, 1))


def test_classes_option() -> None:
    assert class_names_option(None) is None
    assert class_names_option("dog, big cat") == Categories(("dog", "big cat"), (0, 1))
    with pytest.raises(ValueError, match="none of them empty"):
        class_names_option("dog,")
