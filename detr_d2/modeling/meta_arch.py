"""The DETR meta-architecture: preprocess -> backbone -> neck -> transformer -> head -> losses | Instances.

Paper: Carion et al. 2020, Fig. 2. What a relative of DETR changes is in the parts it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..config import with_num_classes
from ..layers.padding import downsample_mask, padding_mask
from . import checks
from .backbone.fast_resnet import accelerate, recompute_backbone, refresh
from .backbone.unread_maps import check_maps_are_read
from .classification import SOFTMAX, Classification, build_classification
from .criterion import build_criterion
from .interface import Predictions, TransformerInputs, build_transformer
from .matcher import NonFinitePredictionsError
from .neck import build_neck, build_position_encoding
from .query_head import build_query_head
from .segmentation.mask_head import MaskHead, build_mask_head
from .segmentation.panoptic import PanopticPostprocessor, build_panoptic
from .segmentation.postprocess import add_masks
from .targets import Step, Targets, predictions_to_instances


@META_ARCH_REGISTRY.register()
class DETR(nn.Module):
    """End-to-end set prediction of objects, without anchors and without NMS.

    Args:
        backbone: any detectron2 backbone.
        in_features: names of the backbone's maps that the neck reads.
        neck: list of maps -> list of maps of the transformer's width; see `NECK_REGISTRY`.
        position_encoding: (size, padding mask, device) -> encoding of a map.
        transformer: see `TRANSFORMER_REGISTRY`.
        head: see `QUERY_HEAD_REGISTRY`.
        mask_head: see `MASK_HEAD_REGISTRY`; None for boxes only.
        criterion: see `CRITERION_REGISTRY`.
        num_classes: K.
        classification: what class logits mean; the head's and the criterion's own.
        panoptic: makes panoptic maps; the classes are then things and stuff, of which only things are instances.
        pixel_mean, pixel_std: per channel, in the unit and order of the input images.
        aux_loss: train every decoder layer instead of the last one only.
        score_threshold: detections scored below it are dropped.
        max_detections, nms_threshold: the most detections per image, and the IoU of class-wise NMS on them; 1 for none.
        freeze: dotted module names, or their last components, that get no gradients.
        input_format: channel order of the input, for pictures.
        vis_period: iterations between pictures of ground truth and predictions in the event storage; 0 for none.
        optimize_inference, optimize_training: faster ways to the same results, up to rounding, in evaluation mode and
            in training; see `accelerate`.
        inference_dtype: bfloat16 or float16 predict under autocast to that type.
        recomputed_backbone: save memory in training at the price of time; see `recompute_backbone`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        neck: nn.Module,
        position_encoding: nn.Module,
        transformer: nn.Module,
        head: nn.Module,
        mask_head: MaskHead | None = None,
        criterion: nn.Module,
        num_classes: int,
        classification: Classification = SOFTMAX,
        panoptic: PanopticPostprocessor | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        aux_loss: bool = True,
        score_threshold: float = 0.0,
        max_detections: int = 100,
        nms_threshold: float = 1.0,
        freeze: Sequence[str] = (),
        input_format: str = "RGB",
        vis_period: int = 0,
        optimize_inference: bool = True,
        optimize_training: bool = True,
        inference_dtype: torch.dtype = torch.float32,
        recomputed_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_features = tuple(in_features)
        self.neck = neck
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.head = head
        self.mask_head = mask_head
        self.criterion = criterion
        self.num_classes = num_classes
        self.classification = classification
        self.panoptic = panoptic
        if panoptic is not None:
            panoptic.check_num_classes(num_classes)
        self.aux_loss = aux_loss
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.input_format = input_format
        self.vis_period = vis_period
        self.inference_dtype = inference_dtype
        self._step: Step | None = None  # that batches are part of, if they do not make one each
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        checks.check_references(transformer, head, getattr(transformer, "gives_references", False))
        for name in freeze:
            checks.freeze_part(self, name)
        accelerate(self, inference=optimize_inference, training=optimize_training)
        if recomputed_backbone:
            recompute_backbone(self.backbone)
        read = {*in_features, *(() if mask_head is None else mask_head.in_features)}
        check_maps_are_read(self.backbone, read, len(pixel_mean))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        cfg = with_num_classes(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        checks.check_in_features(cfg, shapes)
        return {
            "backbone": backbone,
            "in_features": cfg.MODEL.DETR.IN_FEATURES,
            "neck": build_neck(cfg, [shapes[name] for name in cfg.MODEL.DETR.IN_FEATURES]),
            "position_encoding": build_position_encoding(cfg),
            "transformer": build_transformer(cfg),
            "head": build_query_head(cfg),
            "mask_head": build_mask_head(cfg, shapes),
            "criterion": build_criterion(cfg),
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "classification": build_classification(cfg),
            "panoptic": build_panoptic(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "aux_loss": cfg.MODEL.DETR.AUX_LOSS,
            "score_threshold": cfg.MODEL.DETR.SCORE_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "nms_threshold": cfg.MODEL.DETR.NMS_THRESH_TEST,
            "freeze": cfg.MODEL.DETR.FREEZE,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "optimize_inference": cfg.MODEL.DETR.OPTIMIZE_INFERENCE,
            "optimize_training": cfg.MODEL.DETR.OPTIMIZE_TRAINING,
            "inference_dtype": checks.inference_dtype_of(cfg),
            "recomputed_backbone": cfg.MODEL.DETR.RECOMPUTE_BACKBONE,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.load_state_dict`; a ValueError for weights of other models, see `checks.check_state_dict`."""
        checks.check_state_dict(state_dict, self)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def refresh(self) -> None:
        """Forgets what was computed from weights; see `detr_d2.modeling.refresh`."""
        refresh(self)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def num_things(self) -> int | None:
        """The first T classes, which alone are instances in panoptic models; None where all are."""
        return None if self.panoptic is None else self.panoptic.classes.num_things

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Detects objects, or computes losses when training.

        Args:
            batched_inputs: detectron2's format: "image" (C, H, W) in pixels, "instances" when training, and optionally
                "height" and "width" of the output, "file_name" for messages.

        Returns:
            When training, weighted losses whose sum is to be minimised. Otherwise [{"instances": Instances}] with
            `pred_boxes`, `scores` and `pred_classes` at output resolution, best first, with a mask head also
            `pred_masks` (N, H, W) bool; panoptic models add what `PanopticPostprocessor` makes.

        Raises:
            FloatingPointError: the predictions for a training image are all NaN or infinite; names iteration and files.
        """
        images = self.preprocess_image(batched_inputs)
        targets = self.pack_targets(batched_inputs, images) if self.training else None
        with self._precision():
            predictions = self.predict(images, all_layers=self.training and self.aux_loss, targets=targets)
            if targets is not None:
                return self.losses(predictions, targets, batched_inputs)
            return self.postprocess(predictions, images.image_sizes, batched_inputs)

    def _precision(self) -> AbstractContextManager[Any]:
        """Autocast of `inference_dtype`; training is left to the trainer."""
        device = self.device.type
        if self.training or self.inference_dtype == torch.float32 or not torch.amp.is_autocast_available(device):
            return nullcontext()
        return torch.autocast(device, dtype=self.inference_dtype)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises the images, then pads them with zeros (the mean colour) to the largest height and width."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def pack_targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """The ground truth on the model's device, where it is before the backbone runs: nothing waits for it later."""
        instances = [x["instances"] for x in batched_inputs]
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        return Targets.from_instances(
            instances,
            num_classes=self.num_classes,
            device=self.device,
            padded_size=None if self.mask_head is None else padded_size,
            step=self._step or Step.of([[x.gt_classes for x in instances]], self.device),
        )

    @contextmanager
    def accumulated_over(self, batches: Sequence[Sequence[dict[str, Any]]]) -> Iterator[None]:
        """Inside, the batches (detectron2 inputs with "instances") are parts of one step; see `Step`."""
        self._step = Step.of([[x["instances"].gt_classes for x in batch] for batch in batches], self.device)
        try:
            yield
        finally:
            self._step = None

    def predict(self, images: ImageList, *, all_layers: bool, targets: Targets | None = None) -> Predictions:
        """Runs the network.

        Args:
            images: normalised and padded.
            all_layers: predict from every decoder layer, not just the last.
            targets: the objects, in training.
        """
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        mask = padding_mask(images.image_sizes, padded_size, self.device)
        features = self.backbone(images.tensor)
        maps = self.neck([features[name] for name in self.in_features])
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        masks = [downsample_mask(mask, size) for size in sizes]
        positions = [self.position_encoding(size, m, self.device) for size, m in zip(sizes, masks, strict=True)]
        output = self.transformer(TransformerInputs(maps, masks, positions, all_layers, self.head, targets))
        checks.check_references(self.transformer, self.head, output.reference_logits is not None)
        predictions = self.head(output).completed(output)
        if self.mask_head is None:
            return predictions
        return self.mask_head.masks_of(predictions, output, features, maps[0], masks[0], padded_size)

    def losses(self, predictions: Predictions, targets: Targets, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses; every key starts with "loss_". The inputs are for messages and pictures."""
        # Under fp16 the gradient scaler recovers from overflow: let the non-finite loss reach it.
        strict = predictions.logits.dtype != torch.float16
        try:
            losses = self.criterion(predictions, targets, strict=strict)
        except NonFinitePredictionsError as error:
            raise FloatingPointError(checks.describe_non_finite(predictions, inputs, error.image_index)) from error
        if self.vis_period > 0 and has_event_storage() and get_event_storage().iter % self.vis_period == 0:
            found = self._decode(predictions, [x["instances"].image_size for x in inputs])
            checks.draw_training_image(inputs[0], found[0].pred_boxes.tensor, self.input_format)
        return losses

    def postprocess(
        self, predictions: Predictions, image_sizes: list[tuple[int, int]], batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Decodes the last layer into Instances, and what masks add, at the resolution that the inputs ask for."""
        results = [
            {"instances": detector_postprocess(result, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(self._decode(predictions, image_sizes), batched_inputs, image_sizes, strict=True)
        ]
        if predictions.masks is not None:
            add_masks(results, predictions.masks, predictions.logits[-1], image_sizes, self.panoptic)
        return results

    def _decode(self, predictions: Predictions, image_sizes: list[tuple[int, int]]) -> list[Instances]:
        return predictions_to_instances(
            predictions.logits[-1],
            predictions.boxes_cxcywh[-1],
            image_sizes,
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
            classification=self.classification,
            num_things=self.num_things,
            nms_threshold=self.nms_threshold,
            with_queries=predictions.masks is not None,
        )
