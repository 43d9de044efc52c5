"""DETR with masks as a whole: training, inference, freezing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer
from segmentation_cases import MASKS, PANOPTIC, Truth, segmentation_input
from tiny_deformable import tiny_deformable
from tiny_models import random_input, tiny_cfg, tiny_detr
from torch import Tensor

from detr_d2.modeling import DETR, MaskInputs, Predictions
from detr_d2.solver import build_optimizer

BOX_MODEL = ["backbone", "neck", "transformer", "head"]


def predict(model: DETR, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    model.eval()
    with torch.no_grad():
        return model(inputs)


def test_training_adds_two_losses_of_the_last_layer():
    losses = tiny_detr(*MASKS)([segmentation_input(64, 96, 3), segmentation_input(48, 64, 0)])
    names = {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in ("", "_0", "_1")}
    assert set(losses) == names | {"loss_mask", "loss_dice"}
    assert all(loss.requires_grad and loss.isfinite() for loss in losses.values())


def test_losses_have_the_weights_of_the_config():
    inputs = [segmentation_input(64, 96, 3)]
    plain = tiny_detr(*MASKS)
    heavy = tiny_detr(*MASKS, "MODEL.DETR.CRITERION.LOSS_MASK", 4.0, "MODEL.DETR.CRITERION.LOSS_DICE", 0.5)
    heavy.load_state_dict(plain.state_dict())
    first, second = plain(inputs), heavy(inputs)
    torch.testing.assert_close(second["loss_mask"], 4 * first["loss_mask"])
    torch.testing.assert_close(second["loss_dice"], 0.5 * first["loss_dice"])


@pytest.mark.parametrize("counts", [(3, 2), (0, 0)])
def test_every_parameter_of_the_mask_head_gets_a_gradient_even_without_objects(counts: tuple[int, int]):
    model = tiny_detr(*MASKS)
    sum(model([segmentation_input(64, 96, counts[0]), segmentation_input(80, 64, counts[1])]).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith("mask_head"):
            assert bool(parameter.grad.any()) == any(counts), name


def test_only_matched_queries_go_through_the_head_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch):
    """The same losses and gradients as of masks of all queries, of which the matched ones are taken afterwards."""
    inputs = [segmentation_input(64, 96, 3), segmentation_input(80, 64, 2)]
    model = tiny_detr(*MASKS).double()
    seen: list[int] = []
    handle = model.get_submodule("mask_head.out_lay").register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    matched = model(inputs)
    sum(matched.values()).backward()
    assert seen == [5]
    handle.remove()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    head = model.mask_head
    assert head is not None
    forward = head.forward

    def all_queries(mask_inputs: MaskInputs, queries: Sequence[Tensor]) -> Tensor:
        every = torch.arange(8)
        masks = forward(mask_inputs, [every, every]).unflatten(0, (2, 8))
        return torch.cat([x[q] for x, q in zip(masks, queries, strict=True)])

    monkeypatch.setattr(head, "forward", all_queries)
    everything = model(inputs)
    sum(everything.values()).backward()
    torch.testing.assert_close(matched, everything, atol=1e-10, rtol=0)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_detections_come_with_masks_of_the_asked_size():
    model = tiny_detr(*MASKS)
    inputs = [segmentation_input(64, 80, 1), segmentation_input(48, 96, 2)]
    inputs[0].update(height=100, width=131)
    for result, size in zip(predict(model, inputs), [(100, 131), (48, 96)], strict=True):
        instances = result["instances"]
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
        assert instances.pred_masks.dtype == torch.bool
        assert tuple(instances.pred_masks.shape) == (len(instances), *size)
    Visualizer(torch.zeros(48, 96, 3).numpy(), MetadataCatalog.get("__none")).draw_instance_predictions(instances)


def test_detectron2s_predictor_returns_masks_of_the_pictures_size():
    predictor = DefaultPredictor(tiny_cfg(*MASKS, "INPUT.MIN_SIZE_TEST", 64, "DATASETS.TEST", ()))
    instances = predictor(np.zeros((50, 90, 3), dtype=np.uint8))["instances"]
    assert tuple(instances.pred_masks.shape) == (len(instances), 50, 90)


def test_boxes_are_those_of_the_same_model_without_masks():
    with_masks, without = tiny_detr(*MASKS), tiny_detr()
    without.load_state_dict({k: v for k, v in with_masks.state_dict().items() if not k.startswith("mask_head.")})
    inputs = [segmentation_input(64, 80, 1), segmentation_input(48, 96, 2)]
    for x, y in zip(predict(with_masks, inputs), predict(without, inputs), strict=True):
        assert torch.equal(x["instances"].pred_boxes.tensor, y["instances"].pred_boxes.tensor)
        assert torch.equal(x["instances"].scores, y["instances"].scores)


def test_dropped_queries_do_not_go_through_the_head():
    model = tiny_detr(*MASKS)
    inputs = [segmentation_input(64, 80, 1)]
    full = predict(model, inputs)[0]["instances"]
    seen: list[int] = []
    model.get_submodule("mask_head.out_lay").register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    model.score_threshold = float(full.scores[2])
    kept = predict(model, inputs)[0]["instances"]
    assert seen == [3]
    assert torch.equal(kept.pred_masks, full.pred_masks[:3])
    model.score_threshold = 1.1
    nothing = predict(model, inputs)[0]["instances"]
    assert tuple(nothing.pred_masks.shape) == (0, 64, 80)
    assert seen == [3, 0]


def test_images_of_equal_size_give_the_same_masks_alone_and_in_a_batch():
    model = tiny_detr(*MASKS).double().eval()
    inputs = [segmentation_input(64, 80, 2) for _ in range(3)]
    for x, together in zip(inputs, predict(model, inputs), strict=True):
        alone = predict(model, [x])[0]["instances"]
        assert torch.equal(alone.pred_masks, together["instances"].pred_masks)


def test_the_truth_comes_back_from_a_batch_of_different_sizes():
    model = tiny_detr(*MASKS, "MODEL.DETR.MASK_HEAD.NAME", "Truth")
    inputs = [segmentation_input(64, 96, 8), segmentation_input(80, 48, 8), segmentation_input(32, 32, 8)]
    inputs[1].update(height=160, width=96)
    head = model.mask_head
    assert isinstance(head, Truth)
    head.images = [x["instances"] for x in inputs]
    for x, scale, result in zip(inputs, (1, 2, 1), predict(model, inputs), strict=True):
        truth = x["instances"].gt_masks.tensor
        large = truth.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        found = result["instances"].pred_masks
        assert len(found) == 8
        order = [int((mask == large).flatten(1).float().mean(1).argmax()) for mask in found]
        assert torch.equal(found, large[order])


def test_box_model_stays_bit_identical_while_the_mask_head_learns():
    options = ["MODEL.RESNETS.NORM", "BN", "MODEL.DETR.TRANSFORMER.DROPOUT", 0.1, "SOLVER.OPTIMIZER", "ADAMW"]
    cfg = tiny_cfg(*MASKS, "MODEL.DETR.FREEZE", BOX_MODEL, "SOLVER.BASE_LR", 0.01, *options)
    model = build_model(cfg)
    inputs = [segmentation_input(64, 96, 3), segmentation_input(80, 64, 2)]
    boxes_before = predict(model, inputs)[0]["instances"].pred_boxes.tensor
    before = hashes(model)
    assert any("running_mean" in name for name in before)
    optimizer = build_optimizer(cfg, model.train())
    for _ in range(10):
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        optimizer.step()
    after = hashes(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.startswith("mask_head.")}
    assert torch.equal(predict(model, inputs)[0]["instances"].pred_boxes.tensor, boxes_before)


def hashes(model: DETR) -> dict[str, str]:
    """Of every parameter and buffer, also of those that are not saved."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: hashlib.sha256(x.detach().numpy().tobytes()).hexdigest() for name, x in tensors.items()}


