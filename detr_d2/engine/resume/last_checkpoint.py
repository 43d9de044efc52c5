"""Which checkpoint a run continues from: the last one that can be read, the same in all processes.

A checkpoint that cannot be read, after a power failure for instance, is set aside under another name, and the one
before it is taken. The main process decides for all.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from detectron2.utils import comm

from ...checkpoint import Checkpointer
from ...checkpoint.reading.open import read_model_file
from ...checkpoint.reading.torch_file import has_no_check_sums
from ...files import set_aside
from ..main_process import in_main_process

logger = logging.getLogger(__name__)

SECOND_TRY = 2.0
"""Seconds until a file that cannot be read is tried again: on a network, what one machine has written may need time."""

# What reading a damaged file or disk may end with; all else, such as missing permissions, is not the file's fault.
_DAMAGE = (None, errno.EINVAL, errno.EIO, errno.EBADMSG)
_NUMBERED = re.compile(r"model_\d{7}\.pth")
_T = TypeVar("_T")


def find_last_checkpoint(checkpointer: Checkpointer) -> tuple[str, dict[str, Any] | None]:
    """Finds the checkpoint to continue from, and reads it; all processes must call this together.

    Returns:
        Its path and content; "" and None if the folder holds none.

    Raises:
        ValueError: there are checkpoints, but none can be read, or not by all processes; nothing is changed then.
    """
    content: dict[str, Any] | None = None

    def decide() -> str:
        nonlocal content
        try:
            path, content = _decide(checkpointer)
        except OSError as error:
            raise ValueError(str(error)) from error
        return path

    path = in_main_process(decide)
    if path and content is None:
        with suppress(Exception):  # whatever it is, the other processes must not wait for ever
            content = _twice(lambda: _read(path))
    reads = comm.all_gather(not path or content is not None)
    if not all(reads):
        raise ValueError(
            f"process {reads.index(False)} cannot read {path}, which the main process continues from: put OUTPUT_DIR "
            f"{checkpointer.save_dir} on a folder that all machines share."
        )
    return path, content


def _decide(checkpointer: Checkpointer) -> tuple[str, dict[str, Any] | None]:
    """Of the main process."""
    folder = Path(checkpointer.save_dir)
    tagged = _tagged(folder)
    unreadable: list[tuple[Path, str]] = []
    for path in _candidates(folder, tagged):
        try:
            content = _twice(lambda path=path: _read(str(path)))  # type: ignore[misc]
        except FileNotFoundError:
            continue
        except ValueError as error:
            unreadable.append((path, str(error)))
            continue
        if path == folder / (tagged or ""):
            return str(path), content
        if "trainer" not in content:
            continue  # weights that somebody has put there
        _go_back(checkpointer, path, tagged, unreadable)
        return str(path), content
    if unreadable:
        names = ", ".join(path.name for path, _ in unreadable)
        raise ValueError(
            f"none of the checkpoints in {folder} can be read ({names}), the last one because: {unreadable[0][1]} "
            "Nothing was changed; start anew without --resume, or put a checkpoint there."
        )
    if tagged is not None:
        what = f"names {tagged}, which is not there" if tagged else "is empty"
        raise ValueError(
            f"{folder / 'last_checkpoint'} {what}, and {folder} holds no other checkpoint: put it back, or start anew "
            "without --resume."
        )
    return "", None


def _tagged(folder: Path) -> str | None:
    """What `last_checkpoint` names; None if there is no such file."""
    path = folder / "last_checkpoint"
    if not os.path.lexists(path):
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:
        return ""


def _candidates(folder: Path, tagged: str | None) -> list[Path]:
    """The checkpoint that is named, those of the run before it, and the best; the one to try first, first."""
    numbered = sorted(x for x in folder.glob("model_*.pth") if _NUMBERED.fullmatch(x.name) and x.is_file())
    oldest_first = [x.stat().st_mtime_ns for x in numbered]
    # What is older than a checkpoint of fewer iterations was left by an earlier run.
    names = [x.name for i, x in enumerate(numbered) if oldest_first[i] >= max(oldest_first[: i + 1])][::-1]
    if tagged and _NUMBERED.fullmatch(tagged):
        names = [name for name in names if name < tagged]
    elif not tagged:
        names.insert(0, "model_final.pth")
    others = [name for name in (*names, "model_best.pth") if (folder / name).is_file()]
    return [folder / name for name in dict.fromkeys([tagged, *others] if tagged else others)]


def _read(path: str) -> dict[str, Any]:
    try:
        content = read_model_file(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno not in _DAMAGE:
            raise
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from error
    record = _damaged_record(path)
    if record is not None:
        raise ValueError(f"{path} is damaged: the check sum of {record} in it is wrong.")
    _check_training_state(content, path)
    return content


def _check_training_state(content: dict[str, Any], path: str) -> None:
    """Whether what a run continues from is of its type; other files hold weights alone."""
    state = content.get("trainer", {"iteration": 0})
    iterations = [state.get("iteration") if isinstance(state, dict) else None, content.get("iteration", 0)]
    if not all(type(x) is int and x >= 0 for x in iterations):
        raise ValueError(
            f"{path} is damaged: it says {iterations[0]!r:.50} and {iterations[1]!r:.50} of its iteration."
        )


def _damaged_record(path: str) -> str | None:
    """The first part of a file of `torch.save` that is not what was written; torch itself does not look."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if has_no_check_sums(archive):
            return None
        return next((info.filename for info in archive.infolist() if not _is_whole(archive, info)), None)


def _is_whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as record:
            while record.read(1 << 20):
                pass
    except (zipfile.BadZipFile, EOFError):
        return False
    return True


def _twice(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (ValueError, FileNotFoundError):
        time.sleep(SECOND_TRY)
        return read()


def _go_back(checkpointer: Checkpointer, path: Path, tagged: str | None, unreadable: list[tuple[Path, str]]) -> None:
    """Sets unreadable files aside and says which checkpoint is taken instead."""
    aside = [set_aside(bad, ".unreadable") for bad, _ in unreadable]
    checkpointer.tag_last_checkpoint(path.name)
    if unreadable:
        why = f"{unreadable[0][1]} It is kept as {aside[0].name}"
    elif tagged is not None:
        why = f"last_checkpoint named {tagged or 'nothing'}, which is not there"
    else:
        why = "There was no last_checkpoint"
    logger.warning(f"{why}; this run continues from {path.name}, the checkpoint before.")
