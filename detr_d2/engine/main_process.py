"""What one process does for all of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from detectron2.utils import comm

from ..files import hold_folder

_T = TypeVar("_T")


def in_main_process(work: Callable[[], _T]) -> _T:
    """What `work` returns in the main process; all processes must call this together, and none waits for ever.

    Args:
        work: run in the main process alone; its result is pickled.

    Raises:
        Exception: in the main process, what `work` raises.
        ValueError: the same in the other processes.
    """
    outcome: Any = None
    failure: Exception | None = None
    if comm.is_main_process():
        try:
            outcome = work(), ""
        except Exception as error:
            failure, outcome = error, (None, str(error) or repr(error))
    result, problem = comm.all_gather(outcome)[0]
    if failure is not None:
        raise failure
    if problem:
        raise ValueError(problem)
    return result


@contextmanager
def hold_output_dir(folder: str, *, run: str = "", same_run: Collection[str] = ()) -> Iterator[None]:
    """The main process holds the output folder (`hold_folder`) for all of them, which must call this together.

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
