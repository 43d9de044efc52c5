"""Memory: what weights take, what work adds, and what one image adds in a process of its own."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from coco_files import CocoFiles
from detectron2.modeling import build_model
from killed_training import fork, wait
from tiny_models import tiny_cfg
from torch import nn

from detr_d2.compare.cost.memory import image_memory_mb, measure_added, weights_memory_mb


def test_weights_are_parameters_and_buffers_of_their_types() -> None:
    norm = nn.BatchNorm2d(10)  # 20 parameters; 20 statistics and a count of 8 bytes
    tied = nn.Linear(5, 5, bias=False)
    tied.weight = nn.Parameter(torch.zeros(5, 5, dtype=torch.bfloat16))
    assert weights_memory_mb(nn.Sequential(norm, tied, tied)) == pytest.approx((40 * 4 + 8 + 25 * 2) / 1e6)


def test_memory_is_what_the_work_adds(tmp_path: Path) -> None:
    """In a child, where nothing that earlier tests have left comes and goes meanwhile."""

    def child() -> None:
        held = torch.ones(30_000_000)  # 120 MB that are there before

        def work() -> None:
            torch.ones(50_000_000).sum()

        work()
        added = measure_added("cpu", work)
        (tmp_path / "added.json").write_text(json.dumps([added, float(held.sum())]))

    assert wait(fork(child)) == 0
    added, held = json.loads((tmp_path / "added.json").read_text())
    assert 190e6 < added < 230e6
    assert held == 30_000_000


def test_a_peak_that_cannot_be_forgotten_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(OSError, match="can be measured on Linux only"):
        measure_added("cpu", lambda: None)


_OWN = """
import torch
from detectron2.config import configurable
from detr_d2.modeling import TRANSFORMER_REGISTRY
from detr_d2.modeling.transformer import DETRTransformer

@TRANSFORMER_REGISTRY.register()
class MemoryTransformer(DETRTransformer):
    @configurable
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("bytes_of_a_cell", torch.ones(1))

    def forward(self, inputs):
        torch.ones(int(self.bytes_of_a_cell) * inputs.maps[0][0, 0].numel(), dtype=torch.uint8)
        return super().forward(inputs)
"""


def test_an_image_adds_what_its_size_and_the_weights_ask_for(
    tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 x 48 pixels become 341 x 256, a map of 22 x 16 cells; the corner of 64 x 64 that was there before has 16."""
    own = tmp_path / "memory_parts.py"
    own.write_text(_OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("memory_parts")
    cfg = tiny_cfg("MODEL.DETR.TRANSFORMER.NAME", "MemoryTransformer", "INPUT.MIN_SIZE_TEST", 256)
    model = build_model(cfg)
    model.transformer.bytes_of_a_cell.fill_(500e6 / 352)
    image = str(tiny_coco.image_root / "001.png")
    assert 490 < image_memory_mb(model, cfg, image, [str(own)]) < 550
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="exit code 1"):
        image_memory_mb(model, cfg, image)
