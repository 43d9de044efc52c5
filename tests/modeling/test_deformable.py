"""Deformable DETR as a model: initial values, padding, refinement, two stages, memory, mistakes.

That it computes what it should is in `test_deformable_transformers.py` and `test_deformable_official.py`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from tiny_deformable import VARIANTS, stir, tiny_deformable
from tiny_models import NUM_CLASSES, random_input
from torch import Tensor, nn

from detr_d2.layers import downsample_mask, padding_mask
from detr_d2.modeling import DETR, DeformableTransformer, TransformerInputs
from detr_d2.modeling.transformer.deformable_layers import Levels, inverse_sigmoid

T = "MODEL.DETR.TRANSFORMER."


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def transform(model: DETR, images: ImageList) -> Any:
    """The transformer's output for all layers."""
    found: list[Any] = []
    handle = model.transformer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model.predict(images, all_layers=True)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_initial_values(variant: str):
    model = tiny_deformable(variant, T + "HIDDEN_DIM", 256, T + "NUM_HEADS", 8)
    values = {name: value.detach() for name, value in model.named_parameters()}
    levels = 1 if variant == "single_scale" else 4
    for layer in ("encoder.layers.1.self_attn", "decoder.layers.2.cross_attn"):
        prefix = f"transformer.{layer}."
        assert not values[prefix + "sampling_offsets.weight"].any()  # the xavier loop comes first
        assert not values[prefix + "attention_weights.weight"].any()
        assert values[prefix + "sampling_offsets.bias"].view(8, levels, 4, 2)[1, 0, 2].tolist() == pytest.approx([3, 3])
        assert float(values[prefix + "value_proj.weight"].std()) == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert values["transformer.level_embed"].shape == (levels, 256)
    assert float(values["transformer.level_embed"].std()) == pytest.approx(1, abs=0.2)
    assert float(values["transformer.decoder.layers.0.self_attn.in_proj_weight"].std()) == pytest.approx(
        0.0442, rel=0.05
    )
    for level in range(levels):
        convolution = values[f"neck.input_proj.{level}.0.weight"]
        bound = (6 / (convolution[0].numel() + convolution[:, 0].numel())) ** 0.5
        assert 0.95 * bound < float(convolution.abs().max()) < 1.001 * bound
        assert not values[f"neck.input_proj.{level}.0.bias"].any()
    if variant == "two_stage":
        assert "transformer.query_embed.weight" not in values
        assert not any("reference_points" in name for name in values)
    else:
        assert values["transformer.query_embed.weight"].shape == (8, 512)
        assert float(values["transformer.query_embed.weight"].std()) == pytest.approx(1, abs=0.05)
        assert not values["transformer.reference_points.bias"].any()
        assert float(values["transformer.reference_points.weight"].abs().max()) < 1.001 * (6 / 258) ** 0.5
    heads = {"single_scale": 1, "multi_scale": 1, "refine": 3, "two_stage": 4}[variant]
    assert sum("class_embed" in name for name in values) == 2 * heads
    for head in range(heads):
        assert (values[f"head.class_embed.{head}.bias"] == -math.log(99)).all()
        assert not values[f"head.bbox_embed.{head}.layers.2.weight"].any()
        small = -2.0 if head == 0 and variant != "two_stage" else 0.0
        assert values[f"head.bbox_embed.{head}.layers.2.bias"].tolist() == [0, 0, small, small]
        assert torch.equal(
            values[f"head.bbox_embed.{head}.layers.0.weight"], values["head.bbox_embed.0.layers.0.weight"]
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_boxes_stand_on_the_references(variant: str):
    model = tiny_deformable(variant)
    images = model.preprocess_image([random_input(64, 96, 0), random_input(96, 96, 0)])
    boxes = model.predict(images, all_layers=True).boxes_cxcywh
    references = transform(model, images).reference_logits
    for layer, (box, reference) in enumerate(zip(boxes, references, strict=True)):
        torch.testing.assert_close(box[..., :2], reference[..., :2].sigmoid(), atol=1e-6, rtol=0)
        if variant == "two_stage" or (variant == "refine" and layer):
            assert reference.shape == (2, 8, 4)
        else:
            assert reference.shape == (2, 8, 2)
            assert box[..., 2:].detach().unique().tolist() == pytest.approx([1 / (1 + math.e**2)])  # sigmoid(-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_finite_gradient(variant: str):
    model = tiny_deformable(variant)
    stir(model)
    losses = model([random_input(64, 96, 3), random_input(80, 64, 2)])
    suffixes = ["", "_0", "_1"] + ["_enc"] * (variant == "two_stage")
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in suffixes}
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_cells_behind_the_neck_change_nothing(variant: str):
    # The neck itself mixes them in, through its norms and its strided convolution: so do the authors'.
    model = tiny_deformable(variant).double()
    stir(model)
    sizes, padded = [(64, 128), (128, 64)], (128, 128)
    images = ImageList(torch.randn(2, 3, *padded, dtype=torch.float64), sizes)
    mask = padding_mask(sizes, padded, "cpu")
    before = model.predict(images, all_layers=True)

    def noise(_module: Any, _inputs: Any, output: list[Tensor]) -> list[Tensor]:
        noisy = []
        for x in output:
            cells = downsample_mask(mask, (x.shape[-2], x.shape[-1]))
            assert cells is not None
            noisy.append(torch.where(cells[:, None], 100 * torch.randn_like(x), x))
        return noisy

    handle = model.neck.register_forward_hook(noise)
    after = model.predict(images, all_layers=True)
    handle.remove()
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_of_equal_size_give_the_same_alone_and_in_a_batch(variant: str):
    model = tiny_deformable(variant).double()
    stir(model)
    inputs = [random_input(64, 96, 2) for _ in range(3)]
    together = model.predict(model.preprocess_image(inputs), all_layers=True)
    for i, x in enumerate(inputs):
        alone = model.predict(model.preprocess_image([x]), all_layers=True)
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, i], atol=1e-9, rtol=0)
        torch.testing.assert_close(alone.boxes_cxcywh[:, 0], together.boxes_cxcywh[:, i], atol=1e-9, rtol=0)


