"""detectron2's `.pkl` files: dictionaries of arrays, rebuilt here so that numpy never sees a state from the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .pickle_reader import Name, PickleReader
from .plain_data import DamagedError, NotDataError

# Kinds of numpy -> bytes of an element.
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_ORDERS = ("<", ">", "|", "=")
_MOST_DIMENSIONS = 32

# What a file refers to -> the method of `ArrayReader` that stands for it. numpy moved its own in version 2.
_MAKERS = {
    Name("numpy", "dtype"): "_dtype",
    Name("numpy", "ndarray"): "",  # only ever an argument
    **{
        Name(f"numpy.{core}.{module}", name): method
        for core in ("core", "_core")
        for module, name, method in (
            ("multiarray", "_reconstruct", "_empty_array"),
            ("multiarray", "scalar", "_scalar"),
            ("numeric", "_frombuffer", "_array_of_buffer"),
        )
    },
    Name("collections", "OrderedDict"): "ordered",
    Name("_codecs", "encode"): "encoded",
    Name("__builtin__", "bytes"): "_no_bytes",  # how protocols 0 to 2 write b""
    Name("builtins", "bytes"): "_no_bytes",
}


class _Dtype:
    """Stands for numpy.dtype: a plain kind, whose byte order comes later."""

    def __init__(self, code: Any) -> None:
        code = "b1" if code == "?" else _text(code)
        if code[:1] not in _SIZES or code[1:] not in map(str, _SIZES[code[:1]]):
            raise NotDataError(f"it has an array of the type {code[:20]!r}")
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        """Takes the byte order; a plain number has no structure, shape or flags."""
        order, *rest = state[1:]
        if _text(order) not in _ORDERS or any(x is not None and (type(x) is not int or x not in (0, -1)) for x in rest):
            raise NotDataError("it has an array of a type that is no plain number")
        self.value = self.value.newbyteorder(_text(order))


class _Array:
    """Stands for numpy.ndarray: what `_reconstruct` returns, empty until its state comes."""

    value: np.ndarray | None = None


class ArrayReader(PickleReader):
    """Reads numbers, text, containers and arrays of plain numbers; see `finish` for what comes out."""

    names = frozenset(_MAKERS)

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        if not _MAKERS[name]:
            return super().call(name, args)
        return getattr(self, _MAKERS[name])(*args)

    def build(self, value: Any, state: Any) -> None:
        if isinstance(value, _Array):
            # A version, which the oldest files lack, then shape, dtype, Fortran order, bytes.
            *_, shape, dtype, fortran, data = state
            value.value = self._array(data, dtype, shape, "F" if fortran else "C")
        elif isinstance(value, _Dtype):
            value.build(state)
        else:
            super().build(value, state)

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        return _Dtype(code)

    def _empty_array(self, kind: Any, *_: Any) -> _Array:
        if kind != Name("numpy", "ndarray"):
            raise NotDataError(f"it has an array of the class {kind}")
        return _Array()

    def _array_of_buffer(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
        made = _Array()
        if order == "K" and axes is not None:
            axes = tuple(map(_number, axes))
            made.value = self._array(data, dtype, shape, "C").transpose(axes)
        elif order in ("C", "F"):
            made.value = self._array(data, dtype, shape, order)
        else:
            raise DamagedError("it has an array in an unknown order")
        return made

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return self._array(data, dtype, (), "C")[()]

    def _no_bytes(self) -> bytes:
        return b""

    def _array(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """An array of its own memory, if there are as many bytes as the shape asks for."""
        data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 has no other bytes
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise DamagedError("it has an array without numbers")
        sizes = tuple(map(_number, shape if isinstance(shape, tuple) else (shape,)))
        if len(sizes) > _MOST_DIMENSIONS or any(not 0 <= size < 2**63 for size in sizes):
            raise DamagedError(f"it has an array of {len(sizes)} dimensions of impossible sizes")
        if math.prod(sizes) * dtype.value.itemsize != len(data):
            raise DamagedError(f"it has {len(data)} bytes for an array of shape {sizes} and type {dtype.value}")
        self.take(len(data))
        return np.frombuffer(data, dtype.value).reshape(sizes, order=order).copy(order="K")


def finish(value: Any) -> Any:
    """A value of `ArrayReader` that is no plain Python: the array or dtype that it stands for.

    Raises:
        NotDataError: it stands for nothing.
    """
    if isinstance(value, _Array | _Dtype) and value.value is not None:
        return value.value
    if isinstance(value, np.generic):
        return value
    raise NotDataError(f"it has {'an unfinished array' if isinstance(value, _Array) else 'a name'} among its values")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise DamagedError(f"it has a {type(value).__name__} where text belongs")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise DamagedError(f"it has a {type(value).__name__} where a size belongs")
    return value
