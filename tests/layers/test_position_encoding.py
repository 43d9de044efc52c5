import math
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from detr_d2.layers import LearnedPositionEncoding, SinePositionEncoding
from detr_d2.modeling.transformer.deformable_layers import sine_of_coordinates

CPU = torch.device("cpu")


def test_sine_by_hand():
    # 2 rows x 1 column, 4 channels: 2 per axis, one frequency T^0 = 1, sin then cos; y before x.
    encoding = SinePositionEncoding(num_channels=4)((2, 1), None, CPU)
    assert encoding.shape == (1, 4, 2, 1)
    first, last = math.pi, 2 * math.pi  # 1/2 and 2/2 of 2 pi
    expected = [[math.sin(first), math.cos(first), math.sin(last), math.cos(last)],
                [math.sin(last), math.cos(last), math.sin(last), math.cos(last)]]  # fmt: skip
    torch.testing.assert_close(encoding[0, :, :, 0].T, torch.tensor(expected), atol=1e-5, rtol=0)


def test_sine_frequencies_and_interleaving():
    # 8 channels: per axis 4, frequencies 1 and T^-(2/4) = 1/100 for T = 10^4, each as sin, cos.
    encoding = SinePositionEncoding(num_channels=8, temperature=1e4)((1, 4), None, CPU)[0, :, 0, 0]
    x = 2 * math.pi / 4  # the first of four columns
    y = 2 * math.pi
    expected = [f(v) for v in (y, y / 100, x, x / 100) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoding, torch.tensor(expected), atol=1e-5, rtol=0)


def test_sine_offset_moves_to_cell_centres():
    encoding = SinePositionEncoding(num_channels=4, offset=-0.5)((1, 2), None, CPU)
    x = 2 * math.pi * 0.25  # (1 - 0.5) / 2
    torch.testing.assert_close(encoding[0, 2:, 0, 0], torch.tensor([math.sin(x), math.cos(x)]), atol=1e-5, rtol=0)


def test_sine_of_the_valid_part_does_not_depend_on_padding():
    encode = SinePositionEncoding(num_channels=16)
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    mask[0, :3, :4] = False
    torch.testing.assert_close(encode((5, 7), mask, CPU)[..., :3, :4], encode((3, 4), None, CPU))


def test_only_integers_are_summed():
    """Sums of other numbers on GPUs have no fixed order, and are refused under deterministic algorithms."""

    class Sums(TorchFunctionMode):
        dtypes: list[torch.dtype] = []  # noqa: RUF012

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "cumsum" in function.__name__:
                self.dtypes.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    with Sums() as sums:
        SinePositionEncoding(num_channels=4)((2, 3), torch.zeros(1, 2, 3, dtype=torch.bool), torch.device("cpu"))
    assert sums.dtypes
    assert not any(dtype.is_floating_point for dtype in sums.dtypes)


def test_no_mask_equals_an_empty_mask():
    encode = SinePositionEncoding(num_channels=16)
    torch.testing.assert_close(encode((3, 4), torch.zeros(1, 3, 4, dtype=torch.bool), CPU), encode((3, 4), None, CPU))


def test_sine_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePositionEncoding(num_channels=6)


def test_learned_rows_and_columns():
    encoding = LearnedPositionEncoding(num_channels=6)
    out = encoding((4, 5), None, CPU)
    assert out.shape == (1, 6, 4, 5)
    torch.testing.assert_close(out[0, :3, 2, 3], encoding.col_embed.weight[3])
    torch.testing.assert_close(out[0, 3:, 2, 3], encoding.row_embed.weight[2])
    assert float(encoding.row_embed.weight.detach().min()) >= 0


def test_learned_refuses_larger_maps():
    with pytest.raises(ValueError, match="50 rows and columns, the feature map 51 x 4: use smaller images or the sine"):
        LearnedPositionEncoding(num_channels=6)((51, 4), None, CPU)


def test_sine_of_coordinates_by_hand():
    # 4 channels a coordinate: frequencies 1 and 100^(-2/4) = 0.1; the coordinates in the order given.
    x, y = 0.25, 0.5
    encoding = sine_of_coordinates(torch.tensor([[[x, y]]]), num_channels=4, temperature=100.0)
    angles = [2 * math.pi * coordinate * frequency for coordinate in (x, y) for frequency in (1, 0.1)]
    expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
    assert encoding.shape == (1, 1, 8)
    torch.testing.assert_close(encoding[0, 0], torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_sine_of_boxes_agrees_with_that_of_maps():
    # The last cell of a map stands at 1.
    cell = SinePositionEncoding(num_channels=32)((1, 1), None, CPU)[0, :, 0, 0]
    torch.testing.assert_close(sine_of_coordinates(torch.ones(2), num_channels=16), cell, atol=2e-5, rtol=0)
