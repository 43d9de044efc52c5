"""Reading a JSON file of lists of objects: fast, typed as widely as JSON is, and with errors that name the place.

msgspec reads the file. What it does not take, but Python's json does (NaN, numbers beyond 1e308), is read by that, so
that the entry can be named; what neither takes is an error with line and column.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import msgspec
from detectron2.utils.file_io import PathManager

from ...files import other_kind
from .json_values import shown

_SNIPPET = 20  # characters shown of where a file is malformed

Lists = dict[str, list[Any]]
"""Name of a list of the file -> its entries, each of the struct that was asked for."""


def absolute(path: str) -> str:
    """The absolute path, ~ expanded; a URI as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def image_path(image_root: str, file_name: str) -> str:
    """Path or URI of an image of a COCO file, whose name is relative to the folder unless it is a whole one."""
    return file_name if "://" in file_name else os.path.join(image_root, file_name)


def local_json(json_file: str, cure: str, what: str = "annotation file") -> str:
    """Path on this machine of an annotation file, which may be a URI of detectron2's `PathManager`.

    Args:
        json_file: path or URI.
        cure: end of the message when it cannot be read.
        what: kind of file, for the message.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        path = PathManager.get_local_path(os.path.expanduser(json_file))
        with open(path, "rb"):
            return str(path)
    except Exception as error:  # a handler of a URI may raise anything
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {json_file} cannot be read ({reason}): {cure}") from error


Entries = Mapping[str, type[msgspec.Struct]]
"""Name of a list -> struct of its entries, whose fields have UNSET as default; other lists and keys are skipped."""


def read_lists(path: str, *entries: Entries, optional: frozenset[str], what: str) -> Lists:
    """The lists of a JSON file.

    Args:
        path: of the file.
        entries: one after the other, until the file is as they say; fields of the last have the type Any or Raw.
        optional: names of lists that may be missing.
        what: kind of file, for messages.

    Raises:
        ValueError: if the file is not JSON of this form; names the place, and what the file is where that shows.
    """
    with open(path, "rb") as file:
        content = _as_utf8(file.read(), path)
    with without_garbage_collection():
        for kinds in entries:
            try:
                found = _decoder(tuple(kinds.items())).decode(content)
            except (ValueError, RecursionError):
                continue
            lists = {name: getattr(found, name) for name in kinds if getattr(found, name) is not msgspec.UNSET}
            if kinds.keys() - lists.keys() <= optional:
                return lists
        return _read_slowly(content, path, entries[-1], optional, what)


def read_list(path: str, kind: type[msgspec.Struct], what: str) -> list[Any]:
    """The entries of a JSON file that is one list.

    Args:
        path: of the file.
        kind: of an entry; its fields have the type Any, and UNSET as default.
        what: kind of file, for messages.

    Raises:
        ValueError: if the file is not JSON of this form; names the place, and what the file is where that shows.
    """
    with open(path, "rb") as file:
        content = _as_utf8(file.read(), path)
    with without_garbage_collection():
        with suppress(ValueError, RecursionError):
            return msgspec.json.decode(content, type=list[kind])  # type: ignore[valid-type]
        plain = _load(content, path, what, wanted="one list of such objects")
        if not isinstance(plain, list):
            holds = f"an object with the keys {shown(list(plain))}" if isinstance(plain, dict) else shown(plain)
            fields = ", ".join(kind.__struct_fields__)
            raise ValueError(f"{path} is no list, but {holds}: {what} is a list of objects with the keys {fields}")
        return [_entry(kind, entry, f"{path}: entry #{index}") for index, entry in enumerate(plain)]


@lru_cache(maxsize=8)
def _decoder(entries: tuple[tuple[str, type[msgspec.Struct]], ...]) -> msgspec.json.Decoder[Any]:
    fields: list[Any] = [(name, list[kind] | msgspec.UnsetType, msgspec.UNSET) for name, kind in entries]  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Lists", fields))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Millions of new lists, none of them garbage, would be looked through again and again.

    Afterwards they count as old, which means that they are looked through in full collections only.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_freeze_count() == 0:  # otherwise somebody else has frozen objects, to stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _as_utf8(content: bytes, path: str) -> bytes:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, as UTF-8 without one."""
    if kind := "a ZIP archive: unpack it first" if content.startswith(b"PK") else other_kind(content[:64]):
        raise ValueError(f"{path} is {kind}")
    encoding = json.detect_encoding(content)
    if encoding == "utf-8":
        return content
    try:
        return content.decode(encoding).encode()
    except UnicodeError as error:
        raise ValueError(f"{path} is not text in {encoding.upper()} ({error}): write it in UTF-8") from error


