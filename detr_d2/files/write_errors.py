"""Why a file could not be written: one sentence, whatever the library in between has made of it."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries say the same without an errno, such as safetensors.
_WORDS = {code: re.compile(rf"{os.strerror(code)}|os error {code}\b") for code in _FULL}


class WriteError(OSError):
    """A file could not be written; the message is for the user."""


class WatchedFile(io.FileIO):
    """A file that remembers why it could not be written: libraries lose that on the way."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class _StepFailed(Exception):
    """Carries an OSError of a step of this file, as opposed to one of the caller's code."""


@contextmanager
def own_step() -> Iterator[None]:
    """Around what is done for a file besides running the caller's code; an OSError in it is about that file."""
    try:
        yield
    except OSError as error:
        raise _StepFailed(error) from error


def failure_of(error: BaseException, temporary: str, raw: WatchedFile | None = None) -> OSError | None:
    """Why a file or folder could not be written; None if something else went wrong."""
    if raw is not None and raw.failure is not None:
        return raw.failure
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _StepFailed):
            return link.args[0]
        if isinstance(link, OSError) and link.errno in _FULL:
            return link
        said = [code for code, words in _WORDS.items() if words.search(str(link))]
        if said:
            return OSError(said[0], str(link))
        link = link.__cause__ or link.__context__
    return _error_of_growing(temporary) if isinstance(error, Exception) else None


def _error_of_growing(path: str) -> OSError | None:
    """What prevents a file, or the content of a folder, from becoming larger, if anything does."""
    name = os.path.join(path, "probe") if os.path.isdir(path) else path
    try:
        with open(name, "ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), file.tell(), 1 << 16)
    except OSError as error:
        return error if error.errno in _FULL else None
    return None


def sentence(path: str | os.PathLike[str], error: OSError, existed: bool, safe: str) -> str:
    """What the user reads.

    Args:
        path: of the file or folder.
        error: why it could not be written.
        existed: whether it was there before.
        safe: a sentence on what is not lost; may be empty.
    """
    reason = os.strerror(error.errno) if error.errno in _FULL else error.strerror or str(error)
    limit = ", the limit of this user (ulimit -f) or of the file system" if error.errno == errno.EFBIG else ""
    state = "What was there before is untouched." if existed else "Nothing of it is left behind."
    cure = "Free some space" if error.errno in _FULL else "Make the folder writable"
    parts = (f"{path} cannot be written: {reason}{limit}.", state, safe, f"{cure}, or choose another place.")
    return " ".join(filter(None, parts))
