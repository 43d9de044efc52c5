import pytest
import torch
from detectron2.layers import ShapeSpec
from tiny_models import tiny_cfg
from torch import Tensor
from torch.nn import functional as F

from detr_d2.modeling import NECK_REGISTRY, ChannelMapper, Projection, build_neck


def by_hand(neck: ChannelMapper, level: int, x: Tensor) -> Tensor:
    """Level by level with functions; 3x3 kernels of the extra levels have stride 2."""
    weights = {name: value for name, value in neck.named_parameters() if name.startswith(f"input_proj.{level}.")}
    convolution, bias, scale, shift = weights.values()
    assert list(weights) == [f"input_proj.{level}.{part}" for part in ("0.weight", "0.bias", "1.weight", "1.bias")]
    stride, padding = (2, 1) if convolution.shape[-1] == 3 else (1, 0)
    x = F.conv2d(x, convolution, bias, stride=stride, padding=padding)
    groups = x.unflatten(1, (32, -1))  # (B, 32, C / 32, H, W)
    mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
    normalised = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    return normalised * scale[:, None, None] + shift[:, None, None]


def test_extra_levels_start_from_the_raw_last_map():
    neck = ChannelMapper(in_channels=[8, 16], out_channels=64, num_levels=4).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    features = [torch.randn(2, 8, 12, 10, dtype=torch.float64), torch.randn(2, 16, 6, 5, dtype=torch.float64)]
    maps = neck(features)
    expected = [by_hand(neck, 0, features[0]), by_hand(neck, 1, features[1]), by_hand(neck, 2, features[1])]
    expected.append(by_hand(neck, 3, expected[2]))
    assert [tuple(x.shape) for x in maps] == [(2, 64, 12, 10), (2, 64, 6, 5), (2, 64, 3, 3), (2, 64, 2, 2)]
    torch.testing.assert_close(maps, expected)


def test_one_level():
    neck = ChannelMapper(in_channels=[8], out_channels=32, num_levels=1)
    assert [tuple(x.shape) for x in neck([torch.randn(1, 8, 3, 4)])] == [(1, 32, 3, 4)]


def test_chosen_by_name():
    shapes = [ShapeSpec(channels=8, stride=16)]
    assert isinstance(build_neck(tiny_cfg(), shapes), Projection)
    assert isinstance(build_neck(tiny_cfg("MODEL.DETR.NECK.NAME", "ChannelMapper"), shapes), ChannelMapper)
    assert "Projection" in NECK_REGISTRY


@pytest.mark.parametrize(("width", "levels", "message"), [(40, 2, "out_channels is 40"), (64, 1, "num_levels is 1")])
def test_mistakes_are_named(width: int, levels: int, message: str):
    with pytest.raises(ValueError, match=message):
        ChannelMapper(in_channels=[8, 16], out_channels=width, num_levels=levels)
