"""Runs `convert` in tests, and reads what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detr_d2.__main__ import main
from detr_d2.checkpoint import read_checkpoint


def run(root: Path, source: object, target: object, to: str, *options: str) -> int:
    config = ["--config-file", str(root / "config.yaml")]
    return main(["convert", str(source), str(target), "--to", to, *config, *options])


def weights(path: Path) -> dict[str, Any]:
    return read_checkpoint(str(path))["model"]
