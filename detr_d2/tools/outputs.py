"""The output folder of a command, settled before the work starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..files import check_writable


def claim_files(paths: Iterable[Path], *, output: Path, overwrite: bool) -> None:
    """Makes the folders of the files that a command will write, and writes into them.

    Args:
        paths: of the files.
        output: the folder that the user has named.
        overwrite: whether they may exist already.

    Raises:
        ValueError: a file exists.
        OSError: a folder cannot be written to.
    """
    paths = list(paths)
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} exists already; choose another --output, or pass --overwrite")
    for folder in sorted({path.parent for path in paths} | {output}):
        check_writable(folder, "cannot write into {folder} ({reason}); choose another --output")
