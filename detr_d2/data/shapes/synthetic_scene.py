"""Draws one picture of the shapes dataset: circles, rectangles and triangles, with masks that are exact to the pixel.

An image is a function of (seed, index, config) alone: how many images a dataset has, and in which order they are drawn,
changes nothing. A mask is what can be seen: pixels that another shape covers belong to that shape's mask, pixels in a
hidden band to none. A box is the box of its mask.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

THING_CLASSES = ("circle", "rectangle", "triangle")
STUFF_CLASSES = ("sky", "ground", "water")

# RGB of the stuff regions: dark, so that an easy picture stays bright shapes on a dark background.
_STUFF_COLOURS = np.array([[30, 45, 80], [60, 45, 20], [10, 60, 55]], dtype=np.float32)
_ATTEMPTS = 40  # placements tried for one shape before it is left out

DIFFICULTIES: dict[str, dict[str, Any]] = {
    "easy": {},
    # Objects of one class overlap so much that NMS has to choose between them.
    "crowded": {"stacking": 0.8, "max_overlap": 0.8, "min_visible": 0.15, "min_objects": 3, "max_objects": 8},
}
_FRACTIONS = ("max_overlap", "crowding", "stacking", "min_visible", "contrast", "texture", "translucency", "hidden")


@dataclass(frozen=True)
class ShapesConfig:
    """What the pictures look like; the defaults are the level that plain DETR learns in minutes.

    Attributes:
        width, height: image size in pixels.
        min_objects, max_objects: shapes per image, drawn uniformly; those that find no place are left out.
        min_size, max_size: longer side of a shape in pixels, before rotation and before parts are hidden.
        max_overlap: largest IoU allowed between the boxes of two whole shapes, 0 to 1.
        crowding: probability that a shape is placed next to an earlier one instead of anywhere, 0 to 1.
        stacking: probability that a shape repeats the class and about the size of an earlier one and lies over it, a
            little aside, 0 to 1.
        min_visible: smallest fraction of a shape's pixels that later shapes and hidden bands leave visible, 0 to 1.
        contrast: distance of a shape's colour from the background's mean colour, 1 = full.
        texture: strength of blotches on background and shapes, 0 to 1.
        noise: standard deviation of the noise of every pixel, in grey levels (0-255).
        translucency: largest transparency of a shape, 0 (opaque) to below 1.
        hidden: largest fraction of a shape's height or width taken away by a band of background, 0 to below 1.
        rotation: rectangles and triangles are turned by up to this many degrees either way.
        panoptic: paint stuff regions (sky, ground, water) as background.
    """

    width: int = 128
    height: int = 128
    min_objects: int = 1
    max_objects: int = 4
    min_size: int = 18
    max_size: int = 56
    max_overlap: float = 0.1
    crowding: float = 0.0
    stacking: float = 0.0
    min_visible: float = 0.8
    contrast: float = 1.0
    texture: float = 0.0
    noise: float = 0.0
    translucency: float = 0.0
    hidden: float = 0.0
    rotation: float = 0.0
    panoptic: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_objects <= self.max_objects:
            raise ValueError(
                f"shapes per image must be 0 <= min <= max, but are {self.min_objects} and {self.max_objects}"
            )
        if not 4 <= self.min_size <= self.max_size:
            raise ValueError(f"sizes must be 4 <= min <= max pixels, but are {self.min_size} and {self.max_size}")
        reach = self.max_size * (1.42 if self.rotation else 1.0)
        if reach > min(self.width, self.height):
            raise ValueError(
                f"shapes of up to {self.max_size} px (turned: {reach:.0f} px) do not fit into images of "
                f"{self.width}x{self.height} px: choose larger images or a smaller max_size"
            )
        for name in _FRACTIONS:
            upper = 0.95 if name in ("translucency", "hidden") else 1.0
            if not 0.0 <= getattr(self, name) <= upper:
                raise ValueError(f"{name} must lie between 0 and {upper}, but is {getattr(self, name)}")
        if self.noise < 0 or self.rotation < 0:
            raise ValueError(f"noise and rotation must not be negative, but are {self.noise} and {self.rotation}")

    @classmethod
    def preset(cls, difficulty: str = "easy", **overrides: Any) -> ShapesConfig:
        """The config of a difficulty (a key of `DIFFICULTIES`), with single values replaced.

        Raises:
            ValueError: on an unknown difficulty or key.
        """
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}: choose one of {', '.join(DIFFICULTIES)}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(overrides) - set(known)):
            raise ValueError(f"unknown shapes parameters {unknown}: known are {known}")
        return cls(**{**DIFFICULTIES[difficulty], **overrides})


@dataclass(frozen=True)
class Scene:
    """One picture and its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        classes: one index into `THING_CLASSES` per shape.
        masks: (M, H, W) bool, visible pixels, disjoint.
        stuff: (H, W) uint8 index into `STUFF_CLASSES` of the background behind the shapes, None without panoptic.
        left_out: shapes that were drawn by lot but found no place.
    """

    image: np.ndarray
    classes: list[int]
    masks: np.ndarray
    stuff: np.ndarray | None
    left_out: int


def draw_scene(config: ShapesConfig, seed: int, index: int) -> Scene:
    """Draws image number `index` of the dataset with this seed."""
    # Separate streams: a change of looks (texture, noise, stuff) leaves the layout of the shapes as it was.
    layout, looks, background = (np.random.default_rng([seed, index, stream]) for stream in range(3))
    classes, masks, left_out = _place_shapes(config, layout)
    canvas, stuff = _draw_background(config, background)
    mean_colour = canvas.mean(axis=(0, 1))
    blotches = _smooth_field(looks, config, cell=5)[..., None] * 80.0 * config.texture
    for mask in masks:
        colour = mean_colour + config.contrast * (_bright_colour(looks) - mean_colour)
        opacity = 1.0 - looks.uniform(0.0, config.translucency)
        canvas[mask] = opacity * (colour + blotches[mask]) + (1.0 - opacity) * canvas[mask]
    if config.noise:
        canvas += looks.normal(0.0, config.noise, canvas.shape)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image=image, classes=classes, masks=masks, stuff=stuff, left_out=left_out)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The xyxy pixel box of an (H, W) mask with at least one pixel; right and bottom are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place_shapes(config: ShapesConfig, rng: np.random.Generator) -> tuple[list[int], np.ndarray, int]:
    """Places shapes one after another, later ones in front: classes, visible masks (M, H, W), number left out."""
    wanted = int(rng.integers(config.min_objects, config.max_objects + 1))
    classes: list[int] = []
    boxes = np.zeros((0, 4))  # of the whole shapes
    areas = np.zeros(0)  # of the whole shapes
    visible = np.zeros((0, config.height, config.width), dtype=bool)
    for _ in range(wanted):
        kind, below = int(rng.integers(len(THING_CLASSES))), None
        if config.stacking and classes and rng.uniform() < config.stacking:
            partner = int(rng.integers(len(classes)))
            kind, below = classes[partner], boxes[partner]
        for _ in range(_ATTEMPTS):
            whole = _draw_shape(config, rng, kind, boxes) if below is None else _draw_over(config, rng, kind, below)
            box = np.array(mask_box(whole), dtype=float)
            seen = _hide_band(config, rng, whole, box)
            remaining = np.concatenate([visible & ~seen, seen[None]])
            whole_areas = np.append(areas, whole.sum())
            enough = remaining.sum(axis=(1, 2)) >= np.maximum(config.min_visible * whole_areas, 1)
            if enough.all() and _largest_iou(box, boxes) <= config.max_overlap:
                visible, areas = remaining, whole_areas
                boxes = np.concatenate([boxes, box[None]])
                classes.append(kind)
                break
    return classes, visible, wanted - len(classes)


def _draw_shape(config: ShapesConfig, rng: np.random.Generator, kind: int, placed: np.ndarray) -> np.ndarray:
    """The (H, W) mask of one whole shape somewhere inside the image."""
    size = rng.uniform(config.min_size, config.max_size)
    short = max(float(config.min_size), size * rng.uniform(0.6, 1.0))
    sides = (size, short) if rng.uniform() < 0.5 else (short, size)  # drawn for a circle, too: the next draws are alike
    corners = _turned(config, rng, _corners(kind, *(sides if kind else (size, size))))
    low, high = corners.min(axis=0), corners.max(axis=0)
    bounds = np.array([config.width, config.height]) - high
    centre = rng.uniform(-low, bounds)
    if len(placed) and rng.uniform() < config.crowding:
        centre = np.clip(_beside(rng, placed, size), -low, bounds)
    return _fill(config, kind, corners, centre, size)


def _draw_over(config: ShapesConfig, rng: np.random.Generator, kind: int, below: np.ndarray) -> np.ndarray:
    """The (H, W) mask of one whole shape over another: moved by 5 to 20 % of its sides in both directions.

    Moved in one direction only, it would leave a strip of the other whose box hardly overlaps its own.
    """
    sides = np.clip((below[2:] - below[:2]) * rng.uniform(0.9, 1.1), config.min_size, config.max_size)
    sides = np.full(2, sides.mean()) if kind == 0 else sides
    corners = _turned(config, rng, _corners(kind, *sides))
    low, high = corners.min(axis=0), corners.max(axis=0)
    shift = rng.uniform(0.05, 0.2, 2) * sides * rng.choice([-1.0, 1.0], 2)
    centre = (below[:2] + below[2:]) / 2 + shift
    centre = np.clip(centre, -low, np.array([config.width, config.height]) - high)
    return _fill(config, kind, corners, centre, sides[0])


def _turned(config: ShapesConfig, rng: np.random.Generator, corners: np.ndarray) -> np.ndarray:
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return corners @ turn.T


def _fill(config: ShapesConfig, kind: int, corners: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray:
    """The (H, W) mask of a shape: corners (N, 2) around its centre (x, y), or the diameter of a circle."""
    x = np.arange(config.width) + 0.5 - centre[0]
    y = np.arange(config.height)[:, None] + 0.5 - centre[1]
    if kind == 0:
        return x**2 + y**2 <= (size / 2) ** 2
    inside = np.ones((config.height, config.width), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    return inside


def _corners(kind: int, width: float, height: float) -> np.ndarray:
    """Corners (N, 2) around (0, 0) in the order that has the inside on one side; a circle's are those of its box."""
    if kind == 2:
        return np.array([[0.0, -height / 2], [width / 2, height / 2], [-width / 2, height / 2]])
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([width, height]) / 2


