"""Runs `convert` in tests, and compares what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detr_d2.__main__ import main
from detr_d2.checkpoint import read_checkpoint


def run(root: Path, source: object, target: object, to: str, *options: str) -> int:
    config = ["--config-file", str(root / "config.yaml")]
    return main(["convert", str(source), str(target), "--to", to, *config, *options])


def weights(path: Path) -> dict[str, Any]:
    return read_checkpoint(str(path))["model"]


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
