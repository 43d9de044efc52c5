"""What has been found out about data, kept as arrays until the data change.

They are in detectron2's cache folder: `$FVCORE_CACHE`, by default `~/.torch/iopath_cache`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from iopath.common.file_io import get_cache_dir

from ..files import write_file

_JSON = ".json"  # ends the names of arrays of objects
_VERSION = 5  # raised whenever the same data would give other arrays

logger = logging.getLogger(__name__)


def cache_file(*key: object) -> Path:
    """The place for what depends on `key` alone."""
    digest = hashlib.sha256(repr((_VERSION, *key)).encode()).hexdigest()[:32]
    return Path(get_cache_dir()) / "detr_d2" / f"{digest}.npz"


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `save_arrays` has written; None if there is nothing, or only a part of it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        for name in [name for name in arrays if name.endswith(_JSON)]:
            arrays[name.removesuffix(_JSON)] = objects_array(json.loads(arrays.pop(name).tobytes()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Writes arrays of numbers and, as JSON, of texts and numbers of any length; warns where it cannot.

    Args:
        path: see `cache_file`.
        arrays: by name.
        what: they are, for the warning, such as "The checks of a.json".
    """
    stored: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype == object:
            stored[name + _JSON] = np.frombuffer(json.dumps(array.tolist()).encode(), dtype=np.uint8)
        else:
            stored[name] = array
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    try:
        write_file(path, lambda file: file.write(buffer.getvalue()))
    except OSError as error:
        logger.warning("%s cannot be cached in %s: %s", what, path.parent, error)


def objects_array(values: list[Any]) -> np.ndarray:
    """A one-dimensional array of these very objects."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
