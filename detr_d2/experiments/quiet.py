"""Less noise on the console of commands whose output people read."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Hides warnings that libraries address to their own developers; errors and our own messages stay."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|detectron2|fvcore)\..*")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|detectron2|fvcore)\..*")
    logging.getLogger("torch").setLevel(logging.ERROR)
