"""Files of `torch.save`, zip and legacy: checked against the bytes that are there, then read by `torch.load`.

The check allows the names that tensors, training states and the authors' command lines need. It comes first because
versions of torch before 2.10 believe what a file says of the size of its storages.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import torch

from .pickle_reader import BoundedFile, Name, PickleReader
from .plain_data import DamagedError, NotDataError, check_key, plain, plain_tensor, require

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""What legacy files of `torch.save` begin with, as a pickle."""

_LEGACY_VERSION = 1001

_STORAGES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8, "Half": 2, "BFloat16": 2, "Float": 4,
    "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
_ITEM_SIZES = {
    **{Name("torch", f"{name}Storage"): size for name, size in _STORAGES.items()},
    Name("torch.storage", "UntypedStorage"): 1,
}
_REBUILDS = {Name("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "tensor_v3")}
_ORDERED = Name("collections", "OrderedDict")
_COUNTER = Name("collections", "Counter")
_NAMESPACE = Name("argparse", "Namespace")
_SETS = {Name("builtins", "set"), Name("__builtin__", "set")}
_BYTES = {Name("builtins", "bytearray"), Name("__builtin__", "bytearray")}
_ENCODE = Name("_codecs", "encode")
_CALLED = {
    Name("torch._utils", "_rebuild_parameter"),
    *(Name("torch", "Size"), Name("torch", "device"), Name("torch.serialization", "_get_layout")),
    *(Name("builtins", "complex"), Name("__builtin__", "complex")),
}
_DTYPES = {Name("torch", str(x).removeprefix("torch.")) for x in vars(torch).values() if isinstance(x, torch.dtype)}


class _Opaque:
    """What `torch.load` will make of a call."""


@dataclass(frozen=True)
class _Storage:
    """A storage of `count` elements of `item_size` bytes."""

    count: int
    item_size: int


class _Namespace:
    """Stands for the authors' command line."""


class _Checker(PickleReader):
    """Reads the pickle of a file of `torch.save` without making a tensor.

    Attributes:
        storages: by key, every storage that it refers to.
    """

    names = frozenset(
        {*_ITEM_SIZES, *_REBUILDS, *_CALLED, *_SETS, *_BYTES, *_DTYPES, _ORDERED, _COUNTER, _NAMESPACE, _ENCODE}
    )

    def __init__(self, stream: Any, size: int) -> None:
        super().__init__(stream, size)
        self.storages: dict[str, _Storage] = {}

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        if name == _ORDERED:
            return self.ordered(*args)
        if name == _ENCODE:
            return self.encoded(*args)
        if name == _COUNTER:
            require(all(type(x) is dict for x in args))
        elif name in _SETS:
            for item in args[0] if args else ():
                check_key(item)
        elif name in _BYTES:
            require(all(isinstance(x, str | bytes) for x in args))  # of a number it makes as many zeros
            self.take(sum(map(len, args)))
        elif name in _REBUILDS:
            _check_tensor(*args)
        elif name not in _CALLED:
            return super().call(name, args)
        return _Opaque()

    def new(self, name: Name, args: tuple[Any, ...]) -> Any:
        return _Namespace() if name == _NAMESPACE and not args else super().new(name, args)

    def build(self, value: Any, state: Any) -> None:
        if not isinstance(value, _Namespace | dict) or type(state) is not dict or not all(map(_is_text, state)):
            super().build(value, state)

    def persistent(self, key: Any) -> Any:
        kind, storage, name, _, count, *view = key
        if kind not in ("storage", b"storage") or storage not in _ITEM_SIZES:
            super().persistent(key)
        found = _Storage(_size(count), _ITEM_SIZES[storage])
        if not _is_text(name) or self.storages.setdefault(name, found) != found:
            raise DamagedError(f"it has a storage of {count} elements that is another elsewhere")
        if view and view[0] is not None:  # legacy files may name a part of a storage
            _, offset, part = view[0]
            if _size(offset) + _size(part) > count:
                raise DamagedError(f"it has {part} elements from {offset} on of a storage of {count}")
            return _Storage(part, found.item_size)
        return found


def _check_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> None:
    """Whether a storage has the elements of a tensor: for those that it has not, torch may make room."""
    if not isinstance(storage, _Storage):
        raise DamagedError("it has a tensor without a storage")
    count = storage.count
    if len(rest) > 2 and isinstance(rest[2], Name) and rest[2] in _DTYPES:  # of tensors whose storage is one of bytes
        count //= getattr(torch, rest[2].name).itemsize
    if len(shape) != len(stride):
        raise DamagedError(f"it has a tensor of {len(shape)} sizes and {len(stride)} strides")
    last = _size(offset) + sum((_size(n) - 1) * _size(step) for n, step in zip(shape, stride, strict=True))
    if last >= count and 0 not in shape:
        raise DamagedError(f"it has a tensor of shape {tuple(shape)} that ends behind its storage")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise DamagedError("it has a storage or tensor of an impossible size")
    return value


def _is_text(value: Any) -> bool:
    return type(value) is str


def read_zip(path: str) -> Any:
    """Reads a file that `torch.save` has written since version 1.6.

    Raises:
        NotDataError, DamagedError: see `PickleReader.load`; or it is no such file, or not a whole one.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        if not archive.infolist():
            raise DamagedError("it is an empty zip archive")
        folder = archive.infolist()[0].filename.partition("/")[0]
        records = {x.filename.removeprefix(f"{folder}/"): x for x in archive.infolist()}
        if "constants.pkl" in records:
            raise NotDataError("it is a program of TorchScript")
        if "data.pkl" not in records:
            raise DamagedError("it is a zip archive, but none of torch.save: if the weights are in it, unpack it first")
        _check_records(archive.infolist(), size)
        if has_no_check_sums(archive):
            del records["data.pkl"].CRC  # else zipfile takes 0 for one
        checker = _Checker(io.BytesIO(archive.read(records["data.pkl"])), size)
        checker.load()
        for key, storage in checker.storages.items():
            record, needed = records.get(f"data/{key}"), storage.count * storage.item_size
            if record is None or record.file_size != needed:
                found = "no" if record is None else record.file_size
                raise DamagedError(f"it has {found} bytes for a storage of {needed}")
        return _load(file, size)


def has_no_check_sums(archive: zipfile.ZipFile) -> bool:
    """Whether torch was told not to write any, by `torch.serialization.set_crc32_options`."""
    return all(record.CRC == 0 for record in archive.infolist())


def _check_records(records: list[zipfile.ZipInfo], size: int) -> None:
    if len({record.filename for record in records}) != len(records):
        raise DamagedError("it has two records of one name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise DamagedError("its records are compressed, which torch.save never does")
    if sum(record.file_size for record in records) > size or any(x.compress_size != x.file_size for x in records):
        raise DamagedError("its records are larger than the file")


def read_legacy(path: str) -> Any:
    """Reads a file that `torch.save` has written before version 1.6, or without its zip format.

    Raises:
        NotDataError, DamagedError: see `PickleReader.load`; or it is no such file, or not a whole one.
    """
    with open(path, "rb") as file:
        stream = BoundedFile(file)
        checker = _Checker(stream, stream.size)
        if (checker.load(), checker.load()) != (MAGIC_NUMBER, _LEGACY_VERSION):
            raise DamagedError("it is of an unknown version")
        checker.load()  # of the machine that wrote it
        if checker.storages:
            raise DamagedError("its header has tensors")
        checker.load()
        keys = PickleReader(stream, stream.size).load()
        if type(keys) is not list or not all(map(_is_text, keys)) or sorted(keys) != sorted(checker.storages):
            raise DamagedError("its list of storages is not that of its tensors")
        for key in keys:
            _skip_storage(file, checker.storages[key], stream.size)
        return _load(file, stream.size)


def _skip_storage(file: IO[bytes], storage: _Storage, size: int) -> None:
    """Goes past a storage, which is its number of elements and their bytes."""
    if int.from_bytes(file.read(8), "little") != storage.count:
        raise DamagedError(f"it has another number of elements for a storage of {storage.count}")
    if file.seek(storage.count * storage.item_size, 1) > size:
        raise DamagedError(f"it ends within a storage of {storage.count} elements")


def _load(file: IO[bytes], size: int) -> Any:
    """What is in a checked file of a size in bytes; given its path, torch would go by the suffix."""
    file.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # of an operation that it does not know
            raise DamagedError(
                "torch.load does not read pickles of its protocol as data: save it without pickle_protocol"
            ) from error
    return plain(content, lambda value: plain_tensor(value, size))
