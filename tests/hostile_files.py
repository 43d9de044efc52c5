"""Checkpoint files that are damaged, by seed, and a process of limited memory that reads these and hostile ones."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import random
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detr_d2.checkpoint import read_checkpoint

_MEMORY = 1 << 30  # more than reading any of these files may take


def good_files(folder: Path) -> dict[str, Path]:
    """A small checkpoint in each format, with an optimizer's state where the format has one."""
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    tensors: dict[str, Tensor] = OrderedDict(layer.state_dict())
    content = {
        "model": tensors,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "iteration": 3,
    }
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    files = {name: folder / name for name in ("zip.pth", "legacy.pth", "a.safetensors")}
    torch.save(content, files["zip.pth"])
    torch.save(content, files["legacy.pth"], _use_new_zipfile_serialization=False)
    from safetensors.torch import save_file

    save_file(tensors, files["a.safetensors"])
    for protocol in (0, 2, 4, 5):
        files[f"{protocol}.pkl"] = folder / f"{protocol}.pkl"
        files[f"{protocol}.pkl"].write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}, protocol))
    return files


def mutations(files: dict[str, Path], seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless damaged copies of the files, in turn, each with a label."""
    generator = random.Random(seed)
    contents = {name: path.read_bytes() for name, path in files.items()}
    while True:
        for name, content in contents.items():
            damage = generator.choice(_DAMAGES)
            yield f"{name}, {damage.__name__}", damage(bytearray(content), contents, generator)


def _truncated(content: bytearray, _: dict[str, bytes], generator: random.Random) -> bytes:
    return bytes(content[: generator.randrange(len(content))])


def _flipped(content: bytearray, _: dict[str, bytes], generator: random.Random) -> bytes:
    for _flip in range(generator.choice([1, 1, 2, 8])):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(content)


def _spliced(content: bytearray, contents: dict[str, bytes], generator: random.Random) -> bytes:
    other = contents[generator.choice(sorted(contents))]
    begin, start = generator.randrange(len(content)), generator.randrange(len(other))
    count = generator.randrange(1, 200)
    content[begin : begin + generator.choice([0, count])] = other[start : start + count]
    return bytes(content)


def _huge(content: bytearray, _: dict[str, bytes], generator: random.Random) -> bytes:
    """A number of 4 or 8 bytes becomes one that no file has so many bytes for."""
    value = generator.choice(
        [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\0\0\0\0\x10\0\0\0", b"\xff" * 8]
    )
    begin = generator.randrange(len(content))
    content[begin : begin + len(value)] = value
    return bytes(content)


def _operations(content: bytearray, _: dict[str, bytes], generator: random.Random) -> bytes:
    """Operations of pickles, put in at a random place."""
    begin = generator.randrange(len(content))
    content[begin:begin] = bytes(
        generator.choices(b"(.012NRbcdehijlopqrstu}]\x81\x85\x86\x87\x88\x90\x92\x93\x94\x95QV", k=4)
    )
    return bytes(content)


_DAMAGES: tuple[Callable[[bytearray, dict[str, bytes], random.Random], bytes], ...] = (
    *(_truncated, _flipped, _spliced, _huge, _operations),
)


def read_all(files: Iterator[tuple[str, bytes]], count: int, folder: Path) -> dict[str, Any]:
    """Reads files in a forked process whose memory is limited.

    Returns:
        "tried", "refused", and "wrong": what did not end as it should, by label. A process that died has tried fewer.
    """
    context = multiprocessing.get_context("fork")
    log = folder / "read.jsonl"
    process = context.Process(target=_read_all, args=(files, count, folder, log))
    process.start()
    process.join()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [line for line in lines if "end" in line]
    wrong = [line for line in ends if line["end"] not in ("read", "refused")]
    if process.exitcode != 0:
        wrong.append({"label": lines[-1]["label"], "end": f"the process ended with {process.exitcode}"})
    return {"tried": len(ends), "refused": sum(line["end"] == "refused" for line in ends), "wrong": wrong}


def _read_all(files: Iterator[tuple[str, bytes]], count: int, folder: Path, log: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
    torch.set_num_threads(1)
    before = sorted(os.listdir(folder))
    with open(log, "w", buffering=1) as lines:
        for number, (label, content) in zip(range(count), files, strict=False):
            path = folder / "current"
            path.write_bytes(content)
            print(json.dumps({"label": f"{number}: {label}"}), file=lines)
            print(json.dumps({"label": f"{number}: {label}", "end": _end(path)}), file=lines)
            path.unlink()
        if sorted(os.listdir(folder)) != sorted({*before, log.name}):
            print(json.dumps({"label": "the folder", "end": str(os.listdir(folder))}), file=lines)


def _end(path: Path) -> str:
    """How reading a file ends: "read", "refused" or what is wrong with it."""
    try:
        content = read_checkpoint(str(path))
    except ValueError as error:
        text = str(error)
        return (
            "refused" if text.startswith(f"The checkpoint {path} ") and "\n" not in text and len(text) < 600 else text
        )
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    size = sum(_sizes(content))
    return "read" if size <= 2 * path.stat().st_size + 10_000 else f"{size} bytes out of {path.stat().st_size}"


def _sizes(value: Any) -> Iterator[int]:
    """Bytes of all arrays and tensors; touches every element."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _sizes(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _sizes(item)
    elif isinstance(value, Tensor):
        yield value.clone().nbytes
    elif isinstance(value, np.ndarray | np.generic):
        yield value.copy().nbytes
