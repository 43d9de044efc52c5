"""The output folder of a run belongs to its processes alone; see `detr_d2.files.folder_lock`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from detectron2.utils import comm

from ..files import hold_folder


@contextmanager
def hold_output_dir(folder: str, *, run: str = "", same_run: Collection[str] = ()) -> Iterator[None]:
    """The main process holds the folder for all of them, which must call this together.

    Args:
        folder: of the run; "" for one that writes nothing.
        run, same_run: see `hold_folder`.

    Raises:
        ValueError: another run writes into it; in all processes.
    """
    problem = ""
    with ExitStack() as stack:
        if folder and comm.is_main_process():
            try:
                stack.enter_context(hold_folder(folder, run=run, same_run=same_run))
            except Exception as error:  # whatever it is, the other processes must not wait for ever
                problem = str(error) or repr(error)
        problem = comm.all_gather(problem)[0]
        if problem:
            raise ValueError(problem)
        yield
