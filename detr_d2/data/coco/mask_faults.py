"""Whether the segmentation of an annotation can be used as a mask: nothing is drawn, no size from a file allocated.

pycocotools believes what it is given: a coordinate that is not finite or far away, or run lengths that do not fit the
image, end in gigabytes of memory or a crash. So it only ever gets what has passed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pycocotools.mask

from .json_values import MAX_COORDINATE, MAX_PIXELS, Refused, number, plain_value, shown, side

MISSING = "has no segmentation"
EMPTY = "has an RLE that marks no pixel"

_SHORTEST_RING = 6  # numbers; a ring of fewer has no area
_OUTSIDE = 10  # a vertex is at most so many times the longer side of its image outside of it
_MAX_OUTLINE = 1_000_000  # pixels along a ring; pycocotools takes about 150 bytes for each of them
_AT_ONCE = 20_000  # annotations looked at together


def read_polygons(values: Sequence[Any], sizes: np.ndarray) -> tuple[list[Any], list[str]]:
    """`read_segmentation` of A decoded segmentations at once; rings hold nothing but floats, and most are right.

    Args:
        values: polygons, an RLE, or None.
        sizes: (A, 2), width and height of the images.

    Returns:
        A segmentations or None, and A faults.
    """
    masks, faults = list(values), [""] * len(values)
    for start in range(0, len(values), _AT_ONCE):
        for i in _suspects(values[start : start + _AT_ONCE], sizes[start : start + _AT_ONCE]).tolist():
            read = read_segmentation(values[start + i], *sizes[start + i].tolist())
            masks[start + i], faults[start + i] = read
    return masks, faults


def _suspects(values: Sequence[Any], sizes: np.ndarray) -> np.ndarray:
    """Indices of those that are not polygons, or may have a fault."""
    suspect = np.array([type(value) is not list or not value for value in values], dtype=bool)
    polygons = [value for value in values if type(value) is list and value]
    owners = np.repeat(np.flatnonzero(~suspect), np.array(list(map(len, polygons)), dtype=np.int64))
    rings = list(chain.from_iterable(polygons))
    lengths = np.fromiter(map(len, rings), dtype=np.int64, count=len(rings))
    bad = (lengths < _SHORTEST_RING) | (lengths % 2 != 0)
    some = np.flatnonzero(lengths)
    if len(some):
        numbers = np.fromiter(chain.from_iterable(rings), dtype=np.float64, count=lengths.sum())
        starts = (np.cumsum(lengths) - lengths)[some]
        low, high = np.minimum.reduceat(numbers, starts), np.maximum.reduceat(numbers, starts)
        longer = sizes[owners[some]].max(axis=1)
        farthest = np.minimum(_OUTSIDE * longer, MAX_COORDINATE)
        bad[some] |= (low < -farthest) | (high > longer + farthest) | ((high - low) * lengths[some] / 2 > _MAX_OUTLINE)
    suspect[owners[bad]] = True
    return np.flatnonzero(suspect)


def read_segmentation(value: Any, width: int, height: int) -> tuple[Any, str]:
    """A segmentation of a COCO file in detectron2's form, and what is wrong with it.

    Args:
        value: as JSON has it, or None.
        width, height: of the image.

    Returns:
        Polygons without those of two points or fewer, which have no area, or an RLE with compressed counts; None if it
        cannot be used. And the fault, as that of `mask_fault`.
    """
    rings = _numbers(value)
    if rings:
        value = [ring for ring in rings if len(ring) not in (0, 2, 4)] or rings
    fault = mask_fault(value, width, height)
    if fault:
        return None, fault
    return (value if rings else compressed_rle(value)), ""


def _numbers(value: Any) -> list[list[float]] | None:
    """Rings of numbers, which may be written as texts; None if it is something else."""
    if not isinstance(value, list) or not all(isinstance(ring, list) for ring in value):
        return None
    try:
        return [list(map(float if set(map(type, ring)) <= {int, float} else _far_number, ring)) for ring in value]
    except (Refused, OverflowError):
        return None


def _far_number(value: Any) -> float:
    return number(value, least=-1e300, most=1e300)


def mask_fault(segmentation: Any, width: int, height: int) -> str:
    """What is wrong with a segmentation, as the predicate of a sentence; "" if nothing is.

    Args:
        segmentation: polygons (lists of x, y, x, y, ...), an RLE (dict), or a bitmap (H, W).
        width, height: of the image; 0 where unknown.
    """
    if segmentation is None or (isinstance(segmentation, list | dict) and not segmentation):
        return MISSING
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, width, height)
    if isinstance(segmentation, list):
        return _rings_fault(segmentation, width, height)
    if not isinstance(segmentation, np.ndarray):
        return f"has a segmentation that is neither polygons nor an RLE: {shown(segmentation)}"
    shape = segmentation.shape
    if len(shape) != 2 or (width and height and shape != (height, width)):
        return f"has a bitmap of shape {shape} in an image of height {height} and width {width}"
    return "" if segmentation.dtype.kind in "biuf" else f"has a bitmap of {segmentation.dtype}"


def _rings_fault(rings: Sequence[Any], width: int, height: int) -> str:
    longer = max(width, height)
    farthest = min(_OUTSIDE * longer, MAX_COORDINATE) if longer else MAX_COORDINATE
    for ring in rings:
        values = _plain(ring)
        if values is None:
            return f"has a polygon that is no list of numbers x, y, x, y, ...: {shown(ring)}"
        if len(values) < _SHORTEST_RING or len(values) % 2:
            return f"has no polygon of three points x, y or more: one has {len(values)} numbers"
        low, high = min(values), max(values)
        if not _all_finite(values):
            return "has a polygon with a coordinate that is not finite"
        if low < -farthest or high > longer + farthest:
            return f"has a polygon far outside its image, with the coordinate {low if low < -farthest else high:g}"
        if (high - low) * len(values) / 2 > _MAX_OUTLINE and _outline(values) > _MAX_OUTLINE:
            return f"has a polygon of {len(values) // 2} points whose outline is {_outline(values):g} pixels long"
    return ""


def _all_finite(values: Sequence[float]) -> bool:
    try:
        return math.isfinite(sum(values))
    except OverflowError:  # an integer beyond floats
        return False


def _plain(ring: Any) -> Sequence[float] | None:
    """Its numbers; None if it holds anything else."""
    if isinstance(ring, np.ndarray):
        return ring.tolist() if ring.ndim == 1 and ring.dtype.kind in "iuf" else None
    if not isinstance(ring, list | tuple):
        return None
    kinds = set(map(type, ring))
    if kinds <= {float}:
        return ring
    return ring if all(issubclass(k, int | float | np.number) and k is not bool for k in kinds) else None


def _outline(values: Sequence[float]) -> float:
    points = np.array(values, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _rle_fault(rle: dict[str, Any], width: int, height: int) -> str:
    size, counts = rle.get("size"), rle.get("counts")
    try:
        rows, columns = (side(plain_value(value)) for value in size)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        counts = None
    if counts is None:
        return 'has an RLE without "size" [height, width] and "counts"'
    if width and height and (rows, columns) != (height, width):
        return f"has an RLE of height {rows} and width {columns} in an image of height {height} and width {width}"
    if rows * columns > MAX_PIXELS:
        return f"has an RLE of height {rows} and width {columns}, more pixels than can be read"
    runs = run_lengths(counts)
    if runs is None:
        return f"has an RLE whose counts are no run lengths: {shown(counts)}"
    total = int(runs.sum())
    if total != rows * columns:
        return f"has an RLE whose counts sum to {total} instead of {rows} x {columns} pixels"
    return "" if runs[1::2].any() else EMPTY


def run_lengths(counts: Any) -> np.ndarray | None:
    """(R,) int64 run lengths of background and mask in turn, from a list or compressed; None if they are neither."""
    if isinstance(counts, str | bytes):
        return _decompressed(counts)
    if isinstance(counts, np.ndarray):
        counts = counts.tolist()
    if not isinstance(counts, list | tuple):
        return None
    whole = all(
        isinstance(x, int | float | np.number) and not isinstance(x, bool) and 0 <= x <= MAX_PIXELS for x in counts
    )
    runs = np.array(counts, dtype=np.float64) if whole else None
    return runs.astype(np.int64) if runs is not None and (runs == np.floor(runs)).all() else None


def _decompressed(counts: str | bytes) -> np.ndarray | None:
    """COCO's compressed counts: six bits a character, the sixth for "more follows"; differences from the fourth on."""
    if isinstance(counts, str):
        if not counts.isascii():
            return None
        counts = counts.encode()
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        return None
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.flatnonzero(last) + 1 - starts
    if lengths.max() > 7:  # more than 32 bits
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs = np.where(codes[last] & 16, runs - (1 << (5 * lengths)), runs)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs if runs.min() >= 0 and runs.max() <= MAX_PIXELS else None


