"""Panoptic maps against the authors' post-processing, where a checkout of their code is at hand (DETR_REPO)."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from parity_models import needs_authors
from PIL import Image
from torch.nn.functional import interpolate

from detr_d2.modeling.segmentation.panoptic import PanopticPostprocessor
from detr_d2.other_libraries.references import authors_modules
from detr_d2.panoptic_classes import PanopticClasses

pytestmark = needs_authors

THINGS, STUFF = 3, 4


@pytest.fixture(scope="module")
def segmentation() -> Iterator[Any]:
    """Their `models.segmentation`, with the two functions of panopticapi that it needs."""
    utils = ModuleType("panopticapi.utils")
    utils.id2rgb = lambda ids: np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)  # type: ignore[attr-defined]
    utils.rgb2id = lambda rgb: rgb.astype(np.int64) @ np.array([1, 256, 65536])  # type: ignore[attr-defined]
    package = ModuleType("panopticapi")
    package.utils = utils  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch, authors_modules() as authors:
        patch.setitem(sys.modules, "panopticapi", package)
        patch.setitem(sys.modules, "panopticapi.utils", utils)
        yield authors.module("models.segmentation")


def authors_map(
    segmentation: Any, logits: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    is_thing = {row: row < THINGS for row in range(THINGS + STUFF)}
    outputs = {"pred_logits": logits[None], "pred_masks": masks[None], "pred_boxes": torch.rand(1, len(logits), 4)}
    found = segmentation.PostProcessPanoptic(is_thing, threshold=0.2)(outputs, [size], [output_size])[0]
    picture = np.asarray(Image.open(io.BytesIO(found["png_string"]))).astype(np.int64)
    return picture @ np.array([1, 256, 65536]), found["segments_info"]


@pytest.mark.parametrize("output_size", [(96, 130), (50, 71), (144, 195), (240, 300), (7, 9), (3, 2)])
@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("seed", range(4))
def test_maps_are_those_of_the_authors(segmentation: Any, seed: int, output_size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(40, THINGS + STUFF + 1, generator=generator)
    masks = torch.randn(40, 24, 33, generator=generator)
    masks[::4] *= 0.2  # some win few pixels or none
    masks[1::4] = interpolate(torch.randn(10, 1, 4, 5, generator=generator) * 3, size=(24, 33), mode="bilinear")[:, 0]
    theirs, info = authors_map(segmentation, logits, masks, (96, 130), output_size)
    classes = PanopticClasses(num_things=THINGS, num_stuff=STUFF, layout="standard")
    ours = PanopticPostprocessor(classes=classes, score_threshold=0.2)(
        logits,
        masks,
        output_size=output_size,
        upsample=lambda x: interpolate(x[:, None], size=(96, 130), mode="bilinear")[:, 0],
    )
    segments, found = ours["panoptic_seg"]
    assert len(info) > 4 or output_size in ((7, 9), (3, 2))
    if info:
        assert torch.equal(segments, torch.from_numpy(theirs) + 1)
    else:
        assert not segments.any()
    keys = ("id", "isthing", "category_id", "area")
    assert [[s[k] for k in keys] for s in found] == [[s["id"] + 1, *(s[k] for k in keys[1:])] for s in info]
