"""The one way in which files are written: whole or not at all, and what was there before stays until then.

A file is made under a temporary name in its folder, brought to the disk, and renamed. Where that fails for lack of
space, of quota or by a limit, the library in between may call it what it likes: the user reads one sentence, and
nothing is left behind. What a killed process leaves is removed by the next one that writes into the folder.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .temporaries import create, prepare_folder, sync_folder, sync_tree, temporary_name
from .write_errors import WatchedFile, WriteError, failure_of, own_step, sentence

if TYPE_CHECKING:
    import numpy as np

StrPath = str | os.PathLike[str]


@contextmanager
def new_file(path: StrPath, *, safe: str = "") -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name when the block ends without an exception.

    A file that is there keeps its permissions and stays as it is until then; the target of a link is replaced, not the
    link. Devices and pipes are written to as they are.

    Args:
        path: of the file; its folder is made.
        safe: a sentence on what is not lost if this fails.

    Raises:
        WriteError: the file cannot be written.
    """
    with _new_file(path, "", safe) as (_, file):
        yield file


@contextmanager
def new_file_by_name(path: StrPath, *, safe: str = "") -> Iterator[Path]:
    """As `new_file`, for libraries that open files themselves; gives the name, of the same suffix, to write to."""
    with _new_file(path, Path(path).suffix, safe) as (temporary, _):
        yield Path(temporary)


@contextmanager
def new_folder(path: StrPath, *, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Gives a folder to fill, which appears under its name when the block ends without an exception.

    Args:
        path: where it is to be; a folder may be there.
        replaces: names of the files that go with the folder that was there; if it has others, it stays beside the new
            one under another name.

    Raises:
        WriteError: it cannot be written.
    """
    target = os.path.realpath(path)
    partial = temporary_name(os.path.dirname(target))
    try:
        with own_step():
            prepare_folder(os.path.dirname(target))
            os.mkdir(partial)
        yield Path(partial)
        with own_step():
            sync_tree(partial)
            _put_folder(partial, target, replaces)
    except BaseException as error:
        failure = failure_of(error, partial)
        shutil.rmtree(partial, ignore_errors=True)
        if failure is None:
            raise
        raise WriteError(sentence(path, failure, os.path.exists(target), "")) from error
    sync_folder(os.path.dirname(target))


def write_file(path: StrPath, write: Callable[[IO[bytes]], Any], *, safe: str = "") -> None:
    """Writes a file by a function that is given the open file; see `new_file`."""
    with new_file(path, safe=safe) as file:
        write(file)


def write_text(path: StrPath, text: str) -> None:
    """Writes text as UTF-8; see `new_file`."""
    write_file(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: StrPath, value: Any) -> None:
    """Writes JSON for people to read; see `new_file`.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_picture(path: StrPath, image_rgb: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 picture in the format of the file's suffix; see `new_file`.

    Raises:
        ValueError: OpenCV has no such format.
    """
    import cv2

    suffix = Path(path).suffix
    try:
        done, encoded = cv2.imencode(suffix, image_rgb[:, :, ::-1])
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"{path} cannot be written: OpenCV has no format for {suffix or 'a name without a suffix'}")
    write_file(path, lambda file: file.write(encoded.tobytes()))


def write_figure(path: StrPath, figure: Any, **options: Any) -> None:
    """Writes a figure of matplotlib in the format of the file's suffix; see `new_file`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.removeprefix(".") or None, **options)
    write_file(path, lambda file: file.write(buffer.getvalue()))


def check_writable(folder: StrPath, message: str) -> None:
    """Makes a folder, and a file in it for a moment.

    Args:
        folder: to be written into.
        message: of the error; {folder} and {reason} are filled in.

    Raises:
        WriteError: that fails.
    """
    temporary = temporary_name(os.fspath(folder))
    try:
        prepare_folder(os.fspath(folder))
        descriptor = create(temporary)
        try:
            with open(descriptor, "wb") as file:
                file.write(b"x")
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise WriteError(message.format(folder=folder, reason=error.strerror)) from error


def set_aside(path: Path, suffix: str) -> Path:
    """Renames a file to a name that is free, its own with a suffix, and returns it."""
    names = (path.with_name(f"{path.name}{suffix}{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path, aside)
    sync_folder(os.path.dirname(path))
    return aside


def shorten(path: StrPath, size: int) -> None:
    """Cuts off the end of a file that others have open; what stays does not change."""
    os.truncate(path, size)


def file_hash(path: StrPath) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Buffered(io.BufferedWriter):
    """Hides the descriptor, past which Pillow would write, and not look whether all of it was."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def _new_file(path: StrPath, suffix: str, safe: str) -> Iterator[tuple[str, IO[bytes]]]:
    target = os.path.realpath(path)
    before = os.stat(target) if os.path.exists(target) else None
    if before is not None and not stat.S_ISREG(before.st_mode) and not stat.S_ISDIR(before.st_mode):
        with open(target, "wb") as device:
            yield target, device
        return
    temporary = temporary_name(os.path.dirname(target), suffix)
    raw = None
    try:
        with own_step():
            if os.path.isdir(target):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            prepare_folder(os.path.dirname(target))
            raw = WatchedFile(create(temporary), "wb")
        file = _Buffered(raw, 1 << 20)
        yield temporary, file
        with own_step():
            _finish(file, raw, temporary, before)
            os.replace(temporary, target)
    except BaseException as error:
        failure = failure_of(error, temporary, raw)
        if raw is not None:
            with suppress(OSError, ValueError):
                file.close()
            with suppress(OSError):
                os.unlink(temporary)  # which Windows only does to closed files
        if failure is None:
            raise
        raise WriteError(sentence(path, failure, before is not None, safe)) from error
    sync_folder(os.path.dirname(target))


def _finish(file: io.BufferedWriter, raw: WatchedFile, temporary: str, before: os.stat_result | None) -> None:
    """Brings the content to the disk; gives it the owner and the permissions of the file that it replaces."""
    file.flush()
    if raw.failure is not None:  # which the caller's code has passed over
        raise raw.failure
    if before is not None:
        now = os.fstat(raw.fileno())
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            with suppress(OSError, AttributeError):  # only an administrator may, and not on Windows
                os.fchown(raw.fileno(), before.st_uid, before.st_gid)
        os.chmod(temporary, stat.S_IMODE(before.st_mode))
    os.fsync(raw.fileno())
    file.close()


def _put_folder(partial: str, target: str, replaces: Collection[str]) -> None:
    """Renames a finished folder; if that fails, the folder that was there is there again."""
    if os.path.lexists(target) and not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, "it is a file")
    if not replaces and os.path.isdir(target):
        os.rmdir(target)  # if there is something in it by now, it stays
    old = f"{target}.old-{secrets.token_hex(4)}"
    with suppress(FileNotFoundError):
        os.rename(target, old)
    try:
        os.rename(partial, target)
    except OSError:
        if os.path.isdir(old):
            os.rename(old, target)
        raise
    if os.path.isdir(old):
        for name in replaces:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(old, name))
        with suppress(OSError):  # something else is in it
            os.rmdir(old)
