import math

import pytest
import torch
from torch import nn

from detr_d2.layers import MLP, MultiHeadAttention, attention


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
def test_equals_torchs_module(masked: bool, self_attention: bool):
    ours = MultiHeadAttention(embed_dim=24, num_heads=3).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    query, key, value = (torch.randn(2, n, 24, dtype=torch.float64) for n in (5, 7, 7))
    if self_attention:
        query = key
    mask = None
    if masked:
        mask = torch.zeros(2, 7, dtype=torch.bool)
        mask[1, 4:] = True
    expected, _ = theirs(query, key, value, key_padding_mask=mask)
    torch.testing.assert_close(ours(query, key, value, None if mask is None else ~mask[:, None, None]), expected)


@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 5, 7), (2, 3, 5, 7), (3, 1, 7)])
def test_a_mask_of_pairs_equals_torchs(shape: tuple[int, ...]):
    ours = MultiHeadAttention(embed_dim=24, num_heads=3).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    query, key, value = (torch.randn(2, n, 24, dtype=torch.float64) for n in (5, 7, 7))
    attend = torch.rand(shape) < 0.5
    attend[..., 2] = True
    forbidden = ~attend.expand(2, 3, 5, 7).flatten(0, 1)
    expected, _ = theirs(query, key, value, attn_mask=forbidden)
    torch.testing.assert_close(ours(query, key, value, attend), expected)


def test_keys_and_values_of_different_widths_by_hand():
    # Two heads of one channel in queries and keys, of two in values. Head 0 sees scores 0 and log 3, head 1 only key 0.
    query = torch.tensor([[[1.0, 1.0]]])
    key = torch.tensor([[[0.0, 5.0], [math.log(3), 7.0]]])
    value = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    attend = torch.tensor([[[True, True]], [[True, False]]])
    read = attention(query, key, value, num_heads=2, attend=attend)
    torch.testing.assert_close(read, torch.tensor([[[4.0, 5.0, 3.0, 4.0]]]))


def test_masked_keys_have_no_influence():
    module = MultiHeadAttention(embed_dim=8, num_heads=2)
    query, key, value = torch.randn(1, 3, 8), torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    attend = torch.tensor([[True, True, True, False]])
    before = module(query, key, value, attend)
    key[:, 3], value[:, 3] = 1e3, -1e3
    torch.testing.assert_close(module(query, key, value, attend), before)


def test_initialisation_is_torchs():
    module = MultiHeadAttention(embed_dim=256, num_heads=8)
    bound = (6 / (256 + 768)) ** 0.5  # xavier over the stacked matrix
    assert float(module.in_proj_weight.detach().abs().max()) <= bound
    assert float(module.in_proj_weight.detach().std()) == pytest.approx(0.0442, abs=5e-4)
    assert not module.in_proj_bias.any()
    assert not module.out_proj.bias.any()


def test_dropout_only_in_training():
    module = MultiHeadAttention(embed_dim=8, num_heads=2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    assert not torch.equal(module(x, x, x), module(x, x, x))
    module.eval()
    torch.testing.assert_close(module(x, x, x), module(x, x, x))


def test_width_must_be_divisible_by_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of the number of heads 4"):
        MultiHeadAttention(embed_dim=10, num_heads=4)


def test_mlp_is_linear_relu_linear():
    mlp = MLP(input_dim=2, hidden_dim=2, output_dim=1, num_layers=2)
    with torch.no_grad():
        values = ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 10.0]], [0.5])
        for parameter, value in zip(mlp.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value))
    # relu(3) + 10 relu(-2) + 0.5
    assert mlp(torch.tensor([3.0, -2.0])).item() == pytest.approx(3.5)
