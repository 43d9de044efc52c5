"""The output folder of a command, settled before the work starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


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
    try:
        for folder in {path.parent for path in paths} | {output}:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".detr_d2_probe"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into {output} ({error.strerror}); choose another --output") from error
