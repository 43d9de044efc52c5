"""Why a file that annotations name is not there: mostly it is, under nearly that name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import unquote

from ..coco.json_values import MOST_NAMED

_MOST_EXPLAINED = 3
_HOW = ", with "
_MOST_LISTED = 50_000  # files that are looked through for similar names

_Index = dict[str, list[str]]


def missing_message(name: str, what: str, missing: Sequence[str], root: str) -> str:
    """One sentence about files that are not there.

    Args:
        name: of the dataset.
        what: the files are, such as "image files".
        missing: their paths, at least one.
        root: folder that the names in the annotations are relative to; "" if there is none.
    """
    listed = ", ".join(map(_shown, missing[:MOST_NAMED]))
    index: _Index | None = None
    reasons: dict[str, str] = {}  # by kind, one of each
    for path in missing[:MOST_NAMED]:
        reason = _broken(path)
        if reason is None:
            index = _names_below(root or _existing_ancestor(path)) if index is None else index
            reason = _similar(path, root, index)
        reasons.setdefault(reason.rpartition(_HOW)[2] if _HOW in reason else re.sub(r"\S*[/\\]\S*", "", reason), reason)
    because = "; ".join(list(reasons.values())[:_MOST_EXPLAINED])
    return f"{name}: {len(missing)} {what} are missing ({because}), among them {listed}"


def _broken(path: str) -> str | None:
    return f"{path} is a folder" if os.path.isdir(path) else broken_link(path)


def broken_link(path: str | os.PathLike[str]) -> str | None:
    """A sentence about a link that leads nowhere; None for anything but a link."""
    return f"{path} is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else None


def _existing_ancestor(path: str) -> str:
    """The folder of a file, or the one or two above it; "" if none of them exists."""
    for _ in range(3):
        path = os.path.dirname(path.replace("\\", "/"))
        if os.path.isdir(path):
            return "" if os.path.dirname(path) == path else path
    return ""


def _loose(name: str) -> str:
    """What is left of a file name where ways to write it make no difference."""
    last = unquote(name).replace("\\", "/").rpartition("/")[2]
    return unicodedata.normalize("NFC", last).casefold().strip()


def _names_below(root: str) -> _Index:
    """Loose name, and loose name without extension -> files of a folder."""
    index: _Index = defaultdict(list)
    count = 0
    for folder, _, files in os.walk(root) if root else ():
        for file in files:
            loose = _loose(file)
            for key in {loose, os.path.splitext(loose)[0]}:
                index[key].append(os.path.join(folder, file))
        count += len(files)
        if count > _MOST_LISTED:
            break
    return index


def _similar(path: str, root: str, index: _Index) -> str:
    written = os.path.relpath(path, root) if root and path.startswith(root) else path
    loose = _loose(written)
    found = index.get(loose) or index.get(os.path.splitext(loose)[0])
    if found:
        best = min(found, key=lambda x: (_differences(written, x, root), len(x)))
        how = " and ".join(_differences(written, best, root))
        return f"{best} exists, but the annotations have {_shown(written)}{_HOW}{how}: correct the annotations"
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        hint = " (an absolute path, perhaps of another machine)" if _is_absolute(written) else ""
        return f"there is no folder {folder}{hint}: check the image folder and the file names in the annotations"
    some = ", ".join(sorted(os.listdir(folder))[:3])
    return f"{folder} holds {some or 'nothing'}: check the image folder and the file names in the annotations"


def _is_absolute(name: str) -> bool:
    return os.path.isabs(name) or re.match(r"[A-Za-z]:[\\/]", name) is not None


def _shown(name: str) -> str:
    """What looks like something else is spelled out: accents composed in two ways, blanks around it, line ends."""
    return name if name.isascii() and name.isprintable() and name == name.strip() else ascii(name)


def _differences(written: str, path: str, root: str) -> list[str]:
    """In what a written name and that of a file differ, whose loose names or stems are the same."""
    name, found = unquote(written).replace("\\", "/"), os.path.basename(path)
    folder, _, last = name.rpartition("/")
    result = []
    if "\\" in written:
        result.append("backslashes instead of slashes")
    if unquote(written) != written:
        result.append("%-escapes in place of characters")
    if unicodedata.normalize("NFC", last) != last or unicodedata.normalize("NFC", found) != found:
        result.append(f"accents composed otherwise than in {found!a} (Unicode NFC and NFD)")
    one, two = (unicodedata.normalize("NFC", x).strip() for x in (last, found))
    if one != two and one.casefold() == two.casefold():
        result.append("other capitals")
    if os.path.splitext(one.casefold())[1] != os.path.splitext(two.casefold())[1]:
        result.append("another extension")
    if last != last.strip():
        result.append("blanks around it")
    inside = os.path.relpath(os.path.dirname(path), root) if root else os.path.dirname(path)
    if os.path.normpath(folder or ".") != inside:
        result.append("other capitals in the folder" if folder.casefold() == inside.casefold() else "another folder")
    return result or ["another spelling"]