def _beside(rng: np.random.Generator, placed: np.ndarray, size: float) -> np.ndarray:
    """A centre next to one of the placed boxes, in any direction."""
    x0, y0, x1, y1 = placed[rng.integers(len(placed))]
    distance = rng.uniform(0.6, 1.0) * (size + max(x1 - x0, y1 - y0)) / 2
    direction = rng.uniform(0.0, 2 * np.pi)
    return np.array([(x0 + x1) / 2 + distance * np.cos(direction), (y0 + y1) / 2 + distance * np.sin(direction)])


def _hide_band(config: ShapesConfig, rng: np.random.Generator, mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Takes a horizontal or vertical band of background away from a shape, in half of the cases."""
    if config.hidden == 0.0 or rng.uniform() < 0.5:
        return mask
    axis = int(rng.integers(2))  # 0: the band spans columns, 1: rows
    low, high = box[axis], box[axis + 2]
    thickness = rng.uniform(0.0, config.hidden) * (high - low)
    start = rng.uniform(low, high - thickness)
    band = slice(round(start), round(start + thickness))
    seen = mask.copy()
    seen[(slice(None), band) if axis == 0 else (band, slice(None))] = False
    return seen


def _largest_iou(box: np.ndarray, boxes: np.ndarray) -> float:
    """Largest IoU of one xyxy box with (N, 4) others; 0 without others."""
    if not len(boxes):
        return 0.0
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return float((common / ((box[2:] - box[:2]).prod() + areas - common)).max())


def _draw_background(config: ShapesConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """A smooth dark (H, W, 3) float32 background in 0-255, and its stuff regions."""
    coarse = rng.uniform(0, 70, (4, 4, 3)).astype(np.uint8)
    size = (config.width, config.height)
    canvas = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    stuff = _stuff_regions(config, rng) if config.panoptic else None
    if stuff is not None:
        canvas = _STUFF_COLOURS[stuff] + 0.4 * canvas
    canvas += _smooth_field(rng, config, cell=6)[..., None] * 80.0 * config.texture
    return canvas, stuff


def _stuff_regions(config: ShapesConfig, rng: np.random.Generator) -> np.ndarray:
    """(H, W) indices into `STUFF_CLASSES`: sky above a wavy horizon, ground below it, often water on one side."""
    x, y = np.arange(config.width), np.arange(config.height)[:, None]
    wave = 0.06 * config.height * np.sin(2 * np.pi * (x / config.width * rng.uniform(0.5, 2.0) + rng.uniform()))
    below = y > config.height * rng.uniform(0.3, 0.7) + wave
    regions = below.astype(np.uint8)
    if rng.uniform() < 0.7:
        shore = config.width * rng.uniform(0.3, 0.7) + (y - config.height) * rng.uniform(-0.4, 0.4)
        left = bool(rng.uniform() < 0.5)
        regions[below & ((x < shore) == left)] = 2
    return regions


def _smooth_field(rng: np.random.Generator, config: ShapesConfig, cell: int) -> np.ndarray:
    """(H, W) float32 blotches in -1 to 1, about `cell` pixels wide; zeros, drawing nothing, without texture."""
    if not config.texture:
        return np.zeros((config.height, config.width), dtype=np.float32)
    grid = rng.uniform(-1, 1, (config.height // cell + 2, config.width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((config.width, config.height), Image.Resampling.BILINEAR))


def _bright_colour(rng: np.random.Generator) -> np.ndarray:
    """A saturated bright RGB colour in 0-255."""
    hue, saturation, value = rng.uniform(), rng.uniform(0.4, 1.0), rng.uniform(0.7, 1.0)
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
