"""The state of a process's random number generators as bytes: small, quick to copy between processes, and only data."""

from __future__ import annotations

import random
import struct

import numpy as np
import torch
from torch import Tensor

_MERSENNE_WORDS = 624  # words of 32 bits, in python's and in numpy's generator
_HEADER = struct.Struct("<I?d I?d")  # python: position, has gauss, gauss; numpy: position, has gauss, gauss


def get_random_state() -> bytes:
    """Captures the generators of `random`, `numpy.random` and torch's on the CPU."""
    _, (*python_words, python_position), gauss = random.getstate()
    _, numpy_words, numpy_position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    header = _HEADER.pack(python_position, gauss is not None, gauss or 0.0, numpy_position, bool(has_gauss), cached)
    words = np.asarray(python_words, dtype=np.uint32).tobytes() + np.asarray(numpy_words, dtype=np.uint32).tobytes()
    return header + words + torch.get_rng_state().numpy().tobytes()


def set_random_state(state: bytes) -> None:
    """Restores what `get_random_state` captured."""
    python_position, has_python_gauss, python_gauss, numpy_position, has_gauss, cached = _HEADER.unpack_from(state)
    words = np.frombuffer(state, dtype=np.uint32, count=2 * _MERSENNE_WORDS, offset=_HEADER.size)
    python_words, numpy_words = words[:_MERSENNE_WORDS], words[_MERSENNE_WORDS:]
    random.setstate((3, (*python_words.tolist(), python_position), python_gauss if has_python_gauss else None))
    np.random.set_state(("MT19937", numpy_words, numpy_position, int(has_gauss), cached))  # noqa: NPY002
    torch.set_rng_state(bytes_to_tensor(state[_HEADER.size + words.nbytes :]))


def bytes_to_tensor(data: bytes) -> Tensor:
    """(N,) uint8: how bytes are kept in a checkpoint."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def tensor_to_bytes(data: Tensor) -> bytes:
    """Inverse of `bytes_to_tensor`."""
    return data.numpy().tobytes()
