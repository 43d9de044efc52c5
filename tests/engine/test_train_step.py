"""One step: against detectron2's, accumulated, in mixed precision, and with losses that are not finite."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from tiny_models import random_input, tiny_detr
from torch import Tensor, nn

from detr_d2.engine import TrainStep
from detr_d2.engine.train_step import MAX_SKIPPED_STEPS
from detr_d2.solver import with_global_clipping


class Linear(nn.Module):
    """Mean squared error of a linear map, in detectron2's format; 'scale' multiplies an image's error."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.seen_dtypes: list[torch.dtype] = []

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        outputs = torch.stack([self.layer(x["image"]) for x in batch])
        self.seen_dtypes.append(outputs.dtype)
        errors = outputs.float().squeeze(1) ** 2 * torch.stack([x["scale"] for x in batch])
        return {"loss_a": errors.mean(), "loss_b": 0.5 * errors.mean()}


def micro_batches(count: int, size: int = 2) -> list[list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(1)
    return [
        [
            {"image": torch.randn(3, generator=generator), "scale": torch.tensor(1.0), "file_name": f"{n}_{i}.png"}
            for i in range(size)
        ]
        for n in range(count)
    ]


def run(step: SimpleTrainer, iterations: int) -> EventStorage:
    with EventStorage() as storage:
        for i in range(iterations):
            storage.iter = step.iter = i
            step.run_step()
    return storage


def make(data: Iterable[Any], optimizer: Any = torch.optim.SGD, **arguments: Any) -> TrainStep:
    model = Linear()
    return TrainStep(model, data, optimizer(model.parameters(), lr=0.1), **arguments)


def test_does_what_detectron2s_step_does():
    data = micro_batches(4)
    ours = make(data)
    model = Linear()
    theirs = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1))
    first, second = run(ours, 4), run(theirs, 4)
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(first.histories()) == set(second.histories())
    for name in ("total_loss", "loss_a", "loss_b"):
        assert first.history(name).values() == second.history(name).values()


def test_accumulation_is_the_mean_over_micro_batches():
    data = micro_batches(4)
    accumulated = make(data, accum_steps=2)
    whole = make([data[0] + data[1], data[2] + data[3]])
    first, second = run(accumulated, 2), run(whole, 2)
    for a, b in zip(accumulated.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for name in ("total_loss", "loss_a"):
        values = [[v for v, _ in storage.history(name).values()] for storage in (first, second)]
        assert values[0] == pytest.approx(values[1])


def test_accumulated_box_losses_are_those_of_all_images_together():
    torch.manual_seed(0)
    model = tiny_detr("MODEL.DETR.CRITERION.CE_NORM", "global").double()
    images = [random_input(64, 64, count) for count in (5, 1, 0, 2)]
    models = [model, copy.deepcopy(model)]
    data = [[images[:2], images[2:]], [images]]
    steps = [
        TrainStep(m, d, torch.optim.SGD(m.parameters(), lr=0.0), accum_steps=len(d))
        for m, d in zip(models, data, strict=True)
    ]
    storages = [run(step, 1) for step in steps]
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-7, msg=name)
    for name in ("total_loss", "loss_bbox", "loss_giou_0", "loss_ce"):
        first, second = (storage.history(name).latest() for storage in storages)
        assert first == pytest.approx(second, rel=1e-5), name


def test_all_micro_batches_are_read_before_the_first_forward():
    events: list[str] = []

    class Recording(Linear):
        def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
            events.append("forward")
            return super().forward(batch)

    def read() -> Iterable[Any]:
        for batch in micro_batches(6):
            events.append("read")
            yield batch

    model = Recording()
    run(TrainStep(model, read(), torch.optim.SGD(model.parameters(), lr=0.1), accum_steps=3), 2)
    assert events == (["read"] * 3 + ["forward"] * 3) * 2


