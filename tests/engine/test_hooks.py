"""The hooks that keep the best checkpoint and give memory back, driven by hand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_d2.checkpoint import Checkpointer
from detr_d2.engine.hooks import BestCheckpoint, TrimMemory, naming_images


class FakeStorage:
    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def latest(self) -> dict[str, tuple[float, int]]:
        return {name: (value, 0) for name, value in self.values.items()}


class FakeTrainer:
    def __init__(self, max_iter: int) -> None:
        self.max_iter, self.iter = max_iter, 0
        self.storage = FakeStorage({})
        self.collected = 0

    def collect_resume_state(self) -> None:
        self.collected += 1

    def evaluated_weights(self) -> nullcontext[None]:
        return nullcontext()


def evaluate(hook: BestCheckpoint, iteration: int, ap: float) -> None:
    hook.trainer.storage = FakeStorage({"bbox/AP": ap})
    hook.trainer.iter = iteration
    hook.after_step()


def test_best_checkpoint_is_of_the_best_evaluation(tmp_path: Path):
    model = torch.nn.Linear(1, 1)
    checkpointer = Checkpointer(model, str(tmp_path))
    hook = BestCheckpoint(10, checkpointer, "bbox/AP")
    trainer = hook.trainer = FakeTrainer(100)

    def best() -> float:
        return torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]["bias"].item()

    def at(iteration: int, ap: float) -> None:
        torch.nn.init.constant_(model.bias, ap)
        evaluate(hook, iteration, ap)

    at(4, 50.0)  # no evaluation is due here
    assert not (tmp_path / "model_best.pth").exists()
    at(9, float("nan"))
    assert not (tmp_path / "model_best.pth").exists()
    at(19, 30.0)
    assert best() == 30.0
    assert checkpointer.get_checkpoint_file().endswith("model_best.pth")  # the only one to resume from
    checkpointer.save("model_0000019")
    at(29, 20.0)
    assert best() == 30.0
    resumed = BestCheckpoint(10, checkpointer, "bbox/AP")
    resumed.trainer = trainer
    resumed.load_state_dict(hook.state_dict())
    hook = resumed
    at(39, 25.0)
    assert best() == 30.0
    at(49, 35.0)
    assert best() == 35.0
    assert hook.best_iteration == 49
    assert checkpointer.get_checkpoint_file().endswith("model_0000019.pth")


def test_trim_memory_every_period(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = TrimMemory(period=4)
    hook.trainer = FakeTrainer(9)
    calls: list[int] = []
    monkeypatch.setattr("detr_d2.engine.hooks.trim_memory", lambda: calls.append(hook.trainer.iter))
    for hook.trainer.iter in range(9):
        hook.after_step()
    assert calls == [3, 7]


class Picky(torch.nn.Module):
    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(x["file_name"] == "bad.png" for x in batch):
            raise RuntimeError("no feature map is left")
        return batch


def test_a_failing_evaluation_names_the_images_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    model = Picky()

    def evaluate(*names: str) -> None:
        with naming_images(model):
            for name in names:
                model([{"file_name": name}])
            raise ValueError("the evaluator")

    with pytest.raises(RuntimeError, match="no feature map"):
        evaluate("a.png", "bad.png", "c.png")
    assert [record.getMessage() for record in caplog.records] == ["The model failed on bad.png:"]
    caplog.clear()
    with pytest.raises(ValueError, match="the evaluator"):
        evaluate("a.png")  # no image is at fault
    assert caplog.records == []
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
