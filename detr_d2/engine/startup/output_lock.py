"""The output folder of a run belongs to its processes alone; see `detr_d2.files.folder_lock`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from ...files import hold_folder
from ..main_process import in_main_process


@contextmanager
def hold_output_dir(folder: str, *, run: str = "", same_run: Collection[str] = ()) -> Iterator[None]:
    """The main process holds the folder for all of them, which must call this together.

    Args:
        folder: of the run; "" for one that writes nothing.
        run, same_run: see `hold_folder`.

    Raises:
        ValueError: another run writes into it; in all processes.
        OSError: it cannot be written to; in other processes than the main one this is a ValueError as well.
    """
    with ExitStack() as stack:
        if folder:
            in_main_process(lambda: stack.enter_context(hold_folder(folder, run=run, same_run=same_run)))
        yield
