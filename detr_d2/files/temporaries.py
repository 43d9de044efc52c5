"""Temporary names in the folder of a file that is being written, and what dead processes have left under such names."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from .processes import Process, host_name

_NAME = re.compile(r"\.detr_d2-(?P<host>[\w.]+)-(?P<system>\w+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.tmp.*")
_DAY = 86400.0  # seconds
_seen: dict[str, int] = {}  # folder -> when it had been changed last, after the last write of this process


def temporary_name(folder: str, suffix: str = "") -> str:
    """A path that nobody else uses; it names this process, and ends with `suffix`."""
    own = Process.current()
    name = f".detr_d2-{own.host}-{own.system}-{own.pid}-{own.start}-{secrets.token_hex(4)}.tmp{suffix}"
    return os.path.join(folder, name)


def create(path: str) -> int:
    """Opens a new file, never one that is there, never through a link; its permissions are as the umask says."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)


def prepare_folder(folder: str) -> None:
    """Makes a folder; removes what dead processes have left there, if others than this one have changed it since.

    Raises:
        OSError: it cannot be made.
    """
    folder = folder or os.curdir
    os.makedirs(folder, exist_ok=True)
    if _seen.get(folder) == os.stat(folder).st_mtime_ns:
        return
    with os.scandir(folder) as entries:
        left = [entry for entry in entries if _is_left_behind(entry)]
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def _is_left_behind(entry: os.DirEntry[str]) -> bool:
    match = _NAME.fullmatch(entry.name)
    if match is None:
        return False
    owner = Process(match["host"], match["system"], int(match["pid"]), int(match["start"]))
    if owner.is_here:
        return owner.is_dead()
    # Of another start of this host, or of another container on it, nothing is known but the age.
    with suppress(OSError):
        return owner.host == host_name() and time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY
    return False


def sync_folder(folder: str) -> None:
    """Brings the names in a folder to the disk, where the file system knows how."""
    folder = folder or os.curdir
    with suppress(OSError):
        _seen[folder] = os.stat(folder).st_mtime_ns
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def sync_tree(folder: str) -> None:
    """Brings all files below a folder, and their names, to the disk; many at once, which it does together."""
    folders = list(os.walk(folder))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_sync_file, (os.path.join(parent, name) for parent, _, names in folders for name in names)))
    for parent, _, _ in folders:
        sync_folder(parent)


def _sync_file(path: str) -> None:
    with open(path, "rb" if os.name == "posix" else "r+b") as file:  # Windows does so for writers only
        os.fsync(file.fileno())
