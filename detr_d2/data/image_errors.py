"""What is said of image files that cannot be read, are not as large as annotated, or that something else fails on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import PIL
from PIL import UnidentifiedImageError

from ..files import other_kind
from .checks.missing_files import broken_link

IMAGE_FILE = "image file"


def another_size(
    path: str | os.PathLike[str], found: tuple[int, int], wanted: tuple[int, int], what: str = IMAGE_FILE
) -> str:
    """The sentence about a file whose width and height are not those annotated or, of labels, not those of its image.

    Args:
        path: of the file.
        found, wanted: width and height in pixels.
        what: kind of file.
    """
    of_image = what == IMAGE_FILE
    rotated, wants = (" (after EXIF rotation)", "annotation says") if of_image else ("", "image is")
    return f"{what} {path} is {found[0]}x{found[1]} pixels{rotated}, but its {wants} {wanted[0]}x{wanted[1]}"


@contextmanager
def reading(file_name: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what a decoder says of a bad image becomes a ValueError that names the file; a missing file stays one."""
    try:
        yield
    except FileNotFoundError as error:
        if (fault := broken_link(file_name)) is not None:
            raise FileNotFoundError(f"image file {fault}") from error
        scheme, is_uri, _ = os.fspath(file_name).partition("://")
        if is_uri:
            raise FileNotFoundError(
                f"image file {os.fspath(file_name)} does not exist, or no handler of {scheme}:// is registered with "
                "detectron2's PathManager: register one in a module given to --import, or download the images"
            ) from error
        raise
    except Exception as error:  # decoders meet damaged files with whatever went wrong in them, a KeyError for example
        raise ValueError(
            f"image file {os.fspath(file_name)} cannot be read ({_reason(file_name, error)}): replace it or leave it "
            "out"
        ) from error


@contextmanager
def naming_image(record: dict[str, Any]) -> Iterator[None]:
    """Inside, errors that do not name the image of the record get its name in front.

    Raises:
        OSError, ValueError: as they were, or as ValueErrors with the name.
        RuntimeError: for all others.
    """
    name = str(record.get("file_name", "(image without file_name)"))
    try:
        yield
    except (OSError, ValueError) as error:
        if name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error


def _reason(file_name: str | os.PathLike[str], error: Exception) -> str:
    """Why a file is no image, as far as that can be seen."""
    if os.path.isfile(file_name):
        with open(file_name, "rb") as file:
            start = file.read(64)
        if not start or other_kind(start):
            return f"it is {other_kind(start) or 'empty'}"
    if os.path.isdir(file_name):
        return "it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return f"it is of no kind that Pillow {PIL.__version__} knows, or damaged"
    return " ".join(str(error).split()) or type(error).__name__
