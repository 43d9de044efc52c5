"""The whole of Deformable DETR against `transformers`: same backbone, same weights, a padded batch."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_deformable import VARIANTS, stir, tiny_deformable
from tiny_models import NUM_CLASSES, random_input
from torch import Tensor, nn

from detr_d2.layers import padding_mask
from detr_d2.modeling import DETR

transformers = pytest.importorskip("transformers")

# Our names -> theirs, in this order. In the decoder the first norm is that of the cross-attention.
RENAMES = [
    (r"^neck\.", "model."),
    (r"^head\.", ""),
    (r"^transformer\.query_embed", "model.query_position_embeddings"),
    (r"^transformer\.", "model."),
    (r"(decoder.*)\.norm1", r"\1.encoder_attn_layer_norm"),
    (r"(decoder.*)\.norm2", r"\1.self_attn_layer_norm"),
    (r"(encoder.*)\.norm1", r"\1.self_attn_layer_norm"),
    (r"\.norm[23]\.", ".final_layer_norm."),
    (r"cross_attn", "encoder_attn"),
    (r"linear([12])", r"mlp.fc\1"),
    (r"out_proj", "o_proj"),
]


class Maps(nn.Module):
    """Our backbone, as they call theirs."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.backbone, self.names = model.backbone, model.in_features

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        return [features[name] for name in self.names]


def their_model(model: DETR, variant: str) -> Any:
    stages = ["stage2", "stage3", "stage4"][-len(model.in_features) :]
    backbone = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[1] * 4, layer_type="basic", out_features=stages
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        num_queries=8,
        two_stage_num_proposals=8,
        encoder_layers=2,
        decoder_layers=3,
        d_model=64,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=model.transformer.num_levels,
        num_labels=NUM_CLASSES,
        with_box_refine=variant in ("refine", "two_stage"),
        two_stage=variant == "two_stage",
        tie_word_embeddings=False,
        disable_custom_kernels=True,
    )
    theirs = transformers.DeformableDetrForObjectDetection(config).eval()
    theirs.load_state_dict(their_state(model, theirs), strict=False)
    theirs.model.backbone.model = Maps(model)
    return theirs


def their_state(model: DETR, theirs: Any) -> dict[str, Tensor]:
    """Our parameters under all their names; every one of ours is used, and every one of theirs is set."""
    ours = {}
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        match = re.match(r"(.*)\.in_proj_(weight|bias)", name)
        parts = zip("qkv", value.chunk(3), strict=True) if match else []
        ours.update({f"{match[1]}.{x}_proj.{match[2]}": part for x, part in parts} if match else {name: value})
    state, used = {}, set()
    for name in theirs.state_dict():
        if "backbone" in name:
            continue
        source = re.sub(r"^model\.decoder\.(class|bbox)_embed", r"\1_embed", name)
        if source not in ours:  # one head for all layers
            source = re.sub(r"_embed\.\d+\.", "_embed.0.", source)
        state[name] = ours[source]
        used.add(source)
    assert used == set(ours)
    return state


@pytest.mark.parametrize("sizes", [[(64, 96), (96, 80)], [(64, 64), (64, 64)]], ids=["padded", "equal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_transformers(variant: str, sizes: list[tuple[int, int]]):
    model = tiny_deformable(variant).eval()
    stir(model)
    theirs = their_model(model, variant)
    images = model.preprocess_image([random_input(*size, 0) for size in sizes])
    mask = padding_mask(images.image_sizes, tuple(images.tensor.shape[-2:]), "cpu")
    valid = torch.ones_like(images.tensor[:, 0], dtype=torch.long) if mask is None else (~mask).long()
    with torch.no_grad():
        predictions = model.predict(images, all_layers=False)
        out = theirs(images.tensor, pixel_mask=valid)
    torch.testing.assert_close(predictions.logits[-1], out.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(predictions.boxes_cxcywh[-1], out.pred_boxes, atol=1e-5, rtol=0)
    assert (predictions.proposals is None) == (out.enc_outputs_class is None)
    if predictions.proposals is not None:
        torch.testing.assert_close(predictions.proposals[0], out.enc_outputs_class, atol=1e-4, rtol=0)
        torch.testing.assert_close(predictions.proposals[1], out.enc_outputs_coord_logits.sigmoid(), atol=1e-5, rtol=0)
