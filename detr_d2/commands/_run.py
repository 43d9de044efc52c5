"""What commands have in common: an output folder, settled before the work starts, and a quiet console."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path

from ..files import check_writable, hold_folder

_commands: list[ExitStack] = []  # those that run, each with the folders that are its own until it ends

Command = Callable[[Sequence[str] | None], int]


def ends_with_its_folders(main: Command) -> Command:
    """Makes a command that frees the folders which `own_folder` has given it, however it ends."""

    @wraps(main)
    def command(argv: Sequence[str] | None = None) -> int:
        with ExitStack() as stack:
            _commands.append(stack)
            stack.callback(_commands.remove, stack)
            return main(argv)

    return command


def own_folder(folder: Path) -> None:
    """Keeps other processes out of a folder until the command ends.

    Raises:
        ValueError: another process writes into it.
    """
    if _commands:
        _commands[-1].enter_context(hold_folder(folder))


def claim_files(paths: Iterable[Path], *, output: Path, overwrite: bool) -> None:
    """Makes the folders of the files that a command will write, and writes into them.

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


def quiet_libraries() -> None:
    """Hides warnings that libraries address to their own developers; errors and our own messages stay."""
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(torch|detectron2|fvcore)\..*")
    logging.getLogger("torch").setLevel(logging.ERROR)
