"""What to tell about predictions that are no numbers any more."""

from __future__ import annotations

from typing import Any

from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor


def describe_non_finite(
    logits: Tensor, boxes_cxcywh: Tensor, batched_inputs: list[dict[str, Any]], image_index: int
) -> str:
    """The message about a batch in which nothing finite is predicted for an image: iteration, files, what to do.

    Args:
        logits: (L, B, Q, num_logits).
        boxes_cxcywh: (L, B, Q, 4).
        batched_inputs: detectron2's format, where it is known with "file_name".
        image_index: the image.
    """
    iteration = get_event_storage().iter if has_event_storage() else "unknown"
    bad = [n for n, x in (("logits", logits), ("boxes", boxes_cxcywh)) if not x.isfinite().all()]
    bad = bad or ["the encoder's proposals"]
    files = [x.get("file_name", f"image {i} of the batch") for i, x in enumerate(batched_inputs)]
    return (
        f"Iteration {iteration}: all predictions for {files[image_index]} are NaN or infinite "
        f"(in {' and '.join(bad)}; images of this batch: {', '.join(files)}). Lower SOLVER.BASE_LR, check that "
        "SOLVER.CLIP_GRADIENTS is on, or train with SOLVER.AMP.DTYPE bfloat16 instead of float16."
    )
