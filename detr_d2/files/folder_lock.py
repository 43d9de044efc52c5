"""One process, or one run of several, writes into a folder at a time: who it is stands in a file there.

The file is made in one step and names host, process and the time when it began. It goes when the work ends; what a
killed process leaves of it is taken over. It does not rely on locks of the file system, which some network file systems
only pretend to have; they are asked in addition, where the file alone does not tell.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

from .processes import Process, boot_id, machine_id
from .temporaries import create, prepare_folder, temporary_name
from .write_errors import WriteError

NAME = ".detr_d2.lock"
_SECONDS_TO_MAKE = 5.0


class FolderInUse(ValueError):
    """Another process writes into the folder; the message is for the user."""


@dataclass(frozen=True)
class Owner:
    """What the file says.

    Attributes:
        process: that writes.
        command: its command line.
        since: when it began to, in seconds since 1970.
        run: names a run of several processes; "" for a process of its own.
        boot, machine: of its kernel and its system.
    """

    process: Process
    command: str = ""
    since: float = 0.0
    run: str = ""
    boot: str = field(default_factory=boot_id)
    machine: str = field(default_factory=machine_id)

    @classmethod
    def read(cls, path: str) -> Owner | None:
        """From the file; None if it is gone, or still being made."""
        try:
            with open(path, encoding="utf-8") as file:
                owner = _parse(file.read())
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        if owner is None and abs(age) < _SECONDS_TO_MAKE:  # clocks of two hosts differ
            return None
        return owner or _NOBODY

    def is_dead(self, path: str) -> bool:
        """Whether it has ended for sure."""
        if self == _NOBODY:
            return True
        if self.process.is_here:
            return self.process.is_dead()
        if self.boot and self.boot == boot_id():  # in another container of this kernel, whose locks all see
            return _is_locked(path) is False
        if self.machine and (self.machine, self.process.host) == (machine_id(), Process.current().host):
            return _is_locked(path) is not True  # the system was started again
        return False


def _parse(text: str) -> Owner | None:
    """From the content of a file, which anybody may have written; None if it names no owner."""
    import msgspec  # here, as commands without a lock run where it is missing

    try:
        owner = msgspec.json.decode(text, type=Owner)
    except (ValueError, RecursionError):
        return None
    return owner if 0 < owner.process.pid < 1 << 31 else None


_NOBODY = Owner(Process("", "", 0, 0), boot="", machine="")  # of a file that a power failure has cut short


@dataclass
class _Held:
    pid: int
    count: int
    descriptor: int | None


_held: dict[str, _Held] = {}


@contextmanager
def hold_folder(folder: str | os.PathLike[str], *, run: str = "", same_run: Collection[str] = ()) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made; a process may hold a folder several times.

    Args:
        folder: that is written into.
        run: name of a run of several processes, of which this one is the one that writes.
        same_run: names of runs that this one continues, on whatever host they began.

    Raises:
        FolderInUse: another process holds it, which lives or may live.
        OSError: it cannot be written to.
    """
    path = os.path.join(os.path.realpath(folder), NAME)
    held = _held.get(path)
    if held is None or held.pid != os.getpid():  # the latter was inherited by a fork
        held = _Held(os.getpid(), 0, _acquire(path, folder, run, same_run))
        _held[path] = held
    held.count += 1
    try:
        yield
    finally:
        held.count -= 1
        if held.count == 0 and held.pid == os.getpid():
            del _held[path]
            _release(path, held)


def _acquire(path: str, folder: str | os.PathLike[str], run: str, same_run: Collection[str]) -> int | None:
    """Makes the file; returns it open and locked, or None where it belongs to the process that has started this one."""
    command = " ".join(sys.argv[:2])[:100].encode(errors="replace").decode()  # names of files may be no text
    own = Owner(Process.current(), command, time.time(), run)
    while True:
        try:
            return _make(path, own)
        except FileExistsError:
            _check_is_file(path)
            owner = Owner.read(path)
        except OSError as error:
            raise WriteError(f"{folder} cannot be written to ({error.strerror}); choose another folder") from error
        if owner is None:
            time.sleep(0.01)
            continue
        parent = multiprocessing.parent_process()
        if parent is not None and owner.process.is_here and owner.process.pid == parent.pid:
            return None
        if owner.is_dead(path) or (owner.run and owner.run in same_run):
            _take_away(path, owner)
            continue
        raise FolderInUse(_sentence(folder, path, owner))


def _check_is_file(path: str) -> None:
    """Raises WriteError for what no process of this package has made."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise WriteError(f"{path} is a folder or a link, expected the file that says who writes there; delete it.")


def _make(path: str, own: Owner) -> int:
    """Makes the file with its content in one step.

    Raises:
        FileExistsError: it is there.
    """
    prepare_folder(os.path.dirname(path))
    content = json.dumps(asdict(own)).encode()
    temporary = temporary_name(os.path.dirname(path))
    try:
        _write_new(temporary, content)
        try:
            os.link(temporary, path)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            _write_new(path, content)  # on a file system without links
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    descriptor = os.open(path, os.O_RDWR)
    _lock(descriptor)
    return descriptor


def _write_new(path: str, content: bytes) -> None:
    with open(create(path), "wb") as file:
        file.write(content)


def _release(path: str, held: _Held) -> None:
    if held.descriptor is None:
        return
    with suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(held.descriptor)):  # and not that of somebody who took it over
            os.unlink(path)
    os.close(held.descriptor)


def _take_away(path: str, owner: Owner) -> None:
    """Removes the file of a dead process, but not that of a living one who was faster."""
    with suppress(FileNotFoundError), open(path, "r+", encoding="utf-8") as file:
        if _lock(file.fileno()) is False:  # somebody else is removing it
            time.sleep(0.01)
            return
        same = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
        if same and (_parse(file.read()) or _NOBODY) == owner:
            os.unlink(path)


def _lock(descriptor: int) -> bool | None:
    """Locks an open file for this process alone; False if another has, None where that does not work."""
    try:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_locked(path: str) -> bool | None:
    try:
        with open(path, "r+b") as file:
            return {True: False, False: True, None: None}[_lock(file.fileno())]
    except OSError:
        return None


def _sentence(folder: str | os.PathLike[str], path: str, owner: Owner) -> str:
    minutes = max(time.time() - owner.since, 0) / 60
    age = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    what = f" ({owner.command})" if owner.command else ""
    sentence = (
        f"{folder} is written to by process {owner.process.pid} on {owner.process.host}{what}, which began {age} ago: "
        "wait for its end, or choose another folder"
    )
    return f"{sentence}." if owner.process.is_here else f"{sentence}; if it has ended, delete {path}."
