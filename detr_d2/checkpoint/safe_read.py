"""Reading checkpoint files without running the code that a pickle may carry."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import IO, Any

import torch

# What detectron2's .pkl files are made of: arrays in dictionaries. numpy moved its reconstructor in version 2.
_PICKLE_GLOBALS = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


# The authors' training files hold their command line as a Namespace of plain values. For the whole process, so that
# detectron2's own checkpointer gets as far as the message that names `convert`.
torch.serialization.add_safe_globals([argparse.Namespace])


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_GLOBALS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a local checkpoint: `.pkl` (detectron2's zoo), `.safetensors`, or a file of `torch.save`.

    Returns:
        The dictionary in the file, tensors on the CPU.

    Raises:
        ValueError: if the file holds anything but data, is damaged, or is not a dictionary.
        ModuleNotFoundError: if the file needs a package of the extra `hf`.
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist: check its path.")
    try:
        checkpoint = _read(path)
    except (OSError, ModuleNotFoundError):
        raise
    except pickle.UnpicklingError as error:
        if not _asks_for_code(error):
            raise ValueError(_damaged(path, error)) from error
        raise ValueError(
            f"The checkpoint {path} holds more than tensors and plain data ({_first_line(error)}); it is not read, "
            "because loading it would run code from the file. Use a file from a source that saves a state dict."
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"The checkpoint {path} holds a {type(checkpoint).__name__}, expected a dictionary of tensors."
        )
    return checkpoint


def _read(path: str) -> Any:
    if path.endswith(".pkl"):
        with open(path, "rb") as file:
            return _unpickle_arrays(file)
    if path.endswith(".safetensors"):
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ModuleNotFoundError(f'{path} needs the package safetensors: pip install "detr_d2[hf]".') from error
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unpickle_arrays(file: IO[bytes]) -> Any:
    return _ArrayUnpickler(file, encoding="latin1").load()


def _asks_for_code(error: Exception) -> bool:
    """Whether reading has stopped at something that is not data, rather than at something that is no pickle at all."""
    return any(words in str(error) for words in ("it refers to", "GLOBAL ", "allowlisted"))


def _damaged(path: str, error: Exception) -> str:
    return (
        f"The checkpoint {path} cannot be read ({_first_line(error)}): the file is damaged, incomplete or not a "
        "checkpoint; download or save it again."
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unsupported = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return ((unsupported or lines or [type(error).__name__])[0])[:160].rstrip(".")
