"""Handing freed memory back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from detr_d2.engine import memory


@pytest.fixture(autouse=True)
def forget() -> None:
    memory._malloc_trim.cache_clear()


def resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    pieces = [torch.ones(25_000) for _ in range(2_000)]  # 100 KB each, too small for a mapping of their own
    del pieces[:-1]  # the last one holds the top of the heap
    before = resident_bytes()
    assert memory.trim_memory()
    assert before - resident_bytes() > 100e6  # of 200 MB
    assert pieces[0].sum() == 25_000


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr_d2.engine.memory.ctypes.CDLL", lambda _: object())
    assert not memory.trim_memory()
