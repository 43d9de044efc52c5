"""Image files before the first step: all are there, have the annotated size, and a sample can be decoded.

Sizes come from headers; no pixel is decoded for them. What has been seen of a file is kept in the cache folder under
its path, size and time of change, so that the next start looks at new and changed files only.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..cache import cache_file, load_arrays, save_arrays
from ..coco.json_values import MOST_NAMED
from ..image_errors import IMAGE_FILE, another_size
from ..images import read_header, read_image, say_frames
from .missing_files import missing_message

_SAMPLE = 16  # images decoded per dataset
_LOOKED_AT = 256  # images whose headers are read where there are no annotations
_PER_JOB = 32  # headers that one thread reads between two looks at the clock
_SHALLOW = 0.1  # of the range: images of 16 bits that use less are nearly black

TRAINING_SECONDS = 60.0
"""How long headers of training images are read before the rest is left to when they are drawn."""

logger = logging.getLogger(__name__)

_Seen = tuple[int, int, int, int]
"""Of a file: frames; whether it is deep; lowest and highest value of its high bytes, -1 where it was not decoded."""


@dataclass
class _Look:
    """What is found out about the images of a dataset.

    Args:
        paths: N files.
        sizes: (N, 2) width and height in the annotations, 0 where they say nothing.
        known: digest -> what an earlier start has seen.
        pngs: whether they are panoptic PNGs.
        seen: index -> digest and what is seen now.
        faults: index -> what is wrong.
        damaged: index -> why it cannot be read.
    """

    paths: Sequence[str]
    sizes: np.ndarray
    known: dict[int, _Seen]
    pngs: bool = False
    seen: dict[int, tuple[int, _Seen]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)

    def header(self, index: int) -> None:
        """Looks at a file, unless it has not changed since an earlier start."""
        path, (width, height) = self.paths[index], self.sizes[index].tolist()
        try:
            digest = _digest(path, width, height)
            if digest in self.known:
                self.seen[index] = digest, self.known[digest]
                return
            header = read_header(path)
        except (OSError, ValueError) as error:
            self.damaged[index] = str(error)
            return
        if width and height and (header.width, header.height) != (width, height):
            found = header.width, header.height
            self.faults[index] = another_size(path, found, (width, height), "panoptic PNG" if self.pngs else IMAGE_FILE)
        elif self.pngs and header.deep:
            self.faults[index] = (
                f"panoptic PNG {path} has 16 bits per channel, but expected are colours of 8 bits, R + 256 G + 65536 B "
                "of a segment's id"
            )
        self.seen[index] = digest, (header.frames, int(header.deep), -1, -1)

    def pixels(self, index: int) -> None:
        """Decodes a file, unless an earlier start has."""
        digest, (frames, deep, low, _) = self.seen[index]
        if low < 0:
            try:
                pixels = read_image(self.paths[index], "RGB")
            except (OSError, ValueError) as error:
                self.damaged[index] = str(error)
                return
            self.seen[index] = digest, (frames, deep, int(pixels.min(initial=255)), int(pixels.max(initial=0)))


def check_images(
    name: str,
    paths: Sequence[str],
    sizes: np.ndarray,
    *,
    root: str = "",
    seconds: float | None = None,
    pngs: bool = False,
    refuse_damaged: bool = True,
) -> None:
    """Checks the images of a dataset; one line says what is likely to be a mistake.

    Args:
        name: of the dataset.
        paths: N files; "" where the dataset gives none. Of URIs only a sample is read.
        sizes: (N, 2) width and height in the annotations, 0 where they say nothing.
        root: folder that the annotations' file names are relative to, "" if there is none.
        seconds: for headers; what is left over then is not looked at, and a line says so. None: all the time it takes.
        pngs: they are panoptic PNGs, and the sizes are those of their images.
        refuse_damaged: if not, images that cannot be read are left to whoever reads them next.

    Raises:
        ValueError: if files are missing (and why), an image cannot be read, or has another size than annotated.
    """
    kept = [index for index, path in enumerate(paths) if path]
    if not kept:
        return
    paths, sizes = [os.fspath(paths[index]) for index in kept], np.asarray(sizes)[kept]
    what = f"of {len(paths)} panoptic PNGs" if pngs else "image files"
    _require_files(name, what, [path for path in paths if not _is_uri(path)], root)
    memory = cache_file("pngs" if pngs else "images", name, root, os.path.dirname(paths[0]))
    stored = load_arrays(memory) or {"digests": np.array([]), "seen": np.array([])}
    known = dict(zip(stored["digests"].tolist(), map(tuple, stored["seen"].tolist()), strict=True))
    look = _Look(paths, sizes, known, pngs)
    sample = np.unique(np.linspace(0, len(paths) - 1, _SAMPLE).astype(int)).tolist()
    for index in sample:
        look.header(index)
    _look_at_all(name, look, seconds)
    for index in sample:
        if index in look.seen:
            look.pixels(index)
    if refuse_damaged:
        look.faults.update(look.damaged)
    if look.faults:
        raise ValueError(_describe(name, look))
    if any(look.known.get(digest) != seen for digest, seen in look.seen.values()):
        digests, seen = zip(*look.seen.values(), strict=True)
        arrays: dict[str, np.ndarray] = {
            "digests": np.array(digests, dtype=np.uint64),
            "seen": np.array(seen, dtype=np.int32),
        }
        save_arrays(memory, arrays, f"The check of the images of {name}")
    _tell(name, look)


def tell_of_images(name: str, paths: Sequence[str]) -> None:
    """Warns of likely mistakes in images without annotations; those that cannot be read come up later.

    Args:
        name: what they are, for messages.
        paths: files; an even sample of many is looked at.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int)) if paths else ()
    look = _Look([paths[index] for index in chosen], np.zeros((len(chosen), 2), dtype=int), {})
    _look_at_all(name, look, None)
    deep = [index for index, (_, seen) in sorted(look.seen.items()) if seen[1]]
    for index in deep[:_SAMPLE]:
        look.pixels(index)
    _tell(name, look)