def test_a_mask_without_padding_is_no_mask():
    model = tiny_deformable("two_stage").double()
    stir(model)
    maps = [torch.randn(2, 64, n, n, dtype=torch.float64) for n in (8, 4, 2, 1)]
    positions = [torch.randn(1, 64, n, n, dtype=torch.float64) for n in (8, 4, 2, 1)]
    masks = [torch.zeros(2, n, n, dtype=torch.bool) for n in (8, 4, 2, 1)]
    inputs = [TransformerInputs(maps, m, positions, True, model.head) for m in ([None] * 4, masks)]
    plain, masked = map(model.transformer, inputs)
    torch.testing.assert_close(masked.hidden_states, plain.hidden_states, atol=1e-12, rtol=0)
    torch.testing.assert_close(masked.proposals, plain.proposals, atol=1e-12, rtol=0)


def test_last_layer_alone_is_the_last_of_all():
    model = tiny_deformable("refine").eval()
    stir(model)
    images = model.preprocess_image([random_input(64, 96, 0)])
    every, last = (model.predict(images, all_layers=x) for x in (True, False))
    assert len(every.logits) == 3
    torch.testing.assert_close(last.logits, every.logits[-1:])
    torch.testing.assert_close(last.boxes_cxcywh, every.boxes_cxcywh[-1:])


def test_refinement_moves_the_references_without_gradients():
    model = tiny_deformable("refine")
    stir(model)
    images = model.preprocess_image([random_input(64, 96, 0)])
    boxes = model.predict(images, all_layers=True).boxes_cxcywh
    output = transform(model, images)
    for previous, reference in zip(boxes, output.reference_logits[1:], strict=False):
        torch.testing.assert_close(reference, inverse_sigmoid(previous.detach()), atol=1e-5, rtol=1e-5)
        assert not reference.requires_grad
    heads = [list(head.parameters()) for head in model.get_submodule("head.bbox_embed").children()]
    for layer, loss in enumerate(boxes.sum((1, 2, 3))):
        for head, parameters in enumerate(heads):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            assert all(bool(g.any()) == (head == layer) for g in gradients)


