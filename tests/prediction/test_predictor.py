from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from detr_d2.config import get_cfg
from detr_d2.prediction import Categories, ImagePredictor
from detr_d2.prediction.categories import class_names_option


def test_original_ids_come_from_the_metadata() -> None:
    metadata = Metadata().set(
        thing_classes=["cat", "bear", "cup"], thing_dataset_id_to_contiguous_id={56: 2, 1: 0, 23: 1}
    )
    categories = Categories.from_metadata(metadata)
    assert categories == Categories(names=("cat", "bear", "cup"), ids=(1, 23, 56))
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
    assert class_names_option("dog, big cat") == Categories(("dog", "big cat"), (0, 1), by_position=True)
    with pytest.raises(ValueError, match="none of them empty"):
        class_names_option("dog,")


class FixedScores(torch.nn.Module):
    """Three detections whatever the image and the config; keeps its input."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.inputs = inputs
        instances = Instances((inputs[0]["height"], inputs[0]["width"]))
        instances.scores = torch.tensor([0.9, 0.5, 0.4])
        instances.pred_boxes = Boxes(torch.zeros(3, 4))
        return [{"instances": instances}]


def test_predictor_resizes_and_orders_channels_as_the_config_says() -> None:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[..., 0], image[..., 2] = 7, 9  # blue, red
    for image_format, first in (("BGR", 7), ("RGB", 9)):
        cfg = get_cfg()
        cfg.merge_from_list(["INPUT.FORMAT", image_format, "INPUT.MIN_SIZE_TEST", 30, "INPUT.MAX_SIZE_TEST", 50])
        model = FixedScores().train()
        instances = ImagePredictor(cfg, model=model)(image)
        assert not model.training
        (given,) = model.inputs
        assert (given["height"], given["width"]) == (20, 40)
        assert given["image"].shape == (3, 25, 50)
        assert given["image"].dtype == torch.float32
        assert given["image"][:, 0, 0].tolist() == [first, 0, 16 - first]
        assert instances.image_size == (20, 40)


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 3), (0.5, 2), (0.95, 0)])
def test_predictor_drops_low_scores_of_any_model(threshold: float, kept: int) -> None:
    predictor = ImagePredictor(get_cfg(), model=FixedScores(), score_threshold=threshold)
    assert len(predictor(np.zeros((8, 8, 3), dtype=np.uint8))) == kept


def test_predictor_wants_instances() -> None:
    class Segments(torch.nn.Module):
        def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{"sem_seg": None} for _ in inputs]

    with pytest.raises(ValueError, match=r"\['sem_seg'\], no 'instances'"):
        ImagePredictor(get_cfg(), model=Segments())(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'YUV'"):
        ImagePredictor(model=Segments(), image_format="YUV", min_size=0, max_size=0)