def _is_uri(path: str) -> bool:
    return "://" in path


def _digest(path: str, width: int, height: int) -> int:
    """Changes with the file and with what the annotations say of it."""
    state = (0, 0)
    if not _is_uri(path):
        status = os.stat(path)
        state = status.st_size, status.st_mtime_ns
    content = repr((path, *state, width, height)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _require_files(name: str, what: str, paths: Sequence[str], root: str) -> None:
    """Files, and not folders or links to nowhere. Listing folders is faster than asking for each file."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[os.path.dirname(path)].append(path)
    missing: list[str] = []
    for folder, inside in by_folder.items():
        present: set[str] = set()
        try:
            with os.scandir(folder or ".") as entries:
                present = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            pass
        unlisted = (path for path in inside if os.path.basename(path) not in present)
        missing += [path for path in unlisted if not os.path.isfile(path)]  # a file system may know other spellings
    if missing:
        raise ValueError(missing_message(name, what, missing, root))


def _look_at_all(name: str, look: _Look, seconds: float | None) -> None:
    """Headers of all local files, as far as the time allows; in an order that makes any part of them a sample."""
    todo = [index for index, path in enumerate(look.paths) if index not in look.seen and not _is_uri(path)]
    todo = np.random.default_rng(0).permutation(np.array(todo, dtype=int)).tolist()
    until = math.inf if seconds is None else time.monotonic() + seconds

    def look_at(indices: list[int]) -> int:
        if time.monotonic() > until:
            return len(indices)
        for index in indices:
            look.header(index)
        return 0

    with ThreadPoolExecutor() as pool:
        left = sum(pool.map(look_at, (todo[start : start + _PER_JOB] for start in range(0, len(todo), _PER_JOB))))
    if left:
        logger.info(
            "%s: after %.0f s the sizes of %d of %d images are compared with the annotations. The others are compared "
            "when they are drawn; the next start goes on with them.",
            name, seconds, len(look.paths) - left, len(look.paths),
        )  # fmt: skip


def _describe(name: str, look: _Look) -> str:
    faults = [look.faults[index] for index in sorted(look.faults)]
    more = ", ..." if len(faults) > MOST_NAMED else ""
    cure = ": correct the width and height in the annotations, or take the images that were annotated"
    listed = "; ".join(faults[:MOST_NAMED]) + more
    what = "PNGs" if look.pngs else "images"
    sized = any("its annotation says" in fault for fault in faults)
    return f"{name}: {len(faults)} of {len(look.paths)} {what} cannot be used: {listed}{cure if sized else ''}"


def _tell(name: str, look: _Look) -> None:
    """Warns of what is read differently from what its owner may expect."""
    several = [(index, seen[0]) for index, (_, seen) in look.seen.items() if seen[0] > 1]
    if several:
        index, frames = min(several)
        say_frames(look.paths[index], frames)
    deep = np.array([seen[2:] for _, seen in look.seen.values() if seen[1] and seen[2] >= 0])
    if len(deep) and deep.max() - deep.min() < _SHALLOW * 255:
        logger.warning(
            "%s: the images have 16 bits per channel, but the %d that were decoded use only %d to %d of 0 to 65535. "
            "As in OpenCV, the high byte is what counts, so that they are nearly of one colour: spread the values when "
            "writing the files, those of 12 bits times 16.",
            name, len(deep), 256 * deep.min(), 256 * deep.max() + 255,
        )  # fmt: skip
