"""Checkpoint files that are made to crash, to run code or to take memory, each by one trick."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\x01btR"
_FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
_F4 = b"cnumpy\ndtype\n(X\x02\0\0\0f4\x89\x88tR"
_DEEP = b")" + b"\x85" * 40_000  # tuples in tuples, whose hash takes more than 1 MB of stack


class Call:
    """What a pickle calls."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


class Stored:
    """A storage that a pickle refers to: its class, key and number of elements."""

    def __init__(self, count: Any, kind: Any = torch.FloatStorage, key: str = "0") -> None:
        self.pid = "storage", kind, key, "cpu", count


def torch_pickle(value: Any) -> bytes:
    """The pickle of a file of `torch.save`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.pid if isinstance(obj, Stored) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def torch_zip(data_pkl: bytes, storages: dict[str, bytes] | None = None, *, compressed: bool = False) -> bytes:
    """A zip file as `torch.save` writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/byteorder", b"little")
        for key, content in (storages or {"0": bytes(16)}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def tensor(count: Any, offset: int, shape: Any, stride: Any, kind: Any = torch.FloatStorage) -> Call:
    """A tensor as a pickle asks for it."""
    hooks: Any = collections.OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, Stored(count, kind), offset, shape, stride, False, hooks)


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def object_field() -> bytes:
    """Names of numpy only, and an array whose type has a field of objects and flags that deny it.

    numpy itself takes the eight bytes of the array for the address of an object, which ends the process.
    """
    of_objects = b"cnumpy\ndtype\n(X\x02\0\0\0O8\x89\x88tR(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    fields = b"}X\x01\0\0\0f" + of_objects + b"K\0\x86s"
    record = (
        b"cnumpy\ndtype\n(X\x02\0\0\0V8\x89\x88tR(K\x03X\x01\0\0\0|NX\x01\0\0\0f\x85" + fields + b"K\x08K\x01K\x01tb"
    )
    array = _RECONSTRUCT + b"(K\x01K\x01\x85" + record + b"\x89C\x08AAAAAAAAtb"
    return b"\x80\x03}X\x05\0\0\0model}X\x06\0\0\0weight" + array + b"ss."


