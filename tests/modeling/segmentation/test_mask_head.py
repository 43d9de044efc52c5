from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from tiny_models import tiny_cfg
from torch import Tensor

from detr_d2.modeling import DETRMaskHead, MaskInputs, build_mask_head
from detr_d2.modeling.segmentation.attention_maps import AttentionMaps

SHAPES = {name: ShapeSpec(channels=8 * 2**i, stride=4 * 2**i) for i, name in enumerate(["res2", "res3", "res4"])}
C, HEADS = 32, 4


def tiny_head(**options: Any) -> DETRMaskHead:
    names = list(SHAPES)
    head = DETRMaskHead(
        hidden_dim=C, num_heads=HEADS, in_features=names, in_channels=[SHAPES[x].channels for x in names], **options
    )
    for parameter in head.parameters():  # zero biases and unit norms would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return head.double()


def random_inputs(images: int = 2, size: tuple[int, int] = (3, 4), padded: bool = True) -> MaskInputs:
    """Maps whose sides are not multiples of each other; the second image ends in padding."""
    height, width = size
    sizes = [(4 * height - 1, 4 * width - 2), (2 * height - 1, 2 * width - 1), (height, width)]
    mask = torch.zeros(images, height, width, dtype=torch.bool)
    mask[1:, :, -1] = True
    return MaskInputs(
        features=[
            torch.randn(images, x.channels, *s, dtype=torch.float64)
            for x, s in zip(SHAPES.values(), sizes, strict=True)
        ],
        source=torch.randn(images, C, height, width, dtype=torch.float64),
        memory=torch.randn(images, height * width, C, dtype=torch.float64),
        padding_mask=mask if padded else None,
        hidden_states=torch.randn(images, 6, C, dtype=torch.float64),
        padded_size=(16 * height, 16 * width),
    )


def one_by_one(head: DETRMaskHead, inputs: MaskInputs, image: int, query: int) -> Tensor:
    """The mask (H, W) of one query, written down layer by layer."""
    attention = head.bbox_attention
    q = attention.q_linear(inputs.hidden_states[image, query]).view(HEADS, -1)
    k = attention.k_linear(inputs.memory[image]).view(-1, HEADS, C // HEADS)
    scores = torch.stack([k[:, n] @ q[n] for n in range(HEADS)]) / math.sqrt(C // HEADS)
    if inputs.padding_mask is not None:
        scores[:, inputs.padding_mask[image].flatten()] = -math.inf
    exponentials = scores.exp()
    maps = (exponentials / exponentials.sum()).view(HEADS, *inputs.source.shape[-2:])
    x = torch.cat([inputs.source[image], maps])[None]
    x = head.gn1(head.lay1(x)).relu()
    x = head.gn2(head.lay2(x)).relu()
    for i, feature in zip((1, 2, 3), inputs.features[::-1], strict=True):
        fine = getattr(head, f"adapter{i}")(feature[image : image + 1])
        x = fine + F.interpolate(x, fine.shape[-2:])
        x = getattr(head, f"gn{i + 2}")(getattr(head, f"lay{i + 2}")(x)).relu()
    return head.out_lay(x)[0, 0]


def test_a_first_layer_that_somebody_watches_is_called() -> None:
    head, inputs = tiny_head(), random_inputs()
    queries = [torch.tensor([0, 3]), torch.tensor([2])]
    before = head(inputs, queries)
    calls: list[Any] = []
    with head.lay1.register_forward_hook(lambda *_: calls.append(1)):
        torch.testing.assert_close(head(inputs, queries), before)
    assert calls == [1]


def test_attention_is_shared_out_among_heads_and_tokens_together():
    attention = AttentionMaps(hidden_dim=2, num_heads=2)
    for linear in (attention.q_linear, attention.k_linear):
        torch.nn.init.eye_(linear.weight)
    query = torch.tensor([[math.log(2), math.log(3)]])
    memory = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [7.0, 7.0]]])
    mask = torch.tensor([[False, False, True]])
    maps = attention([query], memory, mask)
    # Heads of one channel, scale 1: head 0 has 2^1 and 2^2, head 1 has 3^0 and 3^1; their sum is 10.
    torch.testing.assert_close(maps, torch.tensor([[[0.2, 0.4, 0.0], [0.1, 0.3, 0.0]]]))
    assert not maps[..., 2].any()


def test_attention_is_float32_under_autocast():
    attention = AttentionMaps(hidden_dim=C, num_heads=HEADS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = attention([torch.randn(5, C)], torch.randn(1, 400, C), None)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(5))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [([0, 3, 5], [2]), ([], [4, 1]), ([5], [])], ids=str)