def _load(content: bytes, path: str, what: str, *, wanted: str) -> Any:
    """Any JSON; `wanted` says what is expected in place of JSON lines."""
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}): write it in UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for {what}: write it again") from error
    except ValueError as error:
        raise ValueError(_malformed(content, path, error, wanted)) from error


def _read_slowly(content: bytes, path: str, entries: Entries, optional: frozenset[str], what: str) -> Lists:
    plain = _load(content, path, what, wanted="one object, a COCO file")
    lists: Lists = {}
    for name, kind in entries.items():
        found = plain.get(name) if isinstance(plain, dict) else None
        if isinstance(found, list):
            lists[name] = [_entry(kind, entry, f"{path}: {_singular(name)}") for entry in found]
        elif name not in optional or name in plain:
            needed = ", ".join(f'"{x}"' for x in entries if x not in optional)
            raise ValueError(
                f'{path} has no list "{name}"{_other_kind(plain, name)}: {what} is an object with the lists {needed}'
                + "".join(f' and, but for test sets, "{x}"' for x in optional)
            )
    return lists


def _singular(name: str) -> str:
    return {"categories": "category"}.get(name, name.removesuffix("s"))


def _entry(kind: type[msgspec.Struct], entry: Any, where: str) -> msgspec.Struct:
    if not isinstance(entry, dict):
        entry = entry if isinstance(entry, str) else shown(entry)
        raise ValueError(f"{where} {entry[:80]} is not an object with the keys {', '.join(kind.__struct_fields__)}")
    return kind(**{key: entry[key] for key in kind.__struct_fields__ if key in entry})


def _malformed(content: bytes, path: str, error: ValueError, wanted: str) -> str:
    lines = content[:100_000].splitlines()
    if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and len(lines) > 1:
        try:
            if isinstance(json.loads(lines[0]), dict):
                return f"{path} holds JSON lines, an object in each line: expected {wanted}"
        except ValueError:
            pass
    if not content.strip():
        return f"{path} is empty: write or download it again"
    if not isinstance(error, json.JSONDecodeError):
        return f"{path} is not valid JSON ({error}): correct it, or write it with a JSON library"
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{path} is not complete JSON ({error}): it may have been cut off; write or download it again"
    found = shown(error.doc[error.pos : error.pos + _SNIPPET])
    return (
        f"{path} is not valid JSON ({error}, where it holds {found}): correct it there, or write it with a JSON library"
    )


def _other_kind(plain: Any, name: str) -> str:
    """What another file is, where that shows, or what it holds in place of the list."""
    if isinstance(plain, list):
        first = plain[0] if plain and isinstance(plain[0], dict) else {}
        if "score" in first:
            return "; it looks like a file of results, not of annotations"
        return "; it is a list"
    if isinstance(plain, dict) and {"shapes", "imagePath"} <= plain.keys():
        return "; it looks like a LabelMe file, which has to be converted"
    if isinstance(plain, dict) and any(isinstance(x, dict) and "regions" in x for x in list(plain.values())[:3]):
        return "; it looks like a VIA project, which has to be exported as COCO"
    if not isinstance(plain, dict):
        return f"; it is {shown(plain)}"
    return f'; its "{name}" is {shown(plain[name])}' if name in plain else f"; its keys are {shown(list(plain))}"
