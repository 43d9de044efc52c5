"""The model. Importing it fills detectron2's registries.

Glossary of every module here: `B` images, `L` decoder layers, `Q` queries, `K` classes, `C` channels, `S` tokens of all
levels, `H, W` of a level, `M` objects, `N` matched pairs. Batch first everywhere. `boxes_cxcywh` are divided by the
size of the unpadded image, `boxes_xyxy` are in pixels, a `padding_mask` is True on padding.
"""

from .backbone import build_detr_resnet_backbone
from .criterion import CRITERION_REGISTRY, SetCriterion, build_criterion
from .matcher import HungarianMatcher, Matching, NonFinitePredictionsError
from .meta_arch import DETR
from .neck import Projection
from .query_head import QUERY_HEAD_REGISTRY, DETRHead, build_query_head
from .targets import Targets, predictions_to_instances
from .transformer import TRANSFORMER_REGISTRY, DETRTransformer, TransformerOutput, build_transformer

__all__ = [
    "CRITERION_REGISTRY",
    "DETR",
    "QUERY_HEAD_REGISTRY",
    "TRANSFORMER_REGISTRY",
    "DETRHead",
    "DETRTransformer",
    "HungarianMatcher",
    "Matching",
    "NonFinitePredictionsError",
    "Projection",
    "SetCriterion",
    "Targets",
    "TransformerOutput",
    "build_criterion",
    "build_detr_resnet_backbone",
    "build_query_head",
    "build_transformer",
    "predictions_to_instances",
]
