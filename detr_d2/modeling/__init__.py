"""The model. Importing it fills detectron2's registries.

Glossary of every module here: `B` images, `L` decoder layers, `Q` queries, `K` classes, `C` channels, `S` tokens of all
levels, `H, W` of a level, `M` objects, `N` matched pairs. Batch first everywhere. `boxes_cxcywh` are divided by the
size of the unpadded image, `boxes_xyxy` are in pixels, a `padding_mask` is True on padding.
"""

from .backbone.fast_resnet import accelerate, build_model, refresh, resnet_path
from .backbone.resnet import build_detr_resnet_backbone
from .backbone.timm_backbone import TimmBackbone, build_timm_backbone
from .channel_mapper import ChannelMapper
from .classification import CLASSIFICATION_REGISTRY, Classification, SoftmaxClassification, build_classification
from .criterion import CRITERION_REGISTRY, SetCriterion, build_criterion
from .focal import FocalClassification
from .interface import (
    TRANSFORMER_REGISTRY,
    Denoising,
    DenoisingQueries,
    LayerHead,
    Predictions,
    Proposals,
    TransformerInputs,
    TransformerOutput,
    build_transformer,
)
from .matcher import HungarianMatcher, Matching, NonFinitePredictionsError
from .meta_arch import DETR
from .neck import NECK_REGISTRY, Projection, build_neck
from .query_head import QUERY_HEAD_REGISTRY, DETRHead, build_query_head
from .reference_head import ReferenceHead
from .segmentation.mask_head import MASK_HEAD_REGISTRY, DETRMaskHead, MaskHead, MaskInputs, build_mask_head
from .targets import Step, Targets, predictions_to_instances
from .transformer import DeformableTransformer, DETRTransformer

__all__ = [
    "CLASSIFICATION_REGISTRY",
    "CRITERION_REGISTRY",
    "DETR",
    "MASK_HEAD_REGISTRY",
    "NECK_REGISTRY",
    "QUERY_HEAD_REGISTRY",
    "TRANSFORMER_REGISTRY",
    "ChannelMapper",
    "Classification",
    "DETRHead",
    "DETRMaskHead",
    "DETRTransformer",
    "DeformableTransformer",
    "Denoising",
    "DenoisingQueries",
    "FocalClassification",
    "HungarianMatcher",
    "LayerHead",
    "MaskHead",
    "MaskInputs",
    "Matching",
    "NonFinitePredictionsError",
    "Predictions",
    "Projection",
    "Proposals",
    "ReferenceHead",
    "SetCriterion",
    "SoftmaxClassification",
    "Step",
    "Targets",
    "TimmBackbone",
    "TransformerInputs",
    "TransformerOutput",
    "accelerate",
    "build_classification",
    "build_criterion",
    "build_detr_resnet_backbone",
    "build_mask_head",
    "build_model",
    "build_neck",
    "build_query_head",
    "build_timm_backbone",
    "build_transformer",
    "predictions_to_instances",
    "refresh",
    "resnet_path",
]
