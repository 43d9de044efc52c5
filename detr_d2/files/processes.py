"""Which process wrote something, and whether it still runs: pids are used again, hosts share folders."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from all others.

    Attributes:
        host: its name.
        system: stands for the start of the kernel and, in a container, for its table of pids; a pid means nothing
            elsewhere.
        pid: there.
        start: when it began, in ticks since the kernel did; 0 where nothing tells.
    """

    host: str
    system: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> Process:
        """This one."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """The one that has this pid here."""
        return cls(host_name(), _system(), pid, _start(pid) or 0)

    @property
    def is_here(self) -> bool:
        """Whether its pid means something to this process."""
        return self.system == _system() and self.host == host_name()

    def is_dead(self) -> bool:
        """Whether it has ended for sure; of processes elsewhere nothing is sure."""
        if not self.is_here:
            return False
        start = _start(self.pid)
        if start is None:
            return True
        return bool(self.start and start and start != self.start)  # another process has the pid now


@functools.cache
def host_name() -> str:
    """The name of this host in letters that a file name may have."""
    return re.sub(r"[^\w.]", "_", socket.gethostname())[:64] or "localhost"


@functools.cache
def boot_id() -> str:
    """Of the running kernel, which containers share; "" where nothing tells."""
    return _first_line("/proc/sys/kernel/random/boot_id")


@functools.cache
def machine_id() -> str:
    """Of the installed system, which stays when it is started again; "" where nothing tells, as in most containers."""
    return _first_line("/etc/machine-id")


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@functools.cache
def _system() -> str:
    try:
        told = f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        told = host_name()
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _start(pid: int) -> int | None:
    """When a running process began; 0 if nothing tells; None if there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0 if _answers(pid) else None
    return None if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    if os.name != "posix":  # where the signal 0 is no question, but ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
