"""From a model and an image to what its points and detections look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_deformable import stir, tiny_deformable
from tiny_models import NUM_CLASSES, random_input, tiny_detr
from torch import nn

from detr_d2.modeling import DETR
from detr_d2.visualization.attention_pictures import save_looks
from detr_d2.visualization.looks import Frame, detection_looks, grid_points, look_inside, point_looks

NAMES = ("cat", "dog", "cow")
assert len(NAMES) == NUM_CLASSES


def lively(model: DETR) -> Any:
    """Queries that differ, so that a mix-up shows."""
    stir(model, 0.3)
    return model.eval()


def test_cells_of_a_map_that_covers_more_than_the_picture() -> None:
    frame = Frame(width=100, height=60, covered_width=128.0, covered_height=64.0, map_sizes=((2, 4), (1, 2)))
    assert [frame.cell_at(*x) for x in [(0, 0), (31.9, 31.9), (32, 31.9), (99, 59), (0, 59)]] == [0, 0, 1, 7, 4]
    assert frame.cell_at(128, 64) == 7  # the last one, for rounding


def test_grid_points_are_centres_of_fields() -> None:
    frame = Frame(width=40, height=10, covered_width=40.0, covered_height=10.0, map_sizes=((1, 1),))
    assert grid_points(frame, 2, 1) == [(10.0, 5.0), (30.0, 5.0)]
    assert grid_points(frame, 1, 2) == [(20.0, 2.5), (20.0, 7.5)]


def test_detections_are_those_of_the_model() -> None:
    model = lively(tiny_detr())
    inputs = {**random_input(64, 96, 1), "height": 128, "width": 192}
    inside = look_inside(model, inputs)
    with torch.no_grad():
        expected = model([inputs])[0]["instances"]
    np.testing.assert_allclose(inside.scores, expected.scores.numpy(), atol=1e-6)
    assert inside.classes.tolist() == expected.pred_classes.tolist()
    clipped = np.clip(inside.boxes_xyxy, 0, [192, 128] * 2)
    np.testing.assert_allclose(clipped, expected.pred_boxes.tensor.numpy(), atol=1e-3)
    assert sorted(inside.queries) == list(range(8))


@pytest.mark.parametrize("layer", [1, None])
def test_a_detection_has_the_map_of_its_query(layer: int | None) -> None:
    """Against PyTorch's own attention in the same layer."""
    model = lively(tiny_detr())
    layers = model.transformer.decoder.layers
    own = layers[-1 if layer is None else layer - 1].multihead_attn
    inputs = random_input(64, 96, 1)
    inside = look_inside(model, inputs, decoder_layer=layer)
    assert inside.decoder.module is own
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(own.state_dict())
    call = inside.decoder
    _, weights = theirs(call["query"], call["key"], call["value"], average_attn_weights=False)
    weights = weights[0].detach().numpy()  # (heads, Q, S)
    chosen = [5, 0]
    for head, expected in ((None, weights.mean(0)), (3, weights[2])):
        looks = detection_looks(inside, chosen, NAMES, head)
        for index, look in zip(chosen, looks, strict=True):
            query = inside.queries[index]
            assert look.heat is not None
            assert look.heat.shape == (4, 6)
            np.testing.assert_allclose(look.heat.ravel(), expected[query], atol=1e-6)
            score = f"{100 * inside.scores[index]:.0f}%"
            assert look.title == f"{NAMES[inside.classes[index]]} {score}, query {query}"
            assert look.box_xyxy == tuple(inside.boxes_xyxy[index].tolist())


def test_a_point_has_the_map_of_its_cell() -> None:
    model = lively(tiny_detr())
    inputs = {**random_input(64, 96, 1), "height": 32, "width": 48}  # the picture is half as large
    inside = look_inside(model, inputs, encoder_layer=1)
    assert inside.encoder is not None
    assert inside.encoder.module is model.transformer.encoder.layers[0].self_attn
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(inside.encoder.module.state_dict())
    query = inside.encoder["query"]
    _, weights = theirs(query, query, query)
    (look,) = point_looks(inside, [(47.0, 9.0)])  # a cell is 8 x 8: column 5 of 6, row 1
    assert look.heat is not None
    np.testing.assert_allclose(look.heat.ravel(), weights[0, 11].detach().numpy(), atol=1e-6)
    assert look.point == (47.0, 9.0)


def test_padding_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(tiny_detr())
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 64)
    inside = look_inside(model, random_input(64, 96, 1))  # padded to 64 x 128: 4 x 8 cells, two columns of padding
    assert (inside.frame.covered_width, inside.frame.covered_height) == (128.0, 64.0)
    assert inside.frame.map_sizes == ((4, 8),)
    for look in [*detection_looks(inside, [0, 1], NAMES), *point_looks(inside, [(95.0, 63.0)])]:
        assert look.heat is not None
        assert (look.heat[:, 6:] == 0).all()
        assert (look.heat[:, :6] > 0).all()
        assert look.heat.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("variant", ["multi_scale", "refine", "two_stage"])
def test_deformable_samples_lie_around_the_reference(variant: str) -> None:
    model = tiny_deformable(variant).eval()  # as initialised: offsets of 1 to 4 cells, or up to half the box
    inside = look_inside(model, random_input(128, 96, 1))
    (look,) = detection_looks(inside, [3], NAMES)
    assert look.heat is None
    assert look.samples is not None
    assert look.samples.shape == (4 * 4 * 4, 4)  # heads, levels, points
    assert look.samples[:, 2].sum() == pytest.approx(1, abs=1e-5)
    assert sorted(set(look.samples[:, 3])) == [0, 1, 2, 3]
    reference = inside.decoder["reference_points"][0, inside.queries[3], 0]
    centre = reference[:2].numpy() * [96, 128]
    np.testing.assert_allclose(look.samples[:, :2].mean(0), centre, atol=1e-2)  # four directions, evenly
    (one,) = detection_looks(inside, [3], NAMES, head=2)
    assert one.samples is not None
    assert one.samples.shape == (4 * 4, 4)
    assert one.samples[:, 2].sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="there is no head 5"):
        detection_looks(inside, [3], NAMES, head=5)


def test_deformable_encoder_samples_around_the_point() -> None:
    inside = look_inside(tiny_deformable("multi_scale").eval(), random_input(128, 96, 1))
    assert inside.frame.map_sizes[0] == (16, 12)
    (look,) = point_looks(inside, [(50.0, 60.0)])
    assert look.samples is not None
    np.testing.assert_allclose(look.samples[:, :2].mean(0), [52.0, 60.0], atol=1e-2)  # centre of the cell 48..56


def test_a_model_without_encoder_layers() -> None:
    model = tiny_detr("MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 0).eval()
    assert look_inside(model, random_input(64, 64, 1)).encoder is None


@pytest.mark.parametrize("dense", [True, False])
def test_pictures_show_every_look(dense: bool, tmp_path: Path) -> None:
    model = (tiny_detr() if dense else tiny_deformable("refine")).eval()
    inputs = random_input(64, 96, 1)
    inside = look_inside(model, inputs)
    looks = detection_looks(inside, range(5), ("$x$", "dog", "cow"))
    image = inputs["image"].permute(1, 2, 0).numpy()
    save_looks(tmp_path / "one.png", image, inside.frame, looks[:1])
    save_looks(tmp_path / "five.png", image, inside.frame, looks)
    one, five = (Image.open(tmp_path / name).size for name in ("one.png", "five.png"))
    assert (five[0], five[1]) == (4 * one[0], 2 * one[1])  # four in a row