def test_queries_that_may_not_read_others_do_not_know_them():
    model = tiny_deformable("refine").double()
    stir(model)
    model.eval()
    maps = [torch.randn(1, 64, n, n, dtype=torch.float64) for n in (8, 4, 2, 1)]
    levels = Levels.of(maps, [None] * 4)
    memory = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
    content, position = torch.randn(2, 1, 8, 64, dtype=torch.float64)
    references = torch.rand(1, 8, 4, dtype=torch.float64)
    attend = torch.ones(8, 8, dtype=torch.bool)
    attend[3:, :3] = False
    decoder = model.get_submodule("transformer.decoder")

    def decode(x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, logits = decoder(x, position, references, memory, levels, model.head, attend)
        return torch.stack(outputs), torch.stack(logits)

    other = content.clone()
    other[:, :3] += 1
    for before, after in zip(decode(content), decode(other), strict=True):
        torch.testing.assert_close(after[:, :, 3:], before[:, :, 3:], atol=1e-12, rtol=0)
        assert not torch.allclose(after[:, :, :3], before[:, :, :3], atol=1e-3)


def test_without_refinement_the_references_stay():
    model = tiny_deformable("multi_scale")
    stir(model)
    first, *others = transform(model, model.preprocess_image([random_input(64, 96, 0)])).reference_logits
    assert all(torch.equal(first, x) for x in others)
    assert first.requires_grad  # they are learned


def test_proposals_by_hand():
    # One level of 4 x 2 cells, of which the image fills 2 x 2, and a second of one cell: the rest is not usable.
    model = tiny_deformable("two_stage", "MODEL.DETR.NUM_FEATURE_LEVELS", 3)
    transformer, sizes = model.transformer, [(4, 2), (1, 1), (1, 1)]
    maps = [torch.randn(1, 64, *size) for size in sizes]
    masks = [torch.zeros(1, *size, dtype=torch.bool) for size in sizes]
    masks[0][:, 2:] = True
    positions = [torch.zeros(1, 64, *size) for size in sizes]
    boxes = transformer(TransformerInputs(maps, masks, positions, False, model.head)).proposals.boxes_cxcywh[0]
    # The box head adds nothing yet: centres of cells in the unpadded image, 5 % wide, doubled by level.
    expected = [[x, y, 0.05, 0.05] for y in (0.25, 0.75) for x in (0.25, 0.75)] + [[1.0] * 4] * 4
    expected += [[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]
    torch.testing.assert_close(boxes, torch.tensor(expected), atol=1e-6, rtol=0)


def test_queries_are_the_best_proposals_by_the_first_class():
    model = tiny_deformable("two_stage")
    stir(model)
    output = transform(model, model.preprocess_image([random_input(128, 160, 0)]))
    logits, boxes = (x[0] for x in output.proposals[:2])
    best = logits[:, 0].argsort(descending=True)[:8]
    torch.testing.assert_close(output.reference_logits[0][0], inverse_sigmoid(boxes[best]), atol=1e-4, rtol=1e-4)
    assert not output.reference_logits[0].requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(33, 40), (40, 33)])
