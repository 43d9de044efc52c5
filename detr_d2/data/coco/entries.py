"""Images and categories of COCO files, instances and panoptic alike, and ids, which only name what they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from . import json_values
from .json_values import MAX_COORDINATE, MAX_PIXELS, MOST_NAMED, Id, listed, plain_id, read_all, shown, sort_key

UNSET = msgspec.UNSET


class ImageEntry(msgspec.Struct, gc=False):
    """An entry of "images"."""

    id: Any = UNSET
    file_name: Any = UNSET
    width: Any = UNSET
    height: Any = UNSET


class CategoryEntry(msgspec.Struct, gc=False):
    """An entry of "categories"; `isthing` in panoptic files."""

    id: Any = UNSET
    name: Any = UNSET
    supercategory: Any = UNSET
    isthing: Any = UNSET


@dataclass(frozen=True)
class CocoImages:
    """The N images of a file, by ascending id, numbers before texts.

    Attributes:
        ids: as in the file.
        file_names: as in the file.
        sizes: (N, 2) int, width and height.
    """

    ids: list[Id]
    file_names: list[str]
    sizes: np.ndarray


@dataclass(frozen=True)
class CocoClasses:
    """The K classes of a file in the order of their ids, which is that of the contiguous indices.

    Attributes:
        ids: as in the file; all numbers or all texts.
        names: not always different from each other.
        parents: their supercategories, "" where there is none.
    """

    ids: list[Id]
    names: list[str]
    parents: list[str]


def read_classes(entries: Sequence[Any], source: str) -> CocoClasses:
    """Raises ValueError if there are none, one lacks an id or a name, or an id occurs twice or cannot be ordered."""
    if not entries:
        raise ValueError(f'{source} has an empty list "categories": every class needs an id and a name')
    require_keys(entries, ("id", "name"), f"{source}: category", "id")
    ids = read_ids([x.id for x in entries], "id", labels_of(entries, "category"), source)
    names = read_all(
        [x.name for x in entries], json_values.text, key="name", labels=labels_of(entries, "category"), source=source
    )
    require_distinct(ids, "category id", source)
    keys: list[Any] = [plain_id(x) for x in ids]
    if any(isinstance(x, str) for x in keys):
        keys = list(ids)
    if len({isinstance(x, str) for x in keys}) > 1:
        raise ValueError(
            f"{source}: some category ids are numbers and some are texts ({shown(ids)}), so that the classes have no "
            "order: write all ids as numbers"
        )
    order = sorted(range(len(ids)), key=keys.__getitem__)
    parents = [x.supercategory if isinstance(x.supercategory, str) else "" for x in entries]
    return CocoClasses([ids[i] for i in order], [names[i] for i in order], [parents[i] for i in order])


def read_images(entries: Sequence[Any], source: str) -> CocoImages:
    """Raises ValueError if there are none, one lacks a key or has a value that cannot be, or an id occurs twice."""
    if not entries:
        raise ValueError(f"{source} has no images: every image needs an entry with an id of its own")
    lvis = '; in files of LVIS "coco_url" ends with it'
    require_keys(entries, ("id", "file_name", "width", "height"), f"{source}: image", "id", file_name=lvis)
    labels = labels_of(entries, "image")
    ids = read_ids([x.id for x in entries], "id", labels, source)
    require_distinct(ids, "image id", source)
    names = read_all([x.file_name for x in entries], json_values.text, key="file_name", labels=labels, source=source)
    sizes = np.array([_sides(column(entries, key), key, labels, source) for key in ("width", "height")]).T
    too_large = np.flatnonzero(sizes.prod(axis=1) > MAX_PIXELS)
    if len(too_large):
        i = int(too_large[0])
        raise ValueError(
            f"{source}: {labels(i)} has width {sizes[i, 0]} and height {sizes[i, 1]}, more pixels than can be read: "
            "correct its size"
        )
    whole = set(map(type, ids)) <= {int}
    order = sorted(range(len(ids)), key=ids.__getitem__ if whole else lambda i: sort_key(ids[i]))
    return CocoImages([ids[i] for i in order], [names[i] for i in order], sizes[order])


def _sides(values: list[Any], key: str, labels: Callable[[int], str], source: str) -> np.ndarray:
    """(N,) int."""
    if not (set(map(type, values)) <= {int} and min(values) >= 1 and max(values) <= MAX_COORDINATE):
        values = read_all(values, json_values.side, key=key, labels=labels, source=source)
    return np.array(values, dtype=np.int64)


def column(entries: Sequence[Any], key: str) -> list[Any]:
    """The values of one key, UNSET where an entry lacks it."""
    return list(map(attrgetter(key), entries))


def labels_of(entries: Sequence[Any], noun: str) -> Callable[[int], str]:
    """Index of an entry -> how messages call it: by its id if it has one, otherwise by its place in the list."""
    return lambda i: f"{noun} " + (shown(entries[i].id) if isinstance(entries[i].id, int | float | str) else f"#{i}")


def require_keys(entries: Sequence[Any], keys: Sequence[str], where: str, name: str, **hints: str) -> None:
    """Raises ValueError if one of the entries lacks one of the keys; it is called by its `name` key.

    A hint under the name of a key says what a file may be that lacks it.
    """
    for key in keys:
        values = column(entries, key)
        if UNSET in values:
            i = values.index(UNSET)
            called = getattr(entries[i], name)
            raise ValueError(
                f'{where} {f"#{i}" if called is UNSET else shown(called)} has no "{key}" ({values.count(UNSET)} of '
                f"{len(values)} have none), but each needs {', '.join(keys)}: add it{hints.get(key, '')}"
            )


def read_ids(values: list[Any], key: str, labels: Callable[[int], str], source: str) -> list[Id]:
    """The ids; most files have whole numbers only."""
    if set(map(type, values)) <= {int}:
        return values
    return read_all(values, json_values.identifier, key=key, labels=labels, source=source)


def read_flags(entries: Sequence[Any], key: str, labels: Callable[[int], str], source: str) -> np.ndarray:
    """(A,) int, 0 where there is none."""
    values = column(entries, key)
    if values.count(UNSET) == len(values):
        return np.zeros(len(values), dtype=np.int64)
    if UNSET in values:
        values = [0 if value is UNSET else value for value in values]
    if not (set(map(type, values)) <= {int} and set(values) <= {0, 1}):
        values = read_all(values, json_values.flag, key=key, labels=labels, source=source)
    return np.array(values, dtype=np.int64)


def match_ids(known: Sequence[Id], wanted: Sequence[Id]) -> np.ndarray:
    """(len(wanted),) int, index among `known`, -1 for none; a number and its text are one id unless both are known."""
    exact = {value: index for index, value in enumerate(known)}
    indices = list(map(exact.get, wanted))
    found = np.array([-1 if index is None else index for index in indices], dtype=np.int64)
    if None in indices:
        plain = {plain_id(value): index for index, value in enumerate(known)}
        for i in np.flatnonzero(found < 0).tolist():
            found[i] = plain.get(plain_id(wanted[i]), -1)
    return found


def require_distinct(ids: Sequence[Id], what: str, source: str) -> None:
    if len(set(ids)) < len(ids):
        repeated = [value for value, count in Counter(ids).items() if count > 1]
        raise ValueError(
            f"{source} has {len(repeated)} {what}s that occur twice: "
            f"{listed([shown(x) for x in repeated[:MOST_NAMED]], len(repeated))}: give each entry an id of its own"
        )
