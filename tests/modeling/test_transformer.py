"""The transformer against one assembled from torch's own layers, sequence first, as the paper's figure 10 draws it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr_d2.modeling import DETRTransformer, TransformerInputs

C, HEADS, FFN, QUERIES = 32, 4, 48, 6


class ReferenceLayer(nn.Module):
    """One encoder or decoder layer on `nn.MultiheadAttention`, with this package's parameter names."""

    def __init__(self, decoder: bool, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(C, HEADS)
        self.multihead_attn = nn.MultiheadAttention(C, HEADS) if decoder else None
        self.linear1, self.linear2 = nn.Linear(C, FFN), nn.Linear(FFN, C)
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.norm3 = nn.LayerNorm(C) if decoder else None

    def forward(self, x: Tensor, own: Tensor, memory: Any, place: Any, mask: Tensor | None) -> Tensor:
        def attend_self(y: Tensor) -> Tensor:
            own_mask = mask if self.multihead_attn is None else None
            return self.self_attn(y + own, y + own, y, key_padding_mask=own_mask)[0]

        def attend_image(y: Tensor) -> Tensor:
            assert self.multihead_attn is not None
            return self.multihead_attn(y + own, memory + place, memory, key_padding_mask=mask)[0]

        def feed_forward(y: Tensor) -> Tensor:
            return self.linear2(self.linear1(y).relu())

        steps: list[Any] = [attend_self, feed_forward]
        norms: list[Any] = [self.norm1, self.norm2]
        if self.multihead_attn is not None:
            steps.insert(1, attend_image)
            norms.append(self.norm3)
        for step, norm in zip(steps, norms, strict=True):
            x = x + step(norm(x)) if self.pre_norm else norm(x + step(x))
        return x


def reference_forward(
    ours: DETRTransformer, pre_norm: bool, feature: Tensor, mask: Tensor | None, position: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs the reference with the weights of `ours`: (L, B, Q, C) and the memory (B, S, C)."""
    tokens = feature.flatten(2).permute(2, 0, 1)  # (S, B, C)
    place = position.flatten(2).permute(2, 0, 1).expand_as(tokens)
    flat_mask = None if mask is None else mask.flatten(1)
    for source in ours.encoder.layers:
        layer = ReferenceLayer(False, pre_norm).to(tokens)
        layer.load_state_dict(source.state_dict())
        tokens = layer(tokens, place, None, None, flat_mask)
    memory = tokens if ours.encoder.norm is None else ours.encoder.norm(tokens)
    queries = ours.query_embed.weight[:, None].expand(-1, tokens.shape[1], -1)
    x, outputs = torch.zeros_like(queries), []
    assert ours.decoder.norm is not None
    for source in ours.decoder.layers:
        layer = ReferenceLayer(True, pre_norm).to(tokens)
        layer.load_state_dict(source.state_dict())
        x = layer(x, queries, memory, place, flat_mask)
        outputs.append(ours.decoder.norm(x))
    return torch.stack(outputs).transpose(1, 2), memory.transpose(0, 1)


def build(pre_norm: bool = False, **changes: Any) -> DETRTransformer:
    arguments: dict[str, Any] = {
        "hidden_dim": C,
        "num_queries": QUERIES,
        "num_heads": HEADS,
        "feedforward_dim": FFN,
        "num_encoder_layers": 2,
        "num_decoder_layers": 3,
        "dropout": 0.0,
        "pre_norm": pre_norm,
    }
    return DETRTransformer(**{**arguments, **changes}).double()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_equals_a_transformer_of_torchs_layers(pre_norm: bool, masked: bool):
    transformer = build(pre_norm)
    feature = torch.randn(2, C, 3, 5, dtype=torch.float64)
    position = torch.randn(2 if masked else 1, C, 3, 5, dtype=torch.float64)
    mask = torch.zeros(2, 3, 5, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[1, :, 3:] = True
    out = transformer(TransformerInputs([feature], [mask], [position], True))
    hidden_states, memory = reference_forward(transformer, pre_norm, feature, mask, position)
    torch.testing.assert_close(out.hidden_states, hidden_states, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(out.memory, memory, atol=1e-9, rtol=1e-9)


def test_last_layer_alone_is_the_last_of_all():
    transformer = build()
    inputs = ([torch.randn(1, C, 2, 2, dtype=torch.float64)], [None], [torch.zeros(1, C, 2, 2)])
    every = transformer(TransformerInputs(*inputs, all_layers=True)).hidden_states
    last = transformer(TransformerInputs(*inputs, all_layers=False)).hidden_states
    assert every.shape == (3, 1, QUERIES, C)
    torch.testing.assert_close(last, every[-1:])


def test_initialisation():
    transformer = build(hidden_dim=256, num_heads=8, feedforward_dim=2048, num_queries=100)
    std = {name: float(value.detach().std()) for name, value in transformer.named_parameters()}
    assert std["encoder.layers.0.self_attn.in_proj_weight"] == pytest.approx(0.0442, abs=5e-4)  # stacked xavier
    assert std["decoder.layers.2.multihead_attn.in_proj_weight"] == pytest.approx(0.0442, abs=5e-4)
    assert std["encoder.layers.1.linear1.weight"] == pytest.approx((2 / (256 + 2048)) ** 0.5, abs=5e-4)
    assert std["query_embed.weight"] == pytest.approx(1.0, abs=0.03)
    assert not transformer.get_parameter("decoder.layers.0.self_attn.in_proj_bias").any()
    assert float(transformer.get_parameter("encoder.layers.0.linear1.bias").detach().abs().max()) <= 1 / 256**0.5


def test_dropout_rate_is_used_in_training_only():
    transformer = build(dropout=0.5)
    inputs = ([torch.randn(1, C, 2, 2, dtype=torch.float64)], [None], [torch.zeros(1, C, 2, 2)])
    once, twice = (transformer(TransformerInputs(*inputs, all_layers=False)).memory for _ in range(2))
    assert not torch.equal(once, twice)
    transformer.eval()
    once, twice = (transformer(TransformerInputs(*inputs, all_layers=False)).hidden_states for _ in range(2))
    torch.testing.assert_close(once, twice)


def test_two_maps_are_refused():
    feature = torch.zeros(1, C, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="reads one feature map, got 2"):
        build()(TransformerInputs([feature] * 2, [None] * 2, [feature] * 2, False))


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"^activation is 'swish', expected one of \['gelu', 'prelu',"):
        build(activation="swish")


@pytest.mark.parametrize(
    ("name", "expected"), [("silu", -0.2689414), ("prelu", -0.25), ("gelu", -0.1586553), ("relu", 0)]
)
def test_activations_by_hand(name: str, expected: float):
    transformer = build(activation=name)
    layers = [*transformer.encoder.layers, *transformer.decoder.layers]
    minus_one = torch.tensor(-1.0, dtype=torch.float64)
    assert all(layer.activation(minus_one).item() == pytest.approx(expected, abs=1e-6) for layer in layers)
    assert len({id(x) for layer in layers for x in layer.activation.parameters()}) == 5 * (name == "prelu")


@pytest.mark.parametrize("pre_norm", [False, True])
def test_recomputing_changes_nothing(pre_norm: bool):
    plain = build(pre_norm, dropout=0.3)
    feature, position = torch.randn(2, C, 3, 5, dtype=torch.float64), torch.randn(1, C, 3, 5, dtype=torch.float64)
    gradients, calls = [], []
    for recompute in (False, True):
        transformer = build(pre_norm, dropout=0.3, recompute=recompute)
        transformer.load_state_dict(plain.state_dict())
        count: list[int] = []
        for layer in [*transformer.encoder.layers, *transformer.decoder.layers]:
            layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(5)
        transformer(TransformerInputs([feature], [None], [position], True)).hidden_states.square().sum().backward()
        gradients.append([p.grad for p in transformer.parameters()])
        calls.append(len(count))
    assert calls == [5, 10]
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)