def test_tiny_images_work(variant: str, size: tuple[int, int]):
    # 2 x 2 cells of stride 32, one of stride 64: fewer than the 50 queries.
    model = tiny_deformable(variant, "MODEL.DETR.NUM_QUERIES", 50)
    inputs = [random_input(*size, 2), random_input(34, 34, 1)]
    losses = model(inputs)
    total(losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(loss.isfinite() for loss in losses.values())
    model.eval()
    found = model(inputs)[0]["instances"]
    assert 0 < len(found) <= min(100, 50 * NUM_CLASSES)
    assert found.pred_boxes.tensor.isfinite().all()


def test_fewer_cells_than_queries_make_as_many_queries_as_cells():
    model = tiny_deformable("two_stage", "MODEL.DETR.NUM_QUERIES", 500)
    images = model.preprocess_image([random_input(64, 64, 0), random_input(33, 64, 0)])
    predictions = model.predict(images, all_layers=True)
    assert predictions.logits.shape == (3, 2, 64 + 16 + 4 + 1, NUM_CLASSES)
    assert predictions.boxes_cxcywh.isfinite().all()


@pytest.mark.parametrize("variant", ["refine", "two_stage"])
def test_bfloat16_autocast_trains_every_head(variant: str):
    model = tiny_deformable(variant)
    stir(model)
    inputs = [random_input(64, 96, 3), random_input(64, 64, 1)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs)
        predictions = model.predict(model.preprocess_image(inputs), all_layers=False)
    assert predictions.boxes_cxcywh.dtype == torch.float32
    total(losses).backward()
    for name, parameter in model.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("variant", ["two_stage", "single_scale"])
def test_recomputing_changes_nothing(variant: str, dropout: float):
    gradients, calls = [], []
    plain = tiny_deformable(variant, T + "DROPOUT", dropout)
    stir(plain)
    inputs = [random_input(64, 96, 3)]
    for recompute in (False, True):
        model = tiny_deformable(variant, T + "DROPOUT", dropout, T + "RECOMPUTE", recompute)
        model.load_state_dict(plain.state_dict())
        count: list[int] = []
        layers = [model.get_submodule(f"transformer.{part}.layers") for part in ("encoder", "decoder")]
        for layer in [layer for part in layers for layer in part.children()]:
            layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(3)
        total(model(inputs)).backward()
        gradients.append([p.grad for p in model.parameters()])
        calls.append(len(count))
    assert calls == [5, 10]
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_few_steps_lower_the_loss(variant: str):
    model = tiny_deformable(variant)
    inputs = [random_input(64, 64, 3), random_input(64, 48, 1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = total(model(inputs))
        values.append(loss.item())
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]


def test_softmax_works_as_well():
    model = tiny_deformable("two_stage", "MODEL.DETR.CRITERION.CLASSIFICATION", "softmax")
    losses = model([random_input(64, 96, 3)])
    assert "loss_ce_enc" in losses
    total(losses).backward()
    model.eval()
    found = model([random_input(64, 96, 0)])[0]["instances"]
    assert len(found) == 8
    assert set(found.pred_classes.tolist()) <= set(range(NUM_CLASSES))


def test_nothing_stands_under_two_names():
    for variant in VARIANTS:
        state = tiny_deformable(variant).state_dict(keep_vars=True)
        assert len({id(value) for value in state.values()}) == len(state)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (
            "multi_scale",
            ["MODEL.DETR.IN_FEATURES", ["res3", "p6"]],
            r"names \['p6'\].*outputs \['res3', 'res4', 'res5'\]",
        ),
        (
            "multi_scale",
            ["MODEL.DETR.NUM_FEATURE_LEVELS", 2],
            "num_levels is 2, expected at least one for each of 3 maps",
        ),
        (
            "multi_scale",
            [T + "HIDDEN_DIM", 48],
            "out_channels is 48, .* multiple of the 32 groups .*HIDDEN_DIM",
        ),
        (
            "single_scale",
            ["MODEL.DETR.NUM_FEATURE_LEVELS", 2, "MODEL.DETR.NECK.NAME", "Projection"],
            "use ChannelMapper",
        ),
        ("multi_scale", [T + "DEFORMABLE.TWO_STAGE", True], "two_stage needs box_refinement: True"),
        ("refine", ["MODEL.DETR.AUX_LOSS", False], "BOX_REFINEMENT needs MODEL.DETR.AUX_LOSS: True"),
        ("multi_scale", [T + "ACTIVATION", "swish"], r"MODEL\.DETR\.TRANSFORMER: activation is 'swish'"),
        (
            "multi_scale",
            [T + "DEFORMABLE.SAMPLING_BACKEND", "cuda"],
            r"TRANSFORMER: The backend .* is 'cuda', expected one of auto",
        ),
    ],
)
def test_wrong_config_values_name_the_key(variant: str, options: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny_deformable(variant, *options)


def test_heads_and_transformers_that_do_not_fit():
    inputs = [random_input(64, 64, 1)]
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.HEAD\.NAME to ReferenceHead"):
        tiny_deformable("refine", "MODEL.DETR.HEAD.NAME", "DETRHead")(inputs)
    with pytest.raises(ValueError, match="relative to references, which this transformer does not give"):
        tiny_deformable(
            *["single_scale", T + "NAME", "DETRTransformer", "MODEL.DETR.NECK.NAME", "Projection"],
        )(inputs)


def test_the_number_of_maps_must_be_that_of_the_levels():
    arguments: dict[str, Any] = {"hidden_dim": 32, "num_queries": 4, "num_heads": 4, "feedforward_dim": 32}
    transformer = DeformableTransformer(num_encoder_layers=1, num_decoder_layers=1, num_levels=3, **arguments)
    maps = [torch.zeros(1, 32, 2, 2)] * 2
    with pytest.raises(ValueError, match=r"has 3 feature levels .* the neck gives 2 maps"):
        transformer(TransformerInputs(maps, [None] * 2, maps, True))
    assert isinstance(transformer.query_embed, nn.Embedding)