@pytest.mark.parametrize("accum_steps", [1, 2])
def test_loss_that_is_not_finite_stops_the_run_and_names_the_images(accum_steps: int):
    data = micro_batches(2 * accum_steps)
    data[-1][0]["scale"] = torch.tensor(torch.nan)
    step = make(data, accum_steps=accum_steps)
    run(step, 1)
    before = copy.deepcopy(step.model.state_dict())
    step.iter = 1
    names = rf"{len(data) - 1}_0\.png, {len(data) - 1}_1\.png"
    with EventStorage(1), pytest.raises(FloatingPointError, match=f"iteration=1.*{names}") as error:
        step.run_step()
    assert "loss_a" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), step.model.state_dict().values(), strict=True))


def test_infinite_gradients_of_a_finite_loss_stop_the_run():
    class Vertical(nn.Module):
        """sqrt has an infinite slope at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, _: list[dict[str, Any]]) -> dict[str, Tensor]:
            return {"loss": self.weight.sqrt().sum()}

    model = Vertical()
    optimizer = with_global_clipping(torch.optim.SGD, 0.1)(model.parameters(), lr=0.1)
    step = TrainStep(model, micro_batches(2), optimizer)
    with pytest.raises(FloatingPointError, match=r"norm of the gradients was (inf|nan) at iteration=0.*0_0\.png"):
        run(step, 2)


def test_infinite_gradients_are_told_from_the_nan_predictions_they_cause():
    class Strict(nn.Module):
        """Refuses to predict with NaN weights, as DETR does."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, _: list[dict[str, Any]]) -> dict[str, Tensor]:
            if self.weight.isnan().any():
                raise FloatingPointError("predictions are NaN")
            return {"loss": self.weight.sqrt().sum()}

    model = Strict()
    optimizer = with_global_clipping(torch.optim.SGD, 0.1)(model.parameters(), lr=0.1)
    step = TrainStep(model, micro_batches(2), optimizer)
    with pytest.raises(FloatingPointError, match=r"norm of the gradients was (inf|nan) at iteration=0.*0_0\.png"):
        run(step, 2)
    with pytest.raises(FloatingPointError, match=r"at iteration=0"):  # what a checkpoint asks before it is saved
        step.check_gradients()


