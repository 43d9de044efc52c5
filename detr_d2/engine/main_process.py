"""What one process does for all of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from detectron2.utils import comm

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
