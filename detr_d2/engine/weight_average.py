"""The exponential moving average of the weights, which is evaluated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Averages what training changes: parameters with gradients, and floating-point buffers such as batch statistics.

    After step t = 1, 2, ... the average moves by 1 - d towards the weights, with d = min(decay, (1 + t) / (10 + t)): an
    average over about the last ninth of all steps, and at most over 1 / (1 - decay) of them. Polyak and Juditsky 1992,
    Acceleration of Stochastic Approximation by Averaging, is where averaging comes from.

    Belongs before the hooks that evaluate and save. A checkpoint that is saved within `in_use` has the average as its
    "model" and the weights in the state of this hook, so that every tool takes the average and a resumed run continues
    with the weights. Outside `in_use` the model has the weights, after training too.

    Args:
        model: not wrapped by DistributedDataParallel. The average begins when training does.
        decay: above 0, below 1.

    Raises:
        ValueError: for another decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA_DECAY is {decay:g}, expected a value from 0 (no average) to below 1.")
        self.decay = decay
        self._model = model
        self._kept: dict[str, Tensor] = {}  # the average; the weights while the model has the average
        self._keeps_average = True

    def before_train(self) -> None:
        current = self._trained()
        loaded = self._kept or current
        self._kept = {name: loaded[name].to(x.device, x.dtype, copy=True) for name, x in current.items()}
        if not self._keeps_average:  # of a checkpoint whose model is the average
            self._exchange()

    def after_step(self) -> None:
        step = self.trainer.iter + 1
        move = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        move(list(self._kept.values()), list(self._trained().values()), None)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model has the average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """What the model has not: the average, or the weights while the model has the average."""
        return {"kept": self._kept, "keeps_average": self._keeps_average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it before training begins; raises ValueError if it is of another model or other parts of it."""
        kept, current = state_dict["kept"], self._trained()
        differing = [name for name in {**kept, **current} if _shape(kept, name) != _shape(current, name)]
        if differing:
            raise ValueError(f"the average of the weights differs in {len(differing)} tensors, such as {differing[0]}")
        self._kept, self._keeps_average = kept, state_dict["keeps_average"]

    def _trained(self) -> dict[str, Tensor]:
        """The tensors that are averaged, each by one name; they share memory and version with the model's."""
        first_names: dict[Tensor, str] = {}
        for name, x in self._model.state_dict(keep_vars=True).items():
            if x.is_floating_point() and (x.requires_grad or not isinstance(x, nn.Parameter)):
                first_names.setdefault(x, name)
        return {name: x.detach() for x, name in first_names.items()}

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, x in self._trained().items():
            other = x.clone()
            x.copy_(self._kept[name])
            self._kept[name] = other
        self._keeps_average = not self._keeps_average


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
