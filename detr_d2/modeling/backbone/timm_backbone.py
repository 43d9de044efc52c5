"""Backbones of the `timm` library: Swin, ViT, ConvNeXt and others, as detectron2 backbones.

Needs `pip install "detr_d2[hf]"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

# Models that expect one size unless told otherwise take one of these; convolutional ones know neither and need none.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(Backbone):
    """Feature maps of a `timm` model.

    A map is called "stage1", "stage2", ... after the stage of the model that gives it; of a plain ViT, whose maps all
    have one resolution, after its block. Images of any size pass: they are padded to a multiple of the coarsest stride.

    Args:
        name: of the model in timm, for instance "swin_tiny_patch4_window7_224".
        out_features: maps to return, such as ["stage2", "stage3", "stage4"].
        pretrained: load timm's weights (downloaded when they are not in its cache).
        options: further arguments of the model, such as depths and widths.

    Raises:
        ImportError: if timm is not installed.
        ValueError: for a model or a map that does not exist.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str],
        pretrained: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        indices = [_stage_index(feature) for feature in out_features]
        self.body = _create(name, sorted(set(indices)), pretrained, dict(options or {}))
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        self._out_features = [f"stage{i + 1}" for i in sorted(set(indices))]
        info = self.body.feature_info
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, 3, H, W) to {name: (B, C, H / stride, W / stride)}."""
        maps = self.body(images)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]  # (B, H, W, C) -> (B, C, H, W)
        return dict(zip(self._out_features, maps, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:  # noqa: ARG001
    """Builds `MODEL.TIMM.NAME` with the maps `MODEL.TIMM.OUT_FEATURES`.

    Raises:
        ValueError: if `MODEL.BACKBONE.FREEZE_AT`, which counts the stages of a ResNet, is not 0.
    """
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, but timm's models are not frozen by stages: "
            "set it to 0, and name the parts to freeze in MODEL.DETR.FREEZE."
        )
    timm = cfg.MODEL.TIMM
    return TimmBackbone(
        name=timm.NAME, out_features=timm.OUT_FEATURES, pretrained=timm.PRETRAINED, options=dict(timm.OPTIONS)
    )


def _stage_index(feature: str) -> int:
    """0 for "stage1"."""
    match = re.fullmatch(r"stage([1-9]\d*)", feature)
    if match is None:
        raise ValueError(f"MODEL.TIMM.OUT_FEATURES names {feature!r}, expected names like 'stage2'.")
    return int(match[1]) - 1


def _create(name: str, indices: list[int], pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError('build_timm_backbone needs timm: pip install "detr_d2[hf]".') from error
    if not timm.is_model(name):
        raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm does not know; timm.list_models() has all names.")
    arguments = {"features_only": True, "pretrained": pretrained, "out_indices": indices, **options}
    try:
        return next(filter(None, (_try(timm, name, arguments, extra) for extra in _ANY_SIZE)))
    except (AssertionError, IndexError) as error:
        stages = [f"stage{i + 1}" for i in indices]
        raise ValueError(f"MODEL.TIMM.OUT_FEATURES is {stages}, but {name} does not have them: {error}.") from error


def _try(timm: Any, name: str, arguments: dict[str, Any], extra: dict[str, Any]) -> Any:
    """A model, or None if it does not know the arguments `extra`."""
    try:
        return timm.create_model(name, **arguments, **extra)
    except TypeError as error:
        if any(key in str(error) for key in extra):
            return None
        raise
