"""A small comparison that was really run: tiny models with random weights on the tiny dataset."""

from __future__ import annotations

from pathlib import Path

from coco_files import CocoFiles


def run_small_comparison(data: CocoFiles, folder: Path) -> Path:
    """Runs `compare` on a DETR and a Faster R-CNN, without costs.

    Args:
        data: see there.
        folder: for configs, and for the output.

    Returns:
        Its results.json, beside its page.
    """
    from tiny_baselines import tiny_faster_rcnn_cfg
    from tiny_models import tiny_cfg

    from detr_d2 import cli
    from detr_d2.commands import compare

    small = ["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96]
    arguments = ["--coco", data.spec("really_compared"), "--output", str(folder / "out"), "--cpu", "--skip-cost"]
    for label, cfg in {"DETR": tiny_cfg(*small), "Faster R-CNN": tiny_faster_rcnn_cfg(*small)}.items():
        config = folder / f"{label}.yaml"
        config.write_text(cfg.dump())
        arguments += ["--model", f"{label}={config},"]
    assert cli.run(compare.main, [*arguments, "--resamples", "10"]) == 0
    return folder / "out" / "results.json"
