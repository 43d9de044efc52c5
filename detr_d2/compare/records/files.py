"""Records, which are dataclasses, as JSON files and back."""

from __future__ import annotations

import json
import math
import os
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ...files import write_json

_NAN = float("nan")
_Record = TypeVar("_Record")


def save_record(record: Any, path: str | os.PathLike[str], *, version: int) -> None:
    """Writes a file; it appears whole or not at all.

    Args:
        record: dataclass.
        path: of the file.
        version: of its layout.
    """
    write_json(path, {"format": version, **to_json(record)})


def load_record(kind: type[_Record], path: str | os.PathLike[str], *, version: int, what: str, cure: str) -> _Record:
    """Reads a file written by `save_record`.

    Args:
        kind: of the record.
        path: of the file.
        version: of the layout that is expected.
        what: such a file is, and `cure` how one comes by another, for messages.

    Raises:
        ValueError: it is not such a file; names the file and the key.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("format", None) != version:
            raise _Mismatch(f"its format is not {version}")
        return from_json(kind, values)
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of nesting, or a mismatch
        raise ValueError(f"{path} is not {what}: {error}; {cure}") from error


def to_json(value: Any) -> Any:
    """Dataclasses to dicts, numbers that are not finite to None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_json(kind: Any, value: Any, where: str = "") -> Any:
    """The inverse of `to_json` for a value of type `kind`; None where a number is expected becomes NaN.

    Raises:
        ValueError: a key is missing, unknown, or of the wrong type; names its place.
    """
    if is_dataclass(kind):
        return _record(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(x for x in arguments if x is not type(None))
        return None if value is None else from_json(inner, value, where)
    if origin is list:
        _expect(list, value, where)
        return [from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _expect(dict, value, where)
        return {key: from_json(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float:
        value = _NAN if value is None else value
        _expect((int, float), value, where)
        return float(value)
    if kind is not Any:
        _expect(kind, value, where)
    return value


class _Mismatch(ValueError):
    """The JSON is not of the expected shape."""


def _record(kind: Any, value: Any, where: str) -> Any:
    _expect(dict, value, where)
    known = {f.name for f in fields(kind)}
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    wrong = sorted((set(value) - known) | (required - set(value)))
    if wrong:
        raise _Mismatch(f"unknown or missing keys {wrong} at {where or 'the top'}")
    hints = get_type_hints(kind)
    return kind(**{key: from_json(hints[key], item, f"{where}.{key}".lstrip(".")) for key, item in value.items()})


def _expect(kind: Any, value: Any, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = ", ".join(x.__name__ for x in kind) if isinstance(kind, tuple) else kind.__name__
        raise _Mismatch(f"{where} is {value!r:.60}, expected {names}")
