"""One step of training: read, forward, backward, check, clip and update; accumulation and mixed precision included."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

MicroBatch = list[dict[str, Any]]

MAX_SKIPPED_STEPS = 50  # in a row: a gradient scaler that has halved its scale 50 times will not recover
MAX_NAMED_FILES = 8

_NORM, _LARGEST = "the norm of the gradients", "the largest gradient"  # besides the names of losses


class TrainStep(SimpleTrainer):
    """detectron2's `SimpleTrainer` with gradient accumulation, mixed precision on any device, and a loss check.

    A step on one micro-batch in full precision does what `SimpleTrainer` does, with the same results. A loss that is
    infinite or NaN stops the run before the weights change; with a gradient scaler the step is skipped instead, and
    for gradients that are, until `MAX_SKIPPED_STEPS` in a row.

    Args:
        model: in detectron2's format; a dict of losses, or one loss, comes out of it in training.
        data_loader: yields micro-batches.
        optimizer: its attribute `grad_norm`, if there is one, is logged (one step late, to spare a wait).
        accum_steps: micro-batches that make one step; all are read before the first forward.
        precision: autocast to this type; None for full precision.
        grad_scaler: scales the loss of float16 training; None without.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: Optimizer,
        *,
        accum_steps: int = 1,
        precision: torch.dtype | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accum_steps = accum_steps
        self.precision = precision
        self.grad_scaler = grad_scaler
        self.skipped_steps = 0
        self._batches: Iterator[MicroBatch] | None = None
        self._last_checked: tuple[int, list[str]] = (0, [])  # iteration and image files of a step with finite losses

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without DistributedDataParallel."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def batches(self) -> Iterator[MicroBatch]:
        """The iterator over the data loader, made at the first call."""
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return self._batches

    def reset_data_loader(self, data_loader_builder: Any) -> None:
        """Replaces the data loader by what `data_loader_builder()` returns."""
        super().reset_data_loader(data_loader_builder)
        self._batches = None

    def run_step(self) -> None:
        """Trains on the next `accum_steps` micro-batches.

        Raises:
            FloatingPointError: if the loss is not finite and no gradient scaler is there to skip the step, or it has
                skipped too many.
        """
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        micro_batches = [next(self.batches()) for _ in range(self.accum_steps)]
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        try:
            losses = self._forward_backward(micro_batches)
        except FloatingPointError:
            self.check_gradients()  # if the step before has spoiled the weights, that is what went wrong
            raise
        self.after_backward()
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)  # so that clipping inside step() sees true norms
        self._check_and_log(losses, data_time, [_file_name(x) for batch in micro_batches for x in batch])
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _forward_backward(self, micro_batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Accumulates gradients; returns the losses of the whole step."""
        model = self.unwrapped_model
        accumulate = accumulation_context(model, micro_batches)
        share = 1.0 if len(micro_batches) == 1 or accumulate is not None else 1 / len(micro_batches)
        step: dict[str, Tensor] = {}
        with accumulate or nullcontext():
            for i, batch in enumerate(micro_batches):
                with self._synchronised(i == len(micro_batches) - 1):
                    losses = self._losses(batch)
                    if share != 1:
                        losses = {name: loss * share for name, loss in losses.items()}
                    total = reduce(add, losses.values())
                    (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
                for name, loss in losses.items():
                    step[name] = step[name] + loss.detach() if name in step else loss.detach()
        return step

    def _losses(self, batch: MicroBatch) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.precision) if self.precision else nullcontext():
            losses = self.model(batch)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients only in the last backward of a step."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _check_and_log(self, losses: dict[str, Tensor], data_time: float, files: list[str]) -> None:
        """Brings losses and gradients to the host in one transfer, checks them, and logs the mean of processes."""
        norm = getattr(self.optimizer, "grad_norm", None)
        scalars = dict(losses)
        if norm is not None:
            scalars[_NORM] = norm
        if self.grad_scaler is not None:
            scalars[_LARGEST] = self._largest_gradient()
        values = torch.stack([x.detach().float().reshape(()) for x in scalars.values()]).tolist()
        metrics = dict(zip(scalars, values, strict=True))
        grad_norm, largest = metrics.pop(_NORM, None), metrics.pop(_LARGEST, 0.0)
        report: dict[str, Any] = {"metrics": metrics, "data_time": data_time}
        if not (_all_finite(metrics) and math.isfinite(largest)):
            report["files"] = files
        reports = comm.gather(report) or [report]
        self._raise_if_not_finite(reports, grad_norm)
        self._last_checked = (self.iter, files)
        self._log(reports, grad_norm, data_time)

    def _largest_gradient(self) -> Tensor:
        """Infinite or NaN where a gradient scaler skips the step, whatever the loss is."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return nn.utils.get_total_norm(gradients, norm_type=math.inf)

    def check_gradients(self) -> None:
        """Raises FloatingPointError if the gradients of the last step were not finite, and so are the weights now.

        Waits for the device. With a gradient scaler such a step was skipped, and nothing is wrong.
        """
        norm = getattr(self.optimizer, "grad_norm", None)
        if self.grad_scaler is None and norm is not None:
            self._raise_if_norm_not_finite(norm.item())

    def _raise_if_norm_not_finite(self, norm: float | None) -> None:
        if norm is not None and not math.isfinite(norm):
            iteration, files = self._last_checked
            raise FloatingPointError(
                f"The norm of the gradients was {norm} at iteration={iteration} although the loss was finite, "
                f"in a batch of the images {_name_files(files)}."
            )

    def _raise_if_not_finite(self, reports: list[dict[str, Any]], grad_norm: float | None) -> None:
        bad = [report for report in reports if "files" in report]
        if self.grad_scaler is not None:
            self.skipped_steps = self.skipped_steps + 1 if bad else 0
            if self.skipped_steps < MAX_SKIPPED_STEPS:
                return
        else:
            self._raise_if_norm_not_finite(grad_norm)
        if bad:
            scaled = (
                f" in {self.skipped_steps} steps in a row (try SOLVER.AMP.DTYPE bfloat16)" if self.grad_scaler else ""
            )
            files = _name_files([name for report in bad for name in report["files"]])
            losses = next((x["metrics"] for x in bad if not _all_finite(x["metrics"])), None)
            what = "Gradients" if losses is None else "Loss"
            loss = f", although the loss is finite: {bad[0]['metrics']}" if losses is None else f": {losses}"
            where = f"at iteration={self.iter}{scaled}, in a batch of the images {files}"
            raise FloatingPointError(f"{what} became infinite or NaN {where}{loss}")

    def _log(self, reports: list[dict[str, Any]], grad_norm: float | None, data_time: float) -> None:
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(x["data_time"] for x in reports), cur_iter=self.iter)
        if grad_norm is not None and math.isfinite(grad_norm):
            storage.put_scalar("grad_norm", grad_norm, cur_iter=self.iter)
        if self.grad_scaler is not None:
            storage.put_scalar("amp/skipped_in_a_row", self.skipped_steps, cur_iter=self.iter)
        if not all(_all_finite(report["metrics"]) for report in reports):
            return
        names = reports[0]["metrics"]
        means = {name: sum(x["metrics"][name] for x in reports) / len(reports) for name in names}
        storage.put_scalar("total_loss", sum(means.values()), cur_iter=self.iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=self.iter, **means)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimizer, and gradient scaler if there is one."""
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict()`; a checkpoint of full-precision training has no gradient scaler."""
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def accumulation_context(model: nn.Module, micro_batches: Sequence[MicroBatch]) -> AbstractContextManager[Any] | None:
    """What a model offers to normalise its losses over several micro-batches, or None if it does not."""
    accumulated_over = getattr(model, "accumulated_over", None)
    if len(micro_batches) == 1 or accumulated_over is None:
        return None
    return accumulated_over(micro_batches)


def _all_finite(metrics: dict[str, float]) -> bool:
    return all(map(math.isfinite, metrics.values()))


def _file_name(dataset_dict: dict[str, Any]) -> str:
    return str(dataset_dict.get("file_name", dataset_dict.get("image_id", "?")))


def _name_files(files: list[str]) -> str:
    more = f" and {len(files) - MAX_NAMED_FILES} more" if len(files) > MAX_NAMED_FILES else ""
    return ", ".join(files[:MAX_NAMED_FILES]) + more