def test_masks_are_those_of_queries_computed_one_by_one(queries: tuple[list[int], list[int]], padded: bool):
    head, inputs = tiny_head(), random_inputs(padded=padded)
    masks = head(inputs, [torch.tensor(x, dtype=torch.long) for x in queries])
    expected = [one_by_one(head, inputs, image, q) for image, indices in enumerate(queries) for q in indices]
    torch.testing.assert_close(masks, torch.stack(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_segment_gives_the_same_in_parts(chunk_size: int):
    head, inputs = tiny_head(chunk_size=chunk_size), random_inputs()
    queries = torch.tensor([5, 0, 1, 2, 3])
    expected = torch.stack([one_by_one(head, inputs, 1, int(q)) for q in queries])
    torch.testing.assert_close(head.segment(inputs, 1, queries), expected, atol=1e-10, rtol=0)
    assert head.segment(inputs, 0, queries[:0]).shape == (0, *inputs.features[0].shape[-2:])


def test_never_more_queries_at_once_than_the_chunk():
    head, seen = tiny_head(chunk_size=2), []
    head.out_lay.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    head.segment(random_inputs(), 0, torch.arange(5))
    assert seen == [2, 2, 1]


def test_no_queries_at_all_still_reach_every_parameter():
    head = tiny_head()
    none = torch.zeros(0, dtype=torch.long)
    head(random_inputs(), [none, none]).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_parameters_are_named_and_shaped_as_the_authors():
    cfg = tiny_cfg(
        "MODEL.MASK_ON", True, "MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 256, "MODEL.DETR.TRANSFORMER.NUM_HEADS", 8
    )
    shapes = {f"res{i}": ShapeSpec(channels=2 ** (i + 6), stride=2**i) for i in range(2, 6)}
    cfg.MODEL.DETR.IN_FEATURES = ["res5"]
    head = build_mask_head(cfg, shapes)
    assert head is not None
    found = {name: tuple(x.shape) for name, x in head.state_dict().items() if name.endswith("weight")}
    assert found == {
        "bbox_attention.q_linear.weight": (256, 256), "bbox_attention.k_linear.weight": (256, 256),
        "lay1.weight": (264, 264, 3, 3), "gn1.weight": (264,), "lay2.weight": (128, 264, 3, 3), "gn2.weight": (128,),
        "lay3.weight": (64, 128, 3, 3), "gn3.weight": (64,), "lay4.weight": (32, 64, 3, 3), "gn4.weight": (32,),
        "lay5.weight": (16, 32, 3, 3), "gn5.weight": (16,), "out_lay.weight": (1, 16, 3, 3),
        "adapter1.weight": (128, 1024, 1, 1), "adapter2.weight": (64, 512, 1, 1), "adapter3.weight": (32, 256, 1, 1),
    }  # fmt: skip
    assert all(x.num_groups == 8 for x in head.modules() if isinstance(x, torch.nn.GroupNorm))
    bound = math.sqrt(3 / (264 * 9))  # kaiming uniform with a = 1
    assert 0.99 * bound < head.get_parameter("lay2.weight").abs().max() <= bound
    assert not head.get_parameter("lay2.bias").any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DETR.MASK_HEAD.IN_FEATURES", ["res2", "p3", "res4"]], r"names \['p3'\].*outputs \['res2', 'res3'"),
        (["MODEL.DETR.MASK_HEAD.IN_FEATURES", ["res4", "res3", "res2"]], "finest first"),
        (["MODEL.DETR.MASK_HEAD.IN_FEATURES", ["res3", "res4"]], "names of 3 maps"),
        (["MODEL.DETR.IN_FEATURES", ["res3"]], "none coarser than res3"),
        (["MODEL.DETR.NUM_FEATURE_LEVELS", 4], "NUM_FEATURE_LEVELS is 4: the mask head"),
        (["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 40], "hidden_dim is 40, but the mask head needs a multiple of 16"),
        (["MODEL.DETR.MASK_HEAD.CHUNK_SIZE", 0], r"MODEL\.DETR\.MASK_HEAD: chunk_size is 0, expected at least 1"),
        (
            ["MODEL.DETR.PANOPTIC.ENABLED", True, "MODEL.DETR.CRITERION.CLASSIFICATION", "focal"],
            "PANOPTIC.ENABLED needs a softmax",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        build_mask_head(tiny_cfg("MODEL.MASK_ON", True, *options), SHAPES)


def test_there_is_no_mask_head_unless_asked_for():
    assert build_mask_head(tiny_cfg(), SHAPES) is None
