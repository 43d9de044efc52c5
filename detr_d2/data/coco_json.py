"""Reading COCO files: whether they are complete JSON, and have the lists and keys that are needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def load_json(json_file: str) -> dict[str, Any]:
    """Parses a COCO file and checks its outermost structure.

    Raises:
        ValueError: if it is not JSON, or has no lists "images", "annotations" and "categories".
    """
    try:
        content = json.loads(Path(json_file).read_bytes())
    except ValueError as error:  # of json or of the encoding
        raise ValueError(
            f"{json_file} is not complete JSON ({error}): it may have been cut off; write or download it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f'{json_file} has no list "{key}": a COCO file is an object with the lists "images", "annotations" '
                'and "categories"'
            )
    return content


def parse_categories(categories: list[Any], json_file: str) -> tuple[list[str], list[int]]:
    """Names and ids in the order of the ids, which is that of the contiguous indices.

    Raises:
        ValueError: if there are none, or one is missing, of the wrong type, or occurs twice.
    """
    if not categories:
        raise ValueError(f'{json_file} has an empty list "categories": every class needs an id and a name')
    require_keys(categories, ("id", "name"), f"{json_file}: category")
    ids = [category["id"] for category in categories]
    names = [category["name"] for category in categories]
    for what, values, kind in (("id", ids, int), ("name", names, str)):
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(
                    f"{json_file}: category {what} {value!r} is not {'a whole number' if kind is int else 'a string'}"
                )
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"{json_file}: category {what} {repeated[0]!r} occurs twice: give each class its own")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [names[i] for i in order], [ids[i] for i in order]


def require_keys(entries: Sequence[Any], keys: Iterable[str], where: str) -> None:
    """Raises ValueError if one of the entries is not an object with all the keys; names it."""
    keys = tuple(keys)
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{where} {str(entry)[:80]} is not an object with the keys {', '.join(keys)}")
        for key in keys:
            if key not in entry:
                raise ValueError(f'{where} {str(entry.get("id", entry))[:80]} has no "{key}"')