def compressed_rle(rle: dict[str, Any]) -> dict[str, Any]:
    """An RLE without a fault as it stands in detectron2's dicts, whose counts are never a list."""
    size = [int(value) for value in rle["size"]]
    if isinstance(rle["counts"], str | bytes):
        return {"size": size, "counts": rle["counts"]}
    counts = run_lengths(rle["counts"])
    assert counts is not None
    return dict(pycocotools.mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size))


def mask_area(segmentation: Any) -> float:
    """Square pixels of a mask of `read_segmentation`: of its polygons, added up as detectron2 does, or of its runs."""
    if isinstance(segmentation, dict):
        runs = run_lengths(segmentation["counts"])
        assert runs is not None
        return float(runs[1::2].sum())
    return float(sum(_ring_area(np.array(ring).reshape(-1, 2)) for ring in segmentation))


def _ring_area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def numbered_faults(faults: Iterable[str]) -> dict[str, np.ndarray]:
    """Faults as arrays that stay small: `mask_faults` (F,) str, "" first, and `mask_fault_of` (A,) int."""
    faults = list(faults)
    names = sorted({"", *faults})
    number = {name: index for index, name in enumerate(names)}
    which = np.fromiter(map(number.__getitem__, faults), dtype=np.int64, count=len(faults))
    return {"mask_faults": np.array(names, dtype=object), "mask_fault_of": which}
