"""From any JSON value to what is meant by it: what can be read is read, everything else is refused with a reason.

The readers take one value and return what it stands for, or raise `Refused`, whose text says what was expected.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

MAX_COORDINATE = 2**24  # pixels; float32, in which boxes are trained, holds whole numbers up to here
MAX_PIXELS = 2**31 - 1  # of an image; masks are run lengths of 32 bits
MAX_AREA = 1e15  # square pixels
MOST_NAMED = 10  # entries named in one message
_MOST_SHOWN = 3  # with their values, which may be long

_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?")

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = 8
_short.maxlevel = 3
_short.maxstring = _short.maxother = _short.maxlong = 80

Id = int | float | str
"""What names an image, an annotation or a category; equal ids are the same one, as everywhere in Python."""

T = TypeVar("T")
Reader = Callable[[Any], T]


class Refused(ValueError):
    """The value is not one of those that were expected; the text says which."""


def shown(value: Any) -> str:
    """A value for a message, as Python writes it, but never longer than a line."""
    return re.sub(r"\s*\n\s*", " ", _short.repr(value))[:200]


def plain_value(value: Any) -> Any:
    """A scalar of numpy as one of Python; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def identifier(value: Any) -> Id:
    """A number or a text."""
    if type(value) is int:
        return value
    if (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, str) and _can_be_written(value)):
        return value
    raise Refused("a number or a text")


def plain_id(value: Id) -> Id:
    """What an id becomes when a number and its text are taken for the same: "7" is 7, but "007" is another text."""
    if isinstance(value, str) and len(value) < 40 and re.fullmatch(r"0|-?[1-9]\d*", value, re.ASCII):
        return int(value)
    return value


def sort_key(value: Id) -> tuple[bool, Id]:
    """Numbers by size, whole ones also where they are written as texts; then the other texts."""
    plain = plain_id(value)
    return isinstance(plain, str), plain


def text(value: Any) -> str:
    """A text with something in it, which can name a file."""
    if isinstance(value, str) and value.strip() and "\0" not in value and _can_be_written(value):
        return value
    raise Refused("a text that is not empty")


def _can_be_written(value: str) -> bool:
    """False for half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def flag(value: Any) -> int:
    """0 or 1; nothing, None, stands for 0."""
    if value is None:
        return 0
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise Refused("0 or 1, true or false")


def number(value: Any, *, least: float = -MAX_COORDINATE, most: float = MAX_COORDINATE, expected: str = "") -> float:
    """A finite number from `least` to `most`, which may be written as a text; `expected` says so in other words."""
    found = value
    if isinstance(value, str) and len(value) < 60 and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    if isinstance(found, int | float) and not isinstance(found, bool) and least <= found <= most:
        return float(found)
    raise Refused(expected or f"a finite number, at most {most:,.0f}")


def area(value: Any) -> float:
    """Square pixels."""
    return number(value, least=0, most=MAX_AREA, expected="a number of square pixels, 0 or more")


def side(value: Any) -> int:
    """Width or height of an image, a whole number of pixels."""
    expected = f"a whole number of pixels from 1 to {MAX_COORDINATE:,}"
    found = number(value, least=1, expected=expected)
    if found != int(found):
        raise Refused(expected)
    return int(found)


def box(value: Any) -> tuple[float, float, float, float]:
    """Four numbers."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise Refused("four finite numbers")
    x, y, width, height = (number(item) for item in value)
    return x, y, width, height


def keypoints(value: Any) -> list[float] | None:
    """Numbers x, y, visibility, x, y, visibility, ...; None stands for none."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) % 3:
        raise Refused("numbers x, y, visibility, x, y, visibility, ...")
    return [number(item) for item in value]


def read_all(
    values: Iterable[Any],
    read: Reader[T],
    *,
    key: str,
    labels: Callable[[int], str],
    source: str,
    problem: str = "",
) -> list[T]:
    """`read` of every value.

    Args:
        values: of one key of all entries.
        read: one of the readers above.
        key: name of the key, for messages.
        labels: index of a value -> how messages call its entry.
        source: the file or dataset, for messages.
        problem: what is wrong with the refused, such as "boxes are not four finite numbers".

    Raises:
        ValueError: if some are refused; it names the first, and says what was expected.
    """
    values = list(values)
    try:
        return [read(value) for value in values]
    except Refused:
        bad = [(i, value) for i, value in enumerate(values) if refusal(read, value)]
    named = [f"{labels(i)} has {key} {shown(value)}" for i, value in bad[:_MOST_SHOWN]]
    what = problem or f'{"value" if len(bad) == 1 else "values"} of "{key}" cannot be used'
    raise ValueError(
        f"{source}: {len(bad)} {what}: {listed(named, len(bad))}; expected {refusal(read, bad[0][1])}: correct or "
        "remove them"
    )


def refusal(read: Reader[Any], value: Any) -> str:
    """What a reader expected in place of a value; "" if it reads it."""
    try:
        read(value)
    except Refused as error:
        return str(error)
    return ""


def listed(names: Sequence[str], count: int) -> str:
    """The names, and dots where there are more of them."""
    return ", ".join(names) + (", ..." if count > len(names) else "")
