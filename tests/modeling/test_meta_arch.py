from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from tiny_models import random_input, tiny_cfg, tiny_detr

from detr_d2.layers import downsample_mask, padding_mask
from detr_d2.modeling import DETR, Predictions


def detections(model: DETR, inputs: list[dict[str, Any]]) -> list[torch.Tensor]:
    """(Q, 6) of each image: box, score, class; best first."""
    model.eval()
    with torch.no_grad():
        results = [x["instances"] for x in model(inputs)]
    return [torch.cat([x.pred_boxes.tensor, x.scores[:, None], x.pred_classes[:, None].float()], 1) for x in results]


def test_training_returns_only_weighted_losses():
    model = tiny_detr()
    losses = model([random_input(64, 96, 2), random_input(64, 64, 0)])
    names = {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in ("", "_0", "_1")}
    assert set(losses) == names
    assert all(loss.requires_grad and loss.isfinite() for loss in losses.values())


def test_without_auxiliary_losses_only_the_last_layer_counts():
    assert set(tiny_detr("MODEL.DETR.AUX_LOSS", False)([random_input(64, 64, 2)])) == {
        "loss_ce", "loss_bbox", "loss_giou",
    }  # fmt: skip


def test_every_parameter_gets_a_finite_gradient():
    model = tiny_detr("MODEL.DETR.POSITION_ENCODING.NAME", "learned", "MODEL.RESNETS.NORM", "BN")
    sum(model([random_input(64, 96, 3), random_input(80, 64, 2)]).values()).backward()
    zero = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not parameter.grad.any():
            zero.append(name)
    # The content that enters decoder layer 0 is zero and so are the biases of its self-attention: it yields zero.
    layer = "transformer.decoder.layers.0."
    assert zero == [layer + "self_attn.in_proj_weight", layer + "self_attn.out_proj.weight", layer + "norm1.weight"]


@pytest.mark.parametrize("training", [False, True])
def test_padded_feature_cells_change_nothing(training: bool):
    model = tiny_detr().double().train(training)
    sizes, padded = [(64, 96), (96, 64)], (96, 96)
    images = ImageList(torch.randn(2, 3, *padded, dtype=torch.float64), sizes)
    cells = (6, 6)
    mask = downsample_mask(padding_mask(sizes, padded, "cpu"), cells)
    assert mask is not None
    before = model.predict(images, all_layers=True)

    def noise(_module: Any, _inputs: Any, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: torch.where(mask[:, None], 100 * torch.randn_like(v), v) for k, v in output.items()}

    handle = model.backbone.register_forward_hook(noise)
    after = model.predict(images, all_layers=True)
    handle.remove()
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_images_of_equal_size_give_the_same_alone_and_in_a_batch(training: bool):
    model = tiny_detr().double().train(training)
    inputs = [random_input(64, 80, 2) for _ in range(3)]
    together = model.predict(model.preprocess_image(inputs), all_layers=True)
    for i, x in enumerate(inputs):
        alone = model.predict(model.preprocess_image([x]), all_layers=True)
        torch.testing.assert_close(alone[0][:, 0], together[0][:, i], atol=1e-9, rtol=0)
        torch.testing.assert_close(alone[1][:, 0], together[1][:, i], atol=1e-9, rtol=0)


def test_padding_is_the_mean_colour_after_normalisation():
    model = tiny_detr("MODEL.PIXEL_MEAN", [10.0, 20.0, 30.0], "MODEL.PIXEL_STD", [1.0, 2.0, 4.0])
    first, second = random_input(32, 64, 1), random_input(64, 32, 1)
    images = model.preprocess_image([first, second])
    assert images.image_sizes == [(32, 64), (64, 32)]
    assert images.tensor.shape == (2, 3, 64, 64)
    assert not images.tensor[0, :, 32:].any()
    expected = (first["image"][2, 5, 7].float() - 30) / 4
    assert images.tensor[0, 2, 5, 7] == pytest.approx(float(expected))


def test_all_queries_are_returned_best_first_at_the_asked_resolution():
    model = tiny_detr()
    small = random_input(64, 80, 0)
    large = {**small, "height": 128, "width": 160}
    (a,), (b,) = detections(model, [small]), detections(model, [large])
    assert len(a) == 8
    assert (a[:-1, 4] >= a[1:, 4]).all()
    torch.testing.assert_close(b[:, :4], 2 * a[:, :4], atol=1e-4, rtol=1e-4)
    del small["height"], small["width"]
    torch.testing.assert_close(detections(model, [small])[0], a)


def test_score_threshold_and_limit_come_from_the_config():
    state = tiny_detr().state_dict()
    inputs = [random_input(64, 80, 0)]
    full = tiny_detr()
    full.load_state_dict(state)
    scores = detections(full, inputs)[0][:, 4]
    strict = tiny_detr("MODEL.DETR.SCORE_THRESH_TEST", float(scores[2]))
    strict.load_state_dict(state)
    assert len(detections(strict, inputs)[0]) == 3
    few = tiny_detr("TEST.DETECTIONS_PER_IMAGE", 5)
    few.load_state_dict(state)
    torch.testing.assert_close(detections(few, inputs)[0][:, 4], scores[:5])


