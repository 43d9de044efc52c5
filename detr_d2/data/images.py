"""Reading image files, for training and for everything else: as people see them, with 8 bits per channel.

Differs from detectron2's `read_image` in

* images of 16 bits, whose high byte counts, as in OpenCV and so in `DefaultPredictor`; detectron2 clips at 255;
* TIFFs with an orientation, which are turned once; Pillow turns them when it loads them, detectron2 again;
* floating-point images, which have no range that is known to be black to white and are refused;
* label images (`read_labels`), whose palette is not looked at.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch.utils.data import get_worker_info

from .image_errors import reading

_ORIENTATION = 274  # EXIF tag
_WIDTH, _HEIGHT = 256, 257  # TIFF tags
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations that exchange width and height
_SCALED_LABELS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of few bits over 0 to 255
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")

logger = logging.getLogger(__name__)

_said: list[str] = []  # files of several frames that a line has named


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before any pixel is decoded.

    Attributes:
        width, height: of the upright image, in pixels.
        frames: frames or pages, of which the first is used.
        deep: more than 8 bits per channel.
    """

    width: int
    height: int
    frames: int
    deep: bool


def read_image(file_name: str | os.PathLike[str], image_format: str) -> np.ndarray:
    """Reads an image, turned upright by its EXIF orientation; of several frames or pages, the first.

    Args:
        file_name: of the image.
        image_format: "BGR", "RGB", "YUV-BT.601", or a mode of Pillow.

    Returns:
        (H, W, C) uint8, the caller's to write to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded, is so large that Pillow takes it for an attack, or has values that are not
            of 8 or 16 bits; names the file.
    """
    with reading(file_name):
        image = detection_utils.convert_PIL_to_numpy(_decode(file_name), image_format)
    return image if image.flags.writeable else image.copy()  # fvcore's flips warn of arrays that are Pillow's own


def read_pillow(file_name: str | os.PathLike[str]) -> Image.Image:
    """Reads an image as an upright RGB image of Pillow, with the pixels that `read_image` would give.

    Raises:
        FileNotFoundError, ValueError: as `read_image`.
    """
    with reading(file_name):
        image = _decode(file_name)
        return image if image.mode == "RGB" else image.convert("RGB")


def read_labels(file_name: str | os.PathLike[str]) -> np.ndarray:
    """(H, W) uint8 labels of the pixels: the numbers that the file stores, whatever colours its palette gives them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded, is a colour picture, or has labels above 255; names the file.
    """
    with reading(file_name), PathManager.open(os.fspath(file_name), "rb") as file:
        image = Image.open(file)
        scale = next((_SCALED_LABELS[raw] for raw in _raw_modes(image) if raw in _SCALED_LABELS), 1)
        labels, turn = np.asarray(image), _turn(image)
        if labels.ndim == 3:
            bands = labels[:, :, : len(image.getbands()) - ("A" in image.getbands())]
            if (bands != bands[:, :, :1]).any():
                raise ValueError(f"it is a colour picture of mode {image.mode}, but labels are one number per pixel")
            labels = bands[:, :, 0]
        if labels.dtype.kind == "f" or labels.min() < 0 or labels.max() > 255:
            raise ValueError(
                f"it has values of mode {image.mode} that are not whole numbers from 0 to 255, as labels are"
            )
        labels = (labels.astype(np.uint8) // scale).astype(np.uint8)
    return labels if turn is None else np.array(Image.fromarray(labels).transpose(turn))


def read_header(file_name: str | os.PathLike[str]) -> ImageHeader:
    """Reads what comes before the pixels.

    Raises:
        FileNotFoundError, ValueError: as `read_image`, as far as the header shows it.
    """
    with reading(file_name), PathManager.open(os.fspath(file_name), "rb") as file:
        image = Image.open(file)
        _refuse_floats(image)
        width, height = image.size
        deep = _is_deep(image)
        if image.format == "TIFF":  # some versions of Pillow have turned the size, but not the image yet
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height, orientation = tags.get(_WIDTH, width), tags.get(_HEIGHT, height), tags.get(_ORIENTATION)
        elif image.format == "PNG" and not _png_may_turn(file):
            orientation = None
        else:
            orientation = _orientation(image)
        if orientation in _LYING:
            width, height = height, width
        return ImageHeader(width, height, _num_frames(image), deep)


def _decode(file_name: str | os.PathLike[str]) -> Image.Image:
    """The first frame, upright, with 8 bits or fewer per channel."""
    with PathManager.open(os.fspath(file_name), "rb") as file:
        image = Image.open(file)
        _refuse_floats(image)
        image.load()
        turn = _turn(image)
        decoded = _high_byte(image) if _bits_above_8(image) else image
        if image.format != "JPEG":
            decoded = decoded.copy()  # counting frames moves through the others
        frames = _num_frames(image)
    worker = get_worker_info()
    if frames > 1 and not _said and (worker is None or worker.id == 0):  # once in a process, of workers in the first
        say_frames(os.fspath(file_name), frames)
    return decoded if turn is None else decoded.transpose(turn)


def _refuse_floats(image: Image.Image) -> None:
    if image.mode.startswith("F"):
        raise ValueError(
            "its values are floating-point numbers, whose black and white are not known; write it with 8 or 16 bits"
        )


def _bits_above_8(image: Image.Image) -> bool:
    """Whether Pillow has kept them; of colours it keeps the high byte only."""
    return image.mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    return _bits_above_8(image) or any(";16" in raw for raw in _raw_modes(image))


def _raw_modes(image: Image.Image) -> list[str]:
    """How the pixels lie in the file, in Pillow's names; known until they are loaded."""
    arguments = [tile[3] for tile in image.tile]  # type: ignore[attr-defined]
    return [str(x[0] if isinstance(x, tuple) and x else x) for x in arguments]


def _high_byte(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"its values go from {low} to {high}, but 16 bits hold 0 to 65535; write it with 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What is left to do to make the image upright."""
    return None if image.format == "TIFF" else _TURNS.get(_orientation(image) or 1)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data, of which Pillow may say anything: the pixels are what counts
        return None


def _png_may_turn(file: BinaryIO) -> bool:
    """Whether a PNG has a chunk that can hold an orientation, for which Pillow would decode the whole image."""
    before, position = file.tell(), 8  # behind the signature
    found = False
    while not found:
        file.seek(position)
        start = file.read(40)
        if len(start) < 8:
            break
        kind, text = start[4:8], start[8:]
        found = kind == b"eXIf" or (kind in _TEXT_CHUNKS and text.startswith(_ORIENTED_TEXTS))
        position += 12 + int.from_bytes(start[:4], "big")
    file.seek(before)
    return found


def _num_frames(image: Image.Image) -> int:
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return 1  # the other pictures of an MPO are previews and depths of the same photo
    try:
        return int(image.n_frames)  # type: ignore[attr-defined]
    except Exception:  # a damaged frame, which is not used
        return 2


def say_frames(file_name: str, frames: int) -> None:
    """One line about images of several frames or pages, here and where datasets are looked through."""
    _said.append(file_name)
    logger.warning("%s holds %d frames or pages: of such files the first one is used.", file_name, frames)
