"""Reading image files, for training and for everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import detection_utils
from PIL import Image


def read_image(file_name: str | os.PathLike[str], image_format: str) -> np.ndarray:
    """Reads an image as detectron2 does, turned upright by its EXIF orientation.

    Args:
        file_name: of the image.
        image_format: "BGR", "RGB", or a mode of Pillow.

    Returns:
        (H, W, C) uint8, the caller's to write to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded, or is so large that Pillow takes it for an attack; names the file.
    """
    with reading(file_name):
        image = detection_utils.read_image(os.fspath(file_name), format=image_format)
    return image if image.flags.writeable else image.copy()  # fvcore's flips warn of arrays that are Pillow's own


@contextmanager
def reading(file_name: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what Pillow says of a bad image becomes a ValueError that names the file; a missing one stays missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: some broken PNGs
        raise ValueError(f"image file {file_name} cannot be read ({error}): replace it or leave it out") from error
