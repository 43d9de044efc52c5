"""DETR for detectron2: importing this package registers its architecture, its parts and its backbones.

Without a working torch or detectron2 the import warns instead of failing, so that `python -m detr_d2 check-env` can say
what is wrong; every other use then raises ImportError with the reason. Commands that need neither import nothing here.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from . import cli

__version__ = "0.1.0"
__all__ = ["__version__", "add_detr_config", "get_cfg"]

import_problem: str | None = None
"""Why torch or detectron2 cannot be imported; None when all is well."""

if not cli.is_light(cli.own_arguments()):
    try:
        with warnings.catch_warnings():
            # detectron2 scripts some functions while it is imported; recent versions of torch warn six times about it.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=FutureWarning)
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
            import detectron2.modeling  # torch and torchvision come with it

        from . import data, model_zoo, modeling, solver  # data and modeling register themselves
        from .config import add_detr_config, get_cfg
    except (ImportError, OSError, RuntimeError) as error:
        # Missing packages, missing libraries, a torchvision built for another torch; defects of our own stay loud.
        if str(getattr(error, "name", None)).startswith("detr_d2"):
            raise
        import_problem = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"detr_d2 cannot be used ({import_problem}); `python -m detr_d2 check-env` says what is missing.",
            RuntimeWarning,
            stacklevel=2,
        )

if not TYPE_CHECKING:  # to mypy a module-level __getattr__ would make every name exist

    def __getattr__(name: str) -> object:
        if import_problem is None or name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"detr_d2.{name} needs torch and detectron2, which cannot be imported here ({import_problem}); "
            "`python -m detr_d2 check-env` says what is missing."
        )
