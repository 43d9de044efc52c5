"""Where in one image a DETR looks: from points of the encoder's self-attention, and for each detection.

Dense attention (Carion et al. 2020, Fig. 3 and 6) gives a map over the cells of the feature map, deformable attention
(Zhu et al. 2021, Fig. 6) a set of weighted points; both are a `Look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..layers import MultiHeadAttention, box_cxcywh_to_xyxy
from ..modeling import DETR
from .attention import Call, attention_of_layer, attention_weights, heads_shown, recorded_calls, sampling_points


@dataclass(frozen=True)
class Frame:
    """How feature maps lie over a picture.

    Attributes:
        width, height: of the picture, in pixels.
        covered_width, covered_height: what the maps cover, padding included, in pixels of the picture.
        map_sizes: (height, width) of each level, in cells.
    """

    width: int
    height: int
    covered_width: float
    covered_height: float
    map_sizes: tuple[tuple[int, int], ...]

    def cell_at(self, x: float, y: float) -> int:
        """The token of the finest level at a place of the picture."""
        height, width = self.map_sizes[0]
        column = min(int(x / self.covered_width * width), width - 1)
        row = min(int(y / self.covered_height * height), height - 1)
        return row * width + column


@dataclass(frozen=True)
class Look:
    """Where one point, or one detection, reads the image.

    Attributes:
        title: for people.
        point: (x, y) in pixels of the picture, of a point.
        box_xyxy: in pixels of the picture, of a detection.
        heat: (H, W) weights of the cells, which sum to 1 over the padded map; None with deformable attention.
        samples: (N, 4): x, y in pixels of the picture, weight, level; the weights sum to 1. None with dense attention.
    """

    title: str
    point: tuple[float, float] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    heat: np.ndarray | None = None
    samples: np.ndarray | None = None


@dataclass(frozen=True)
class Inside:
    """One image as a DETR has seen it.

    Attributes:
        frame: picture and feature maps.
        encoder: the call of a layer's self-attention; None if the model has no encoder layers.
        decoder: the call of a layer's attention to the image.
        boxes_xyxy: (N, 4) pixels of the picture, best first, as all that follow.
        scores: (N,), 0 to 1.
        classes: (N,) class indices.
        queries: (N,) query that yields the detection.
    """

    frame: Frame
    encoder: Call | None
    decoder: Call
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    queries: np.ndarray


@torch.no_grad()
def look_inside(
    model: DETR, inputs: dict[str, Any], *, decoder_layer: int | None = None, encoder_layer: int | None = None
) -> Inside:
    """Runs a model on an image and keeps what its attention was given.

    Args:
        model: in eval mode.
        inputs: "image" (C, H, W), "height" and "width" of the picture, as the model takes them.
        decoder_layer, encoder_layer: counted from 1; None for the last ones.

    Raises:
        ValueError: there is no such layer, or the transformer has no attention that is known here.
    """
    assert not model.training
    encoder = attention_of_layer(model.transformer, "encoder", encoder_layer)
    decoder = attention_of_layer(model.transformer, "decoder", decoder_layer)
    images = model.preprocess_image([inputs])
    with recorded_calls([*encoder, *decoder, model.transformer]) as calls:
        logits, boxes_cxcywh = model.predict(images, all_layers=False)[:2]
    of_image = [call for call in calls if call.module in decoder and not call.reads_itself]
    if not of_image:
        raise ValueError(f"a decoder layer of {type(model.transformer).__name__} does not attend to the image")
    maps = next(iter(calls[-1].arguments.values())).maps  # of the transformer, which has one argument
    frame = Frame(
        width=inputs["width"],
        height=inputs["height"],
        covered_width=inputs["width"] * images.tensor.shape[-1] / images.image_sizes[0][1],
        covered_height=inputs["height"] * images.tensor.shape[-2] / images.image_sizes[0][0],
        map_sizes=tuple((x.shape[-2], x.shape[-1]) for x in maps),
    )
    scores, classes, queries = (x[0].cpu() for x in model.classification.select(logits[-1], None))
    boxes = box_cxcywh_to_xyxy(boxes_cxcywh[-1, 0].float().cpu())[queries]
    return Inside(
        frame=frame,
        encoder=next((call for call in calls if call.module in encoder), None),
        decoder=of_image[0],
        boxes_xyxy=(boxes * torch.tensor([frame.width, frame.height] * 2)).numpy(),
        scores=scores.numpy(),
        classes=classes.numpy(),
        queries=queries.numpy(),
    )


def point_looks(inside: Inside, points: Sequence[tuple[float, float]], head: int | None = None) -> list[Look]:
    """What the encoder reads for the cells at some points; with several levels, for the cells of the finest one.

    Args:
        inside: with an encoder.
        points: (x, y) in pixels of the picture, inside it.
        head: counted from 1; None for the mean of all heads.
    """
    assert inside.encoder is not None
    rows = [inside.frame.cell_at(x, y) for x, y in points]
    found = _read(inside.encoder, inside.frame, rows, head)
    return [Look(f"point {x:.0f}, {y:.0f}", point=(x, y), **what) for (x, y), what in zip(points, found, strict=True)]


def detection_looks(
    inside: Inside, detections: Sequence[int], class_names: Sequence[str], head: int | None = None
) -> list[Look]:
    """What the decoder reads for some detections.

    Args:
        inside: what the model has seen.
        detections: indices into `inside.scores`.
        class_names: K names.
        head: counted from 1; None for the mean of all heads.
    """
    found = _read(inside.decoder, inside.frame, [int(inside.queries[i]) for i in detections], head)
    looks = []
    for index, what in zip(detections, found, strict=True):
        title = f"{class_names[inside.classes[index]]} {100 * inside.scores[index]:.0f}%, query {inside.queries[index]}"
        x0, y0, x1, y1 = inside.boxes_xyxy[index].tolist()
        looks.append(Look(title, box_xyxy=(x0, y0, x1, y1), **what))
    return looks


def _read(call: Call, frame: Frame, rows: Sequence[int], head: int | None) -> list[dict[str, Any]]:
    """Of each of the queries `rows`, either "heat" or "samples" of a `Look`."""
    index = torch.tensor(rows, dtype=torch.int64, device=call.output.device)
    if not isinstance(call.module, MultiHeadAttention):
        locations, weights = (x[0].cpu().float() for x in sampling_points(call, index))
        chosen = heads_shown(weights.shape[1], head)
        locations, weights = locations[:, chosen], weights[:, chosen] / len(chosen)  # (R, heads, levels, points, 2)
        covered = torch.tensor([frame.covered_width, frame.covered_height])
        level = torch.arange(weights.shape[2])[:, None].expand_as(weights)
        table = torch.cat([locations * covered, weights[..., None], level[..., None]], dim=-1)
        return [{"samples": x} for x in table.flatten(1, 3).numpy()]
    weights = attention_weights(call, index)[0].cpu()  # (heads, R, S)
    weights = weights[heads_shown(len(weights), head)].mean(0)
    height, width = frame.map_sizes[0]
    if weights.shape[-1] != height * width:
        raise ValueError(
            f"the attention reads {weights.shape[-1]} tokens, which are not the cells of one map of {height} x "
            f"{width}; dense attention can be shown with one feature level only"
        )
    return [{"heat": x} for x in weights.numpy().reshape(-1, height, width)]


def grid_points(frame: Frame, columns: int, rows: int) -> list[tuple[float, float]]:
    """Centres (x, y) of the fields of a grid over the picture, row by row."""
    return [
        ((column + 0.5) * frame.width / columns, (row + 0.5) * frame.height / rows)
        for row in range(rows)
        for column in range(columns)
    ]