def test_nan_predictions_name_iteration_and_files():
    model = tiny_detr()
    model.get_parameter("head.class_embed.weight").data.fill_(float("nan"))
    inputs = [random_input(64, 64, 0, file_name="empty.png"), random_input(64, 64, 2, file_name="dog.png")]
    with EventStorage(17), pytest.raises(FloatingPointError) as info:
        model(inputs)
    message = str(info.value)
    assert "Iteration 17" in message
    assert "dog.png are NaN or infinite (in logits; images of this batch: empty.png, dog.png)" in message


def test_nan_under_fp16_autocast_reaches_the_scaler_as_a_loss():
    model = tiny_detr()
    logits = torch.full((1, 1, 8, 4), float("nan"), dtype=torch.float16)
    boxes = torch.rand(1, 1, 8, 4).half()
    inputs = [random_input(64, 64, 2)]
    targets = model.pack_targets(inputs, model.preprocess_image(inputs))
    with torch.autocast("cpu", dtype=torch.float16):
        assert model.losses(Predictions(logits, boxes), targets, inputs)["loss_ce"].isnan()
    with pytest.raises(FloatingPointError):
        model.losses(Predictions(logits.float(), boxes.float()), targets, inputs)


def test_bfloat16_autocast_trains():
    model = tiny_detr()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([random_input(64, 96, 3), random_input(64, 64, 1)])
        boxes = model.predict(model.preprocess_image([random_input(64, 64, 0)]), all_layers=False)[1]
    assert boxes.dtype == torch.float32
    total = sum(losses.values())
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("names", [["backbone"], ["encoder", "class_embed"], ["transformer.decoder", "neck"]])
def test_freeze_leaves_the_rest_trainable_and_the_frozen_part_alone(names: list[str]):
    model = tiny_detr("MODEL.DETR.FREEZE", names, "MODEL.RESNETS.NORM", "BN").train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model([random_input(64, 64, 2)]).values()).backward()
        optimizer.step()

    def frozen(key: str) -> bool:
        return any(name in f".{key}" for name in (f".{n}." for n in names))

    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert {key for key in before if frozen(key)} <= same
    parameters = {name for name, _ in model.named_parameters()}
    moved = parameters - same
    assert moved
    assert moved == {name for name in parameters if not frozen(name)}


def test_freeze_of_an_unknown_part_lists_the_parts():
    with pytest.raises(ValueError, match=r"FREEZE\) names 'bakbone'.*'backbone', 'neck'"):
        tiny_detr("MODEL.DETR.FREEZE", ["bakbone"])


def test_zero_classes_come_from_the_metadata():
    MetadataCatalog.get("meta_arch_test").thing_classes = ["a", "b", "c", "d"]
    try:
        model = tiny_detr("MODEL.DETR.NUM_CLASSES", 0, "DATASETS.TRAIN", ("meta_arch_test",))
        assert model.num_classes == 4
        assert len(model.get_parameter("head.class_embed.weight")) == 5
    finally:
        MetadataCatalog.remove("meta_arch_test")
    with pytest.raises(ValueError, match=r"set MODEL.DETR.NUM_CLASSES, or register"):
        tiny_detr("MODEL.DETR.NUM_CLASSES", 0, "DATASETS.TRAIN", ())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["MODEL.DETR.IN_FEATURES", ["res5"]], r"IN_FEATURES names \['res5'\].*outputs \['res4'\]"),
        (["MODEL.DETR.POSITION_ENCODING.NAME", "cosine"], "'cosine', expected 'sine' or 'learned'"),
        (["MODEL.DETR.IN_FEATURES", ["res4", "res4"]], "reads exactly one feature map"),
    ],
)
def test_wrong_config_values_name_the_key(option: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny_detr(*option)


@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "query_embed.weight", "backbone.0.body.conv1.weight"])
@pytest.mark.parametrize("with_transformer", [False, True])
def test_a_foreign_state_dict_is_refused(key: str, with_transformer: bool):
    model = tiny_detr()
    content = {key: torch.zeros(1)}
    if with_transformer and not key.startswith("layer1"):  # the authors' names of these are ours, too
        content.update({k: v for k, v in model.state_dict().items() if k.startswith("transformer.encoder")})
    with pytest.raises(ValueError, match=r"1 of the \d+ keys of the checkpoint .* another library or model"):
        model.load_state_dict(content, strict=False)


def test_vis_period_draws_ground_truth_and_predictions():
    model = tiny_detr("VIS_PERIOD", 5)
    with EventStorage(10) as storage:
        model([random_input(64, 96, 2)])
    (_name, image, iteration), = storage._vis_data  # fmt: skip
    assert iteration == 10
    assert image.shape == (3, 64, 192)
    with EventStorage(11) as storage:
        model([random_input(64, 96, 2)])
    assert not storage._vis_data


def test_a_users_own_transformer_is_chosen_by_name():
    from detr_d2.modeling import TRANSFORMER_REGISTRY, DETRTransformer

    class Shouting(DETRTransformer):
        """A transformer of a user's own file."""

    TRANSFORMER_REGISTRY.register(Shouting)
    model = tiny_detr("MODEL.DETR.TRANSFORMER.NAME", "Shouting")
    assert type(model.transformer) is Shouting
    assert isinstance(build_model(tiny_cfg()), DETR)
