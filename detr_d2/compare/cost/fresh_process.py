"""Work in a fresh Python process, whose memory and imports nothing has touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_python(arguments: Sequence[str], mark: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs this Python, and takes one line of what it prints.

    Args:
        arguments: of the interpreter.
        mark: what the line begins with.
        environment: variables to set.

    Returns:
        The rest of the line.

    Raises:
        RuntimeError: the process failed (the message is the last line of its stderr, or its exit code), or printed no
            such line.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    found = next((x for x in done.stdout.splitlines() if x.startswith(mark)), None)
    if found is None:
        raise RuntimeError(f"the process printed no line that begins with {mark!r}")
    return found.removeprefix(mark)


def measured_mb(module: str, task: Mapping[str, Any], mark: str) -> float:
    """Runs a module on a task, which it gets as a JSON file; the bytes that it prints, in MB of 10^6 bytes.

    Args:
        module: its name.
        task: what JSON can hold.
        mark: what stands before the bytes.

    Raises:
        RuntimeError: as `run_python`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "task.json")
        path.write_text(json.dumps(task), encoding="utf-8")
        return int(run_python(["-W", "ignore", "-m", module, str(path)], mark)) / 1e6
