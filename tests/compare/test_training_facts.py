"""How long a model was trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from detr_d2.compare.records.results import RunResult
from detr_d2.compare.training_facts import TrainingFacts, training_facts


def checkpoint(folder: Path, last_iteration: int | None, name: str = "model_final.pth") -> Path:
    """In a folder as detectron2's trainers leave it."""
    (folder / "last_checkpoint").write_text(name)
    content = {"model": {"weight": torch.zeros(1)}}
    torch.save(content if last_iteration is None else {**content, "iteration": last_iteration}, folder / name)
    (folder / "config.yaml").write_text("SEED: 7\nSOLVER:\n  IMS_PER_BATCH: 4\n  ACCUM_STEPS: 2\n")
    return folder / name


def log(folder: Path, *records: dict[str, float]) -> None:
    (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in records) + '{"iterat')


def test_time_is_summed_up_to_the_checkpoint(tmp_path: Path) -> None:
    log(
        tmp_path,
        {"iteration": 1, "time": 3.0},
        {"iteration": 3, "time": 99.0},  # made again after a stop
        {"iteration": 3, "time": 2.0},
        {"iteration": 3, "bbox/AP": 1.0},
        {"iteration": 9, "time": 1000.0},
    )
    facts = training_facts(checkpoint(tmp_path, 4, "model_0000004.pth"))
    assert facts == TrainingFacts(iterations=5, seconds=2 * 3 + 2 * 2 + 2, images_per_iteration=8, seed=7)
    assert facts.images_per_second == pytest.approx(5 * 8 / 12)


def test_a_result_of_these_iterations_is_exact(tmp_path: Path) -> None:
    log(tmp_path, {"iteration": 9, "time": 1.0})
    path = checkpoint(tmp_path, 9)
    RunResult("A", "a.yaml", "data", 1.0, 1.0, 1.0, iterations=10, train_seconds=12.5).save(tmp_path / "result.json")
    assert training_facts(path).seconds == 12.5
    assert math.isnan(training_facts(checkpoint(tmp_path, 4)).seconds)


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    facts = training_facts(checkpoint(tmp_path, None))
    assert (facts.iterations, facts.images_per_iteration) == (0, 8)
    assert math.isnan(facts.seconds)
    assert math.isnan(facts.images_per_second)
    (tmp_path / "config.yaml").unlink()
    assert math.isnan(training_facts(checkpoint(tmp_path, 5)).seconds)
    (tmp_path / "model_final.pth").write_bytes(b"broken")
    assert training_facts(tmp_path / "model_final.pth").iterations == 0
    # A file that somebody has put there, beside things of another model.
    path = checkpoint(tmp_path, 5)
    (tmp_path / "last_checkpoint").unlink()
    assert training_facts(path) == TrainingFacts()
