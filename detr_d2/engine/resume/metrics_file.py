"""metrics.json: its lines are whole, and those that a resumed run writes again are dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter

from ...files import WriteError, shorten
from ...files.write_errors import sentence


class MetricsFile(JSONWriter):
    """detectron2's writer; where a line does not fit on the disk, what there is of it is removed, and the user told.

    Args:
        path: of the file, which is continued.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def write(self) -> None:
        """Adds a line for each iteration that has new values; all of them, or none."""
        size = os.path.getsize(self._path)
        try:
            super().write()
        except OSError as error:
            shorten(self._path, size)
            raise WriteError(sentence(self._path, error, True, "")) from error


def with_whole_lines(writers: Sequence[EventWriter], folder: str) -> list[EventWriter]:
    """The same writers, with a `MetricsFile` in a folder in place of detectron2's for that file."""
    theirs = [x for x in writers if isinstance(x, JSONWriter)]
    for writer in theirs:
        writer.close()
    return [MetricsFile(os.path.join(folder, "metrics.json")) if x in theirs else x for x in writers]


def forget_metrics(folder: str, iteration: int) -> None:
    """Removes the lines at the end of metrics.json that a run wrote at or after an iteration, and half a line.

    In place, as the file is open for what the run writes next.

    Args:
        folder: of the run.
        iteration: that comes next.
    """
    path = os.path.join(folder, "metrics.json")
    if not comm.is_main_process() or not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        lines = file.readlines()
    end = len(lines)
    while end and not _is_before(lines[end - 1], iteration):
        end -= 1
    if end < len(lines):
        shorten(path, sum(map(len, lines[:end])))


def _is_before(line: bytes, iteration: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False
