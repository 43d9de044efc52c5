"""Names of outputs that are made of the names of inputs: no two are the same, and all are known before the work."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path


class OutputNames:
    """Hands out relative names of files; also different where capitals and the composition of accents do not count.

    Args:
        reserved: names that are taken from the beginning.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._series: set[str] = set()
        for name in reserved:
            self.claim(Path(name))

    def claim(self, name: Path) -> Path:
        """The name, or with a number behind its stem (or a folder's) if another file or folder has it."""
        folder = self._folder(name)
        free = _first_free(folder / name.name, lambda key: key not in self._files and key not in self._folders)
        self._files.add(_key(free))
        return free

    def claim_series(self, name: Path) -> Path:
        """A name that gives free names with `frame_name`, for any number; asked for after all calls of `claim`."""
        folder = self._folder(name)
        free = _first_free(folder / name.name, self._starts_nothing)
        self._series.add(_key(free))
        return free

    def _folder(self, name: Path) -> Path:
        folder = Path()
        for part in name.parts[:-1]:
            folder = _first_free(folder / part, lambda key: key not in self._files)
            self._folders.add(_key(folder))
        return folder

    def _starts_nothing(self, key: str) -> bool:
        return key not in self._series and not any(is_frame(x, key) for x in self._files | self._folders)


def frame_name(series: Path, number: int) -> Path:
    """Of the picture of a frame."""
    return series.with_name(f"{series.name}-{number:06d}.png")


def is_frame(name: str, series: str) -> bool:
    """Whether `frame_name` may give a name in a series."""
    return re.fullmatch(re.escape(series) + r"-\d{6,}\.png", name) is not None


def with_ending(name: Path, suffix: str, known: Iterable[str]) -> Path:
    """The name with another suffix; only one of the known ones is replaced, as names may hold dots.

    Args:
        name: of a file.
        suffix: new, with its dot.
        known: suffixes in small letters.
    """
    stem = name.stem if name.suffix.lower() in known else name.name
    return name.with_name(stem + suffix)


def _key(name: Path) -> str:
    return unicodedata.normalize("NFC", name.as_posix()).casefold()


def _first_free(name: Path, is_free: Callable[[str], bool]) -> Path:
    number, candidate = 1, name
    while not is_free(_key(candidate)):
        number += 1
        candidate = name.with_name(f"{name.stem}-{number}{name.suffix}")
    return candidate
