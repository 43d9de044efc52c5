"""Reading checkpoint files as data: what a file is, is told by its content, and nothing in it is run."""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Callable
from typing import Any

from .array_pickle import ArrayReader, finish
from .pickle_reader import BoundedFile
from .plain_data import DamagedError, NotDataError, plain, plain_tensor
from .torch_file import MAGIC_NUMBER, read_legacy, read_zip

_ZIP = b"PK\x03\x04"
_NO_CHECKPOINTS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"<": "it is a web page, not the file itself: download it again from the link to the raw file",
    b"{": "it is JSON, not weights: give the file with the weights that belongs to it",
    b"\x1f\x8b": "it is compressed by gzip: unpack it first",
    b"BZh": "it is compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "it is compressed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd: unpack it first",
    b"\x89PNG": "it is a picture",
    b"\xff\xd8\xff": "it is a picture",
    b"\x89HDF": "it is of HDF5: save the weights by torch.save or safetensors",
    b"\x93NUMPY": "it is a single array of numpy: save the weights by torch.save or safetensors",
}


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a local checkpoint: of `torch.save`, safetensors, or a `.pkl` of detectron2's zoo, whatever its name.

    Returns:
        The dictionary in the file: plain values, numpy arrays, and dense tensors on the CPU.

    Raises:
        ValueError: if the file holds anything but data, is damaged, or is not a dictionary.
        ModuleNotFoundError: if the file needs a package of the extra `hf`.
        FileNotFoundError: if there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The checkpoint {path} does not exist: check its path.")
    try:
        checkpoint = _reader(path)(path)
    except ModuleNotFoundError:
        raise
    except NotDataError as error:
        raise ValueError(
            f"The checkpoint {path} holds more than tensors and plain data ({_first_line(error)}); it is not read, "
            "because such a file can run code or take any memory. Use a file from a source that saves a state dict."
        ) from error
    except Exception as error:  # a damaged file can fail in any way, also by naming an impossible place in it
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"The checkpoint {path} cannot be read ({_first_line(error)}): the file is damaged, incomplete or not a "
            "checkpoint; download or save it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"The checkpoint {path} holds a {type(checkpoint).__name__}, expected a dictionary of tensors."
        )
    return checkpoint


def _reader(path: str) -> Callable[[str], Any]:
    """Which function reads a file, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if head.startswith(_ZIP):
        return read_zip
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors
    if not head.strip(b"\0 \t\r\n"):
        raise DamagedError("it is empty" if not head else "it begins with nothing but zeros or spaces")
    for start, what in _NO_CHECKPOINTS.items():
        if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(start):
            raise DamagedError(what)
    return read_legacy if MAGIC_NUMBER.to_bytes(10, "little") in head else _read_arrays


def _read_arrays(path: str) -> Any:
    with open(path, "rb") as file:
        stream = BoundedFile(file)
        return plain(ArrayReader(stream, stream.size).load(), finish)


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModuleNotFoundError(f'{path} needs the package safetensors: pip install "detr_d2[hf]".') from error
    size = os.path.getsize(path)
    return {name: plain_tensor(tensor, size) for name, tensor in load_file(path).items()}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ((lines or [type(error).__name__])[0])[:160].rstrip(".")
