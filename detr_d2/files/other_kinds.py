"""What a file is that ends up where another kind is expected, told by its first bytes."""

from __future__ import annotations

_KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
    b"<": "a web page, or other HTML or XML: download the file itself",
}


def other_kind(start: bytes) -> str:
    """What a file is and what to do, as the end of a sentence; "" if it does not begin like any of these."""
    return next((what for begin, what in _KINDS.items() if start.startswith(begin)), "")