def scaled(data: Iterable[Any], kind: Any = torch.optim.AdamW, **variant: Any) -> TrainStep:
    model = Linear()
    optimizer = with_global_clipping(kind, 0.1)(model.parameters(), lr=0.1, **variant)
    return TrainStep(model, data, optimizer, grad_scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("variant", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_scaled_steps_clip_true_norms(variant: dict[str, Any]):
    data = micro_batches(3)
    step = scaled(data, **variant)
    model = Linear()
    plain = TrainStep(model, data, with_global_clipping(torch.optim.AdamW, 0.1)(model.parameters(), lr=0.1, **variant))
    first, second = run(step, 3), run(plain, 3)
    for a, b in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    values = [[v for v, _ in storage.history("grad_norm").values()] for storage in (first, second)]
    assert values[0] == pytest.approx(values[1])
    assert max(values[0]) > 0.1  # so that clipping had something to do


def test_gradient_norm_is_logged_before_clipping_one_step_late():
    data = micro_batches(2)
    model = Linear()
    step = TrainStep(model, data, with_global_clipping(torch.optim.SGD, 1e-3)(model.parameters(), lr=0.0))
    storage = run(step, 2)
    other = Linear()
    reduced = other(data[0])
    (reduced["loss_a"] + reduced["loss_b"]).backward()
    expected = torch.cat([p.grad.flatten() for p in other.parameters() if p.grad is not None]).norm().item()
    ((value, iteration),) = storage.history("grad_norm").values()
    assert value == pytest.approx(expected)
    assert iteration == 1


def test_scaler_skips_a_step_instead_of_stopping():
    data = micro_batches(3)
    data[1][0]["scale"] = torch.tensor(torch.inf)
    step = scaled(data)
    with EventStorage() as storage:
        step.iter = 0
        step.run_step()
        before = copy.deepcopy(step.model.state_dict())
        storage.iter = step.iter = 1
        step.run_step()
        assert all(torch.equal(a, b) for a, b in zip(before.values(), step.model.state_dict().values(), strict=True))
        assert step.skipped_steps == 1
        storage.iter = step.iter = 2
        step.run_step()
    assert step.skipped_steps == 0
    assert not all(torch.equal(a, b) for a, b in zip(before.values(), step.model.state_dict().values(), strict=True))
    assert [i for _, i in storage.history("total_loss").values()] == [0, 2]


def test_scaler_that_skips_for_ever_stops():
    data = micro_batches(1)
    data[0][0]["scale"] = torch.tensor(torch.nan)
    step = scaled(data * MAX_SKIPPED_STEPS)
    with pytest.raises(
        FloatingPointError, match=rf"^Loss .*iteration={MAX_SKIPPED_STEPS - 1} .*bfloat16.*0_0\.png.*nan"
    ):
        run(step, MAX_SKIPPED_STEPS)


class InfiniteGradient(Linear):
    """Has a finite loss, always, whose gradient is infinite in batches whose images have a negative scale."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        weight = self.layer.weight.sum()
        spoiled = (weight - weight.detach()).sqrt() if batch[0]["scale"] < 0 else 0 * weight
        return {"loss": self.layer.bias.sum() ** 2 + spoiled}


def with_infinite_gradients(data: Iterable[Any], *, clips: bool, **variant: Any) -> TrainStep:
    model = InfiniteGradient()
    kind = with_global_clipping(torch.optim.AdamW, 0.1) if clips else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=0.1, **variant)
    return TrainStep(model, data, optimizer, grad_scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("variant", [{"foreach": True}, {"fused": True}], ids=["foreach", "fused"])
@pytest.mark.parametrize("clips", [True, False], ids=["clipped", "plain"])
def test_steps_skipped_for_their_gradients_count_whatever_the_loss(variant: dict[str, Any], clips: bool):
    bad, good = micro_batches(2)
    bad[0]["scale"] = torch.tensor(-1.0)
    step = with_infinite_gradients([bad, bad, good, *[bad] * MAX_SKIPPED_STEPS], clips=clips, **variant)
    before = copy.deepcopy(step.model.state_dict())
    assert [x for x, _ in run(step, 3).history("amp/skipped_in_a_row").values()] == [1, 2, 0]
    assert not torch.equal(step.model.state_dict()["layer.bias"], before["layer.bias"])
    before = copy.deepcopy(step.model.state_dict())
    storage = run(step, MAX_SKIPPED_STEPS - 1)
    assert all(torch.equal(x, before[name]) for name, x in step.model.state_dict().items())
    assert len(storage.history("total_loss").values()) == MAX_SKIPPED_STEPS - 1  # as they are finite
    said = r"^Gradients became infinite or NaN .* 50 steps in a row .*bfloat16.*0_0\.png.* although the loss is finite"
    with pytest.raises(FloatingPointError, match=said):
        run(step, 1)


def test_autocast_to_the_asked_precision():
    step = make(micro_batches(1), precision=torch.bfloat16)
    run(step, 1)
    assert step.model.seen_dtypes == [torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in step.model.parameters())


def test_state_holds_the_scaler_and_does_not_need_it():
    step = scaled(micro_batches(2))
    run(step, 1)
    step.grad_scaler.update(128.0)  # type: ignore[union-attr]
    state = step.state_dict()
    other = scaled(micro_batches(2))
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 128.0  # type: ignore[union-attr]
    del state["grad_scaler"]
    scaled(micro_batches(2)).load_state_dict(state)


def test_model_that_returns_one_loss():
    class Single(Linear):
        def forward(self, batch: list[dict[str, Any]]) -> Tensor:  # type: ignore[override]
            return super().forward(batch)["loss_a"]

    model = Single()
    storage = run(TrainStep(model, micro_batches(1), torch.optim.SGD(model.parameters(), lr=0.1)), 1)
    assert storage.history("total_loss").latest() > 0
