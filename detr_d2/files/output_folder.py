"""The output folder of a command: settled before its work starts, and its own until it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .folder_lock import hold_folder
from .writing import check_writable

_running: list[ExitStack] = []  # one for each command that runs, with its folders


@contextmanager
def freeing_folders() -> Iterator[None]:
    """At its end, however it comes, other processes may write again into what `own_folder` was given inside."""
    with ExitStack() as stack:
        _running.append(stack)
        stack.callback(_running.remove, stack)
        yield


def own_folder(folder: Path) -> None:
    """Keeps other processes out of a folder until the command ends; outside of a command it does nothing.

    Raises:
        ValueError: another process writes into it.
    """
    if _running:
        _running[-1].enter_context(hold_folder(folder))


def claim_files(paths: Iterable[Path], *, output: Path, overwrite: bool) -> None:
    """Makes the folders of the files that a command will write, and keeps other processes out of the folder of all.

    Args:
        paths: of the files.
        output: the folder that the user has named.
        overwrite: whether they may exist already.

    Raises:
        ValueError: a file exists, or another process writes into the folder.
        OSError: a folder cannot be written to.
    """
    paths = list(paths)
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} exists already; choose another --output, or pass --overwrite")
    for folder in sorted({path.parent for path in paths} | {output}):
        check_writable(folder, "cannot write into {folder} ({reason}); choose another --output")
    own_folder(output)