def object_array() -> bytes:
    """The same with an array of objects."""
    of_objects = b"cnumpy\ndtype\n(X\x02\0\0\0O8\x89\x88tR(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return b"\x80\x03}X\x01\0\0\0w" + _RECONSTRUCT + b"(K\x01K\x01\x85" + of_objects + b"\x89C\x08AAAAAAAAtbs."


def _array(shape: bytes, data: bytes) -> bytes:
    state = _RECONSTRUCT + b"(K\x01" + shape + _F4 + b"\x89" + _bytes(data) + b"tb"
    return b"\x80\x03}X\x01\0\0\0w" + state + b"s."


_ORDERED = b"ccollections\nOrderedDict\n"
_ARGS = b"(h\0h\x01J\0\0\4\0\x85X\x01\0\0\0CtR"


def _bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def _again(value: bytes, more: bytes, use: bytes, count: int) -> bytes:
    """A value, kept as number 0, and many uses of it."""
    return b"\x80\x03}" + value + b"q\x000" + more + b"X\x01\0\0\0w(" + use * count + b"ls."


def pickles(victim: Path) -> dict[str, bytes]:
    """Hostile `.pkl` files; code in them would make a file `victim`."""
    name = str(victim).encode()
    touch = b"(X" + struct.pack("<I", len(name)) + name + b"tR"
    tuples = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(90))
    shared = b"\x80\x02}X\x01\0\0\0w]q\0" + b"".join(b"0]q%c(h%ch%ce" % (i + 1, i, i) for i in range(90)) + b"s."
    return {
        "object field": object_field(),
        "array of objects": object_array(),
        "function": b"\x80\x02}X\x01\0\0\0wcos\nmkdir\n" + touch + b"s.",
        "function, protocol 4": b"\x80\x04}\x8c\x01w\x8c\x02os\x8c\x05mkdir\x93" + touch + b"s.",
        "instance": b"(ios\nmkdir\n.",
        "object": b"(cos\nmkdir\nX" + struct.pack("<I", len(name)) + name + b"o.",
        "function of numpy": b"\x80\x02}X\x01\0\0\0wcnumpy\nfromfile\n" + touch + b"s.",
        "extension": b"\x80\x02\x82\x01.",
        "attributes of a function": b"\x80\x02cnumpy._core.multiarray\nscalar\n}X\x01\0\0\0aK\x01sb.",
        "slots of a class": b"\x80\x02cnumpy\nndarray\nN}X\x01\0\0\0aK\x01s\x86b.",
        "outside": b"\x80\x02}X\x01\0\0\0wX\x01\0\0\0kQs.",
        "memo": b"\x80\x02}r\xff\xff\xff\x7f}Nsa.",
        "memo as text": b"}p99999999999\n}Nsa.",
        "length of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "length of text": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 63) - 1) + b"x.",
        "length of a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 41) + b"x.",
        "length of an integer": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
        "length of a frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}",
        "digits": b"L" + b"9" * 40_000 + b"L\n.",
        "deep lists": b"\x80\x02}X\x01\0\0\0w" + b"]" * 40_000 + b"a" * 39_999 + b"s.",
        "deep tuples": b"\x80\x02}X\x01\0\0\0w" + _DEEP + b"s.",
        "deep key": b"\x80\x02}" + _DEEP + b"Ns.",
        "deep element": b"\x80\x04\x8f(" + _DEEP + b"\x90.",
        "shared lists": shared,
        "shared tuples": b"\x80\x02})q\x000" + tuples + b"hZNs.",
        "contains itself": b"\x80\x02}q\0X\x01\0\0\0wh\0s.",
        "shared bytes": _again(_bytes(bytes(1 << 20)), _F4 + b"q\x010", _FROMBUFFER + _ARGS, 5_000),
        "shared items": _again(b"](" + b"K\x01N\x86" * 1_000 + b"e", b"", _ORDERED + b"h\0\x85R", 1_000),
        "shape": _array(b"J\0\0\0\x7f\x85", bytes(16)),
        "negative shape": _array(b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86", bytes(16)),
        "empty and endless": _array(b"(K\0" + b"\x8a\x08" + struct.pack("<Q", 1 << 62) + b"t", b""),
        "many dimensions": _array(b"(" + b"K\x01" * 1000 + b"t", bytes(4)),
        "unfinished array": b"\x80\x03}X\x01\0\0\0w" + _RECONSTRUCT + b"s.",
        "structure as text": b"\x80\x03}X\x01\0\0\0wcnumpy\ndtype\n(X\x05\0\0\0f4,O8\x89\x88tRs.",
        "many values": b"\x80\x02(" + b"}" * 150_000 + b"l.",
        "no file but a page": b"<!DOCTYPE html><html></html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    }  # fmt: skip


def torch_files(victim: Path) -> dict[str, bytes]:
    """Hostile files of `torch.save`; code in them would make a file `victim`."""
    import os

    good = {"w": tensor(4, 0, (4,), (1,))}
    values: dict[str, Any] = {
        "function": {"w": Call(os.mkdir, str(victim))},
        "storage too large": {"w": tensor(1 << 40, 0, (4,), (1,))},
        "storage of a kind too large": {"w": tensor(4, 0, (4,), (1,), torch.DoubleStorage)},
        "negative storage": {"w": tensor(-4, 0, (4,), (1,))},
        "number of elements as text": {"w": tensor("4", 0, (4,), (1,))},
        "behind the storage": {"w": tensor(4, 3, (4,), (1,))},
        "before the storage": {"w": tensor(4, -3, (4,), (1,))},
        "shape too large": {"w": tensor(4, 0, (1 << 40,), (1,))},
        "stride too large": {"w": tensor(4, 0, (4,), (1 << 61,))},
        "negative stride": {"w": tensor(4, 3, (4,), (-1,))},
        "shape that overflows": {"w": tensor(4, 0, (1 << 32, 1 << 32), (1, 1))},
        "expanded": {"w": tensor(4, 0, (1 << 50, 4), (0, 1))},
        "memory of zeros": {"w": Call(bytearray, 1 << 40)},
        "memory of a storage": {"w": Call(torch.storage.UntypedStorage, 1 << 40)},
        "sparse": {"w": Call(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (1, 2, (1 << 40,), True))},
        "meta": {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40,), (1,), False)},
        "quantized": {
            "w": Call(torch._utils._rebuild_qtensor, Stored(4), 0, (1 << 40,), (1,), (torch.per_tensor_affine, 1.0, 0))
        },
        "class": {"w": torch.nn.Linear},
    }
    files = {label: torch_zip(torch_pickle(value)) for label, value in values.items()}
    large = {"w": tensor(1 << 20, 0, (1 << 20,), (1,))}
    key = torch_pickle({})[:2] + b"}" + _DEEP + b"Ns."
    return files | {
        "deep key": torch_zip(key),
        "deep element": torch_zip(b"\x80\x02c__builtin__\nset\n](" + _DEEP + b"e\x85R."),
        "missing storage": torch_zip(torch_pickle(good), {"1": bytes(16)}),
        "short storage": torch_zip(torch_pickle(good), {"0": bytes(8)}),
        "compressed": torch_zip(torch_pickle(large), {"0": bytes(1 << 22)}, compressed=True),
        "no tensors": torch_zip(b""),
        "an empty archive": b"PK\x05\x06" + bytes(18),
        "attribute": torch_zip(b"\x80\x02ccollections\nOrderedDict\n)R}K\x01K\x01sb."),
        "legacy storage too large": _legacy(1 << 40, 4),
        "legacy storage of other size": _legacy(4, 1 << 40),
        "legacy behind its storage": _legacy(4, 4, 1 << 29),  # for which torch makes the storage larger
        "legacy without its storage": _legacy(4, None),
    }


def _legacy(said: int, stored: int | None, size: int = 4) -> bytes:
    header = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    stored_tensor = tensor(said, 0, (size,), (1,))
    stored_tensor.reduced[1][0].pid += (None,)
    keys = [] if stored is None else ["0"]
    data = b"" if stored is None else struct.pack("<q", stored) + bytes(16)
    return header + torch_pickle({"w": stored_tensor}) + pickle.dumps(keys, 2) + data


def safetensors_files() -> dict[str, bytes]:
    """Hostile safetensors files."""
    return {
        "length of the header": safetensors(b"{}", length=1 << 62),
        "header without end": safetensors(b'{"w":', length=5),
        "shape": safetensors(b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}', bytes(4)),
        "behind the end": safetensors(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', bytes(4)),
        "shape that overflows": safetensors(
            b'{"w":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}'
        ),
        "deep header": safetensors(b'{"w":' + b"[" * 40_000),
        "type": safetensors(b'{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    }
