"""Folders that commands make and find again: known by a record in them, never emptied unasked, never taken from others.

The record says who has made a folder and with which settings. With the same settings the work there is continued; with
other settings it stays, and the new work goes into a folder beside it. `--fresh` deletes the files that are known to be
of such a folder, one by one, and nothing else. The version of the package is in the record for people to read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

import detr_d2

from ..files import write_json
from ..files.folder_lock import NAME as LOCK
from ..renamed_keys import translate_keys, translate_overrides

OURS = {"made_by": "detr_d2", "format": 1}
"""In every record."""

COMMAND_RECORD = "made_with.json"
_OUTPUTS = {"data", "compare", "pictures", "results.md", "machine.json", "convergence.json", "convergence.md"}
"""What the commands with such a record write first of all."""


_OLDER = {"version", "config", "title", "config_file", "output_dir", "coco", "opts", "iterations", "seconds"}


def read_record(path: Path) -> dict[str, Any] | None:
    """A record; None if the file is not there or not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("made_by") == OURS["made_by"] else None


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but the mark of the process that writes into it, or no folder at all."""
    return not folder.exists() or all(x.name == LOCK or x.name.startswith(".detr_d2-") for x in folder.iterdir())


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, key by key, configs too, by today's names; what one version alone knows is none."""
    first, second = _flat(found), _flat(wanted)
    both = {key: (first[key], second[key]) for key in sorted(first.keys() & second.keys())}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("version", "output_dir", *OURS) and not prefix:
            continue
        with suppress(ValueError):  # of a removed key: the value that it goes with is another one, too
            if key == "config" and isinstance(value, str):  # YAML
                value = yaml.safe_load(value)
                translate_keys(value)
            elif key == "opts" and isinstance(value, list):
                value = translate_overrides(value)
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def listed(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as text, the first three."""
    texts = [f"{key} {was!r}, now {now!r}" for key, (was, now) in found.items()]
    return "; ".join(x if len(x) < 100 else f"{x[:97]}..." for x in texts[:3]) + ("; ..." if len(texts) > 3 else "")


def digest(settings: Mapping[str, Any]) -> str:
    """Eight letters that stand for settings."""
    return hashlib.sha256(json.dumps(_flat(settings), sort_keys=True).encode()).hexdigest()[:8]


def settle_output(
    output: Path, command: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], *, fresh: bool = False
) -> Path:
    """The folder that a command works in: the one that was asked for, or with other settings one beside it.

    Args:
        output: that was asked for.
        command: its name.
        settings: all that decides about what is made.
        defaults: of the settings; those that differ name the other folder.
        fresh: take the folder that was asked for, whatever it was made with.

    Raises:
        ValueError: the folder holds something else.
    """
    record = {**OURS, "version": detr_d2.__version__, "command": command, "settings": dict(settings)}
    record = json.loads(json.dumps(record))
    beside = output.with_name(f"{output.name}-{_named_after(settings, defaults)}")
    folder = fitting_folder((output, beside), record, _command_record, fresh=fresh)
    found = read_record(folder / COMMAND_RECORD)
    if found is None or differences(found, record):
        write_json(folder / COMMAND_RECORD, record)
    return folder


def fitting_folder(
    folders: tuple[Path, Path],
    record: Mapping[str, Any],
    read: Callable[[Path], Mapping[str, Any] | None],
    *,
    fresh: bool,
    title: str = "",
) -> Path:
    """The first of two folders that is free or was made with the same settings; with `fresh` simply the first.

    Args:
        folders: the one that was asked for, and one beside it.
        record: of what is to be made.
        read: gives that of a folder, or None; raises ValueError if somebody else's things are there.
        title: what is made, for the line that says that a folder stays as it is.
    """
    for folder in folders:
        found = read(folder)
        changed = {} if found is None else differences(found, record)
        if not changed or fresh:
            if found is not None and found.get("version") != record["version"]:
                print(f"note: {folder} was begun by version {found.get('version')}, this is {record['version']}")
            return folder
        if folder == folders[0]:
            what = f"{title}: {folder}" if title else str(folder)
            print(f"{what} has other settings ({listed(changed)}) and stays as it is: this is for {folders[1]}")
    raise ValueError(f"{folder} has other settings, too ({listed(changed)}); choose another --output")


def _command_record(folder: Path) -> dict[str, Any] | None:
    """Raises ValueError if a folder without a record has what the command would write over, unless an older one did."""
    found = read_record(folder / COMMAND_RECORD)
    if found is None and not is_empty(folder):
        taken = sorted({x.name for x in folder.iterdir()} & _OUTPUTS)
        if taken and read_training(*folder.glob("*/job.json"), *folder.glob("*/*/job.json")) is None:
            raise ValueError(f"{folder} holds {taken[0]} and was not made by this command; choose another --output")
    return found


def read_training(*records: Path) -> dict[str, Any] | None:
    """The first job.json that is of a training of ours, also of the time before records said so."""
    for record in records:
        if (found := read_record(record)) is not None:
            return found
        with suppress(OSError, ValueError):
            content = json.loads(record.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.keys() >= _OLDER:
                return content
    return None


def _named_after(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    changed = {key: value for key, value in settings.items() if value != defaults.get(key)}
    text = "-".join(f"{key}-{value}" for key, value in changed.items()) or "default"
    name = re.sub(r"[^\w.]+", "-", text)[:80]
    return name if name == text else f"{name}-{digest(settings)}"
