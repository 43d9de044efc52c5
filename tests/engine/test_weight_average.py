"""The average of the weights: its values, who sees it, and what a checkpoint has of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from state_dicts import assert_same
from tiny_models import random_input, tiny_cfg
from torch import Tensor, nn

from detr_d2.engine import Trainer
from detr_d2.engine.weight_average import WeightAverage


def model_with(value: float) -> nn.Sequential:
    """A weight that is trained, one that is frozen, and running statistics."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    model[1].requires_grad_(False)
    set_to(model, value)
    return model


def set_to(model: nn.Sequential, value: float) -> None:
    for x in (*model.parameters(), model.get_buffer("2.running_mean")):
        nn.init.constant_(x, value)


def step(hook: WeightAverage, model: nn.Sequential, iteration: int, value: float) -> None:
    """One step of training that leads to weights of `value`."""
    set_to(model, value)
    hook.trainer = SimpleNamespace(iter=iteration)
    hook.after_step()


def values(model: nn.Sequential) -> tuple[float, float, float]:
    names = ("0.weight", "1.weight", "2.running_mean")
    first, second, third = (model.state_dict()[name].item() for name in names)
    return first, second, third


def test_moves_slowly_and_faster_in_the_beginning() -> None:
    model = model_with(0.0)
    hook = WeightAverage(model, 0.25)
    hook.before_train()
    step(hook, model, 0, 11.0)  # d = 2 / 11, below 0.25
    with hook.in_use():
        assert values(model) == pytest.approx((9.0, 11.0, 9.0))  # the frozen one is as it is
    assert values(model) == (11.0, 11.0, 11.0)
    step(hook, model, 9, 1.0)  # 11 / 20 is above 0.25
    with hook.in_use():
        assert values(model) == pytest.approx((3.0, 1.0, 3.0))
    assert model[2].num_batches_tracked == 0


def test_a_tensor_with_two_names_is_averaged_once() -> None:
    model = model_with(0.0)
    model[1].weight = model[0].weight
    hook = WeightAverage(model, 0.5)
    hook.before_train()
    step(hook, model, 99, 8.0)
    for _ in range(2):
        with hook.in_use():
            assert values(model) == (4.0, 4.0, 4.0)
        assert values(model) == (8.0, 8.0, 8.0)


def test_weights_come_back_after_an_error() -> None:
    model = model_with(2.0)
    hook = WeightAverage(model, 0.5)
    hook.before_train()
    set_to(model, 4.0)
    with pytest.raises(RuntimeError), hook.in_use():
        raise RuntimeError
    assert values(model) == (4.0, 4.0, 4.0)


@pytest.mark.parametrize("saved_in_use", [True, False])
def test_continues_from_a_checkpoint_saved_with_either_in_the_model(saved_in_use: bool) -> None:
    model = model_with(0.0)
    hook = WeightAverage(model, 0.5)
    hook.before_train()
    step(hook, model, 99, 8.0)

    def save() -> tuple[nn.Sequential, WeightAverage]:
        other = model_with(0.0)
        other.load_state_dict(model.state_dict())
        loaded = WeightAverage(other, 0.5)
        loaded.load_state_dict(hook.state_dict())
        loaded.before_train()
        return other, loaded

    if saved_in_use:
        with hook.in_use():
            assert values(model)[0] == 4.0
            other, loaded = save()
    else:
        other, loaded = save()
    assert values(other) == (8.0, 8.0, 8.0)
    step(loaded, other, 100, 10.0)
    with loaded.in_use():
        assert values(other) == (7.0, 10.0, 7.0)


def test_folded_weights_follow() -> None:
    model = build_model(tiny_cfg())
    hook = WeightAverage(model, 0.5)
    hook.before_train()
    batch, conv = [random_input(64, 64, 0)], model.get_parameter("backbone.res2.0.conv1.weight")
    before = predict(model, batch)
    with torch.no_grad():
        conv.mul_(3)
    after = predict(model, batch)
    assert not torch.equal(after, before)
    with hook.in_use():
        torch.testing.assert_close(predict(model, batch), before)
    torch.testing.assert_close(predict(model, batch), after)


def predict(model: nn.Module, batch: list[dict[str, Any]]) -> Tensor:
    """Boxes, by the optimised model."""
    with torch.no_grad():
        boxes: Tensor = model.eval()(batch)[0]["instances"].pred_boxes.tensor
    return boxes


def test_state_of_other_parts_is_an_error() -> None:
    hook = WeightAverage(model_with(0.0), 0.5)
    hook.before_train()
    model = model_with(0.0)
    model[1].requires_grad_(True)
    with pytest.raises(ValueError, match=r"differs in 1 tensors, such as 1\.weight"):
        WeightAverage(model, 0.5).load_state_dict(hook.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_an_error(detr_cfg: Callable[..., CfgNode], decay: float) -> None:
    with pytest.raises(ValueError, match=r"SOLVER\.EMA_DECAY is .*, expected a value from 0"):
        Trainer(detr_cfg("SOLVER.EMA_DECAY", decay))


def test_precise_batch_statistics_are_of_other_weights(detr_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match=r"TEST\.PRECISE_BN.*SOLVER\.EMA_DECAY.*one of the two"):
        Trainer(detr_cfg("SOLVER.EMA_DECAY", 0.9, "TEST.PRECISE_BN.ENABLED", True, "TEST.EVAL_PERIOD", 3))


class Observer(HookBase):
    """Keeps the weights after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def before_train(self) -> None:
        self.after_step()

    def after_step(self) -> None:
        self.seen.append({k: v.clone() for k, v in self.trainer.unwrapped_model.state_dict().items()})


class Averaged(Trainer):
    """Keeps what its evaluations see, and writes no metrics."""

    evaluated: list[dict[str, Tensor]]

    def build_writers(self) -> list[Any]:
        return []

    @classmethod
    def test(cls, _cfg: CfgNode, model: nn.Module, *_: Any) -> OrderedDict[str, Any]:
        cls.evaluated.append({k: v.clone() for k, v in model.state_dict().items()})
        return OrderedDict(bbox={"AP": float(len(cls.evaluated))})


def test_what_is_evaluated_and_saved_is_the_average(detr_cfg: Callable[..., CfgNode]) -> None:
    cfg = detr_cfg("SOLVER.EMA_DECAY", 0.25, "DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 3)
    Path(cfg.OUTPUT_DIR).mkdir()

    def train(cfg: CfgNode) -> list[dict[str, Tensor]]:
        Averaged.evaluated = []
        seed_all_rng(3)
        trainer, observer = Averaged(cfg), Observer()
        trainer.register_hooks([observer])
        trainer.resume_or_load(resume=False)
        trainer.train()
        return observer.seen

    seen = train(cfg)
    average, averages = seen[0], {}
    for done, weights in enumerate(seen[1:], 1):
        decay = min(0.25, (1 + done) / (10 + done))
        average = {k: decay * average[k] + (1 - decay) * x if x.is_floating_point() else x for k, x in weights.items()}
        averages[done] = average
    saved = [("model_0000002", 3), ("model_final", 6), ("model_best", 6)]
    files = {name: torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)["model"] for name, _ in saved}
    for name, done in saved:
        torch.testing.assert_close(files[name], averages[done])
    for evaluated, done in zip(Averaged.evaluated, (3, 6), strict=True):
        torch.testing.assert_close(evaluated, averages[done])
    cfg.SOLVER.EMA_DECAY = 0.0
    assert_same(train(cfg)[-1], seen[-1])  # training goes its own way
