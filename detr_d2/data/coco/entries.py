"""Images and categories of COCO files, instances and panoptic alike, and ids, which only name what they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
import numpy as np

from . import json_values
from .json_values import (
    MAX_COORDINATE,
    MAX_PIXELS,
    MOST_NAMED,
    Id,
    Reader,
    listed,
    plain_id,
    read_all,
    shown,
    sort_key,
)

UNSET = msgspec.UNSET
T = TypeVar("T")


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


def lists_with(annotation: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The lists of a file -> their kind of entry."""
    return {"images": ImageEntry, "annotations": annotation, "categories": CategoryEntry}


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


class Entries:
    """One list of a file, read one key at a time; messages call an entry by its id, or by its place in the list.

    Args:
        entries: structs whose fields are UNSET where the file says nothing.
        noun: what one of them is, such as "image".
        source: the file, for messages.
        name: the key by which messages call an entry.
    """

    def __init__(self, entries: Sequence[Any], noun: str, source: str, name: str = "id") -> None:
        self.entries, self.noun, self.source, self._name = entries, noun, source, name

    def __len__(self) -> int:
        return len(self.entries)

    def label(self, index: int) -> str:
        """How messages call an entry."""
        name = getattr(self.entries[index], self._name)
        return f"{self.noun} " + (shown(name) if isinstance(name, int | float | str) else f"#{index}")

    def values(self, key: str) -> list[Any]:
        """The values of one key, UNSET where an entry lacks it."""
        return list(map(attrgetter(key), self.entries))

    def require(self, *keys: str, **hints: str) -> None:
        """Raises ValueError if an entry lacks one of the keys; a hint says what a file may be that lacks it."""
        for key in keys:
            values = self.values(key)
            if UNSET in values:
                raise ValueError(
                    f'{self.source}: {self.label(values.index(UNSET))} has no "{key}" ({values.count(UNSET)} of '
                    f"{len(values)} have none), but each needs {', '.join(keys)}: add it{hints.get(key, '')}"
                )

    def read(self, key: str, read: Reader[T], values: Sequence[Any] | None = None, problem: str = "") -> list[T]:
        """`read_all` of the values of a key, or of what stands for them."""
        values = self.values(key) if values is None else values
        return read_all(values, read, key=key, labels=self.label, source=self.source, problem=problem)

    def ids(self, key: str = "id") -> list[Id]:
        """Most files have whole numbers only."""
        values = self.values(key)
        return values if set(map(type, values)) <= {int} else self.read(key, json_values.identifier, values)

    def distinct_ids(self) -> list[Id]:
        """Raises ValueError if one occurs twice."""
        ids = self.ids()
        if len(set(ids)) < len(ids):
            twice = [shown(value) for value, count in Counter(ids).items() if count > 1]
            raise ValueError(
                f"{self.source} has {len(twice)} {self.noun} ids that occur twice: "
                f"{listed(twice[:MOST_NAMED], len(twice))}: give each entry an id of its own"
            )
        return ids

    def flags(self, key: str) -> np.ndarray:
        """(A,) int, 0 where there is none."""
        values = [0 if value is UNSET else value for value in self.values(key)]
        if not (set(map(type, values)) <= {int} and set(values) <= {0, 1}):
            values = self.read(key, json_values.flag, values)
        return np.array(values, dtype=np.int64)


def read_classes(entries: Sequence[Any], source: str) -> CocoClasses:
    """Raises ValueError if there are none, one lacks an id or a name, or an id occurs twice or cannot be ordered."""
    if not entries:
        raise ValueError(f'{source} has an empty list "categories": every class needs an id and a name')
    given = Entries(entries, "category", source)
    given.require("id", "name")
    names, ids = given.read("name", json_values.text), given.distinct_ids()
    keys: list[Any] = [plain_id(x) for x in ids]
    if any(isinstance(x, str) for x in keys):
        keys = list(ids)
    if len({isinstance(x, str) for x in keys}) > 1:
        raise ValueError(
            f"{source}: some category ids are numbers and some are texts ({shown(ids)}), so that the classes have no "
            "order: write all ids as numbers"
        )
    order = sorted(range(len(ids)), key=keys.__getitem__)
    parents = [x if isinstance(x, str) else "" for x in given.values("supercategory")]
    return CocoClasses([ids[i] for i in order], [names[i] for i in order], [parents[i] for i in order])


def read_images(entries: Sequence[Any], source: str) -> CocoImages:
    """Raises ValueError if there are none, one lacks a key or has a value that cannot be, or an id occurs twice."""
    if not entries:
        raise ValueError(f"{source} has no images: every image needs an entry with an id of its own")
    given = Entries(entries, "image", source)
    given.require("id", "file_name", "width", "height", file_name='; in files of LVIS "coco_url" ends with it')
    ids, names = given.distinct_ids(), given.read("file_name", json_values.text)
    sizes = np.array([_sides(given, key) for key in ("width", "height")]).T
    too_large = np.flatnonzero(sizes.prod(axis=1) > MAX_PIXELS)
    if len(too_large):
        i = int(too_large[0])
        raise ValueError(
            f"{source}: {given.label(i)} has width {sizes[i, 0]} and height {sizes[i, 1]}, more pixels than can be "
            "read: correct its size"
        )
    whole = set(map(type, ids)) <= {int}
    order = sorted(range(len(ids)), key=ids.__getitem__ if whole else lambda i: sort_key(ids[i]))
    return CocoImages([ids[i] for i in order], [names[i] for i in order], sizes[order])


def _sides(images: Entries, key: str) -> list[int]:
    values = images.values(key)
    plain = set(map(type, values)) <= {int} and min(values) >= 1 and max(values) <= MAX_COORDINATE
    return values if plain else images.read(key, json_values.side, values)


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


def class_indices(given: Entries, class_ids: Sequence[Id]) -> np.ndarray:
    """(A,) int, index of the class of each entry by its `category_id`; raises ValueError if there is no such class."""
    ids = given.ids("category_id")
    found = match_ids(class_ids, ids)
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        named = [f"{given.label(i)} has category_id {shown(ids[i])}" for i in unknown[:MOST_NAMED].tolist()]
        raise ValueError(
            f"{given.source}: {len(unknown)} {given.noun}s are of an unknown class: {listed(named, len(unknown))}; the "
            f'file\'s category ids are {shown(class_ids)}: add the class to "categories", or correct the {given.noun}s'
        )
    return found