def test_a_few_steps_teach_the_mask_head_two_images():
    model = tiny_detr(*MASKS, "MODEL.DETR.FREEZE", BOX_MODEL)
    inputs = [segmentation_input(64, 64, 2), segmentation_input(64, 48, 1)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        losses = model(inputs)
        history.append((losses["loss_mask"].item(), losses["loss_dice"].item()))
        sum(losses.values()).backward()
        optimizer.step()
    assert history[-1][0] < 0.5 * history[0][0]
    assert history[-1][1] < 0.75 * history[0][1]


@pytest.mark.parametrize("sem_seg", [False, True])
def test_panoptic_models_detect_things_and_map_everything(sem_seg: bool):
    model = tiny_detr(*PANOPTIC, "MODEL.DETR.PANOPTIC.SCORE_THRESH", 0.3, "MODEL.DETR.PANOPTIC.SEM_SEG", sem_seg)
    with torch.no_grad():
        model.get_parameter("head.class_embed.bias").copy_(torch.tensor([0.0, 0, 0, 6, 0, -3]))
    x = segmentation_input(64, 80, 1)
    x.update(height=70, width=90)
    predictions = model.eval().predict(model.preprocess_image([x]), all_layers=False)
    result = predict(model, [x])[0]
    probabilities = predictions.logits[-1, 0].softmax(-1)
    best = probabilities[:, :3].max(1).values.sort(descending=True).values
    torch.testing.assert_close(result["instances"].scores, best)
    assert result["instances"].pred_classes.max() < 3
    ids, segments = result["panoptic_seg"]
    assert tuple(ids.shape) == (70, 90)
    assert sum(s["area"] for s in segments) == 70 * 90
    assert [(s["isthing"], s["category_id"]) for s in segments] == [(False, 1)]  # row 3 in the separated layout
    assert ("sem_seg" in result) == sem_seg
    if sem_seg:
        assert tuple(result["sem_seg"].shape) == (3, 70, 90)


def test_without_masks_a_panoptic_model_learns_boxes_of_everything_and_detects_things():
    options = ["MODEL.MASK_ON", False, "MODEL.RESNETS.OUT_FEATURES", ["res4"]]
    model = tiny_detr(*PANOPTIC, *options)
    x = random_input(64, 80, 2)
    x["instances"].gt_classes = torch.tensor([1, 4])
    assert "loss_ce" in model([x])
    (result,) = predict(model, [x])
    assert set(result) == {"instances"}
    assert result["instances"].pred_classes.max() < 3


def test_without_sem_seg_only_queries_that_can_be_seen_go_through_the_head():
    model = tiny_detr(*PANOPTIC, "MODEL.DETR.PANOPTIC.SEM_SEG", False)
    inputs = [segmentation_input(64, 80, 1)]
    model.score_threshold = 1.1
    seen: list[int] = []
    model.get_submodule("mask_head.out_lay").register_forward_hook(lambda _m, _i, out: seen.append(len(out)))

    def say(_module: Any, _inputs: Any, output: Predictions) -> Predictions:
        logits = torch.zeros_like(output[0])
        logits[..., 5] = 9.0  # "no object", as sure as can be
        logits[..., [1, 4, 6], 2] = 20.0
        logits[..., 3, 0] = 9.5  # an object, but not sure enough
        return output._replace(logits=logits)

    model.get_submodule("head").register_forward_hook(say)
    everything = predict(model, inputs)[0]["panoptic_seg"]
    assert seen == [3]
    assert model.panoptic is not None
    model.panoptic.sem_seg = True
    assert torch.equal(predict(model, inputs)[0]["panoptic_seg"][0], everything[0])
    assert seen == [3, 8]


def test_classes_of_panoptic_models_are_things_and_stuff():
    metadata = MetadataCatalog.get("segmentation_model_test")
    metadata.set(
        thing_classes=["a", "b"],
        stuff_classes=["things", "c", "d", "e"],
        thing_dataset_id_to_contiguous_id={1: 0, 2: 1},
        stuff_dataset_id_to_contiguous_id={3: 1, 4: 2, 5: 3},
    )
    try:
        options = ["MODEL.DETR.NUM_CLASSES", 0, "MODEL.DETR.PANOPTIC.NUM_THINGS", 0]
        model = tiny_detr(*PANOPTIC, *options, "DATASETS.TRAIN", ("segmentation_model_test",))
    finally:
        MetadataCatalog.remove("segmentation_model_test")
    assert (model.num_classes, model.num_things) == (5, 2)


def test_another_number_of_classes_than_the_data_has_is_refused():
    metadata = MetadataCatalog.get("segmentation_model_test")
    metadata.set(thing_dataset_id_to_contiguous_id={1: 0}, stuff_dataset_id_to_contiguous_id={2: 1, 3: 2})
    try:
        options = ["MODEL.DETR.PANOPTIC.NUM_THINGS", 0, "DATASETS.TRAIN", ("segmentation_model_test",)]
        with pytest.raises(ValueError, match=r"NUM_CLASSES is 5, but there are 1 things and 2 stuff.*set it to 3"):
            tiny_detr(*PANOPTIC, *options)
    finally:
        MetadataCatalog.remove("segmentation_model_test")


def test_bfloat16_autocast_trains():
    model = tiny_detr(*MASKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([segmentation_input(64, 96, 3), segmentation_input(64, 64, 1)])
    assert losses["loss_mask"].dtype == losses["loss_dice"].dtype == torch.float32
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_deformable_detr_has_masks_if_it_has_one_level():
    stages = ["res2", "res3", "res4", "res5"]
    model = tiny_deformable("single_scale", "MODEL.MASK_ON", True, "MODEL.RESNETS.OUT_FEATURES", stages)
    inputs = [segmentation_input(64, 96, 3), segmentation_input(96, 64, 1)]
    assert {"loss_mask", "loss_dice"} < model(inputs).keys()
    result = predict(model, inputs)[1]["instances"]  # a query may be there for several classes
    assert tuple(result.pred_masks.shape) == (len(result), 96, 64)
    assert len(result) > model.predict(model.preprocess_image(inputs), all_layers=False).logits.shape[2]
    with pytest.raises(ValueError, match="NUM_FEATURE_LEVELS is 4: the mask head reads the memory of one level"):
        tiny_deformable("multi_scale", "MODEL.MASK_ON", True)


def test_missing_maps_of_the_backbone_are_named():
    with pytest.raises(ValueError, match=r"MASK_HEAD.IN_FEATURES names \['res2', 'res3'\].*outputs \['res4'\]"):
        tiny_detr("MODEL.MASK_ON", True)
