"""detectron2's own training loader, made to continue exactly where another process stopped.

It delivers what `detectron2.data.build_detection_train_loader(cfg)` delivers: same images, same augmentation under the
same random state, for any number of workers. Differs from it in

* every image travels with the random state of its worker before and after it was augmented, so that a checkpoint can
  hold the states that belong to the images consumed so far, however far ahead the workers have read;
* images that wait for others of their orientation (`DATALOADER.ASPECT_RATIO_GROUPING`) are part of the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_batch_data_loader, build_detection_train_loader
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.utils import comm
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ...data import build_stock_mapper
from ...data.loader import training_records
from .random_state import bytes_to_tensor, get_random_state, set_random_state, tensor_to_bytes

Sample = dict[str, Any]


@dataclass
class _Position:
    """What one process has consumed.

    Attributes:
        units: batches taken from the workers; single images if they are grouped by orientation afterwards.
        workers: loader workers, at least 1; the worker of unit n is n modulo this.
        torch_state: torch's random state from which the seeds of the workers were drawn.
        worker_states: per worker, its random state behind the last consumed unit; None before the first.
        waiting: images read but not in a batch yet: index in the dataset, random state before the augmentation.
    """

    units: int
    workers: int
    torch_state: bytes = b""
    worker_states: list[bytes | None] = field(default_factory=list)
    waiting: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # by id() of the image's dict


@dataclass
class _Tagged:
    """An image and where it comes from."""

    sample: Sample
    index: int
    before: bytes
    after: bytes


class _Stream(IterableDataset[_Tagged]):
    """The images of one worker, in the order in which detectron2 hands chunks of `chunk` draws to its workers."""

    def __init__(
        self, dataset: Dataset[Sample], sampler: Sampler[int], chunk: int, grouped: bool, position: _Position
    ) -> None:
        self.dataset, self.sampler, self.chunk, self.grouped = dataset, sampler, chunk, grouped
        self.position = position

    def __iter__(self) -> Iterator[_Tagged]:
        start = self.position
        me = get_worker_info()
        role = (start.units + (me.id if me else 0)) % start.workers  # the worker whose work this one continues
        if me is not None:
            self._restore(role, me.id, me.seed)
        done = len(range(role, start.units, start.workers)) * (1 if self.grouped else self.chunk)
        tagged = self.grouped or me is not None
        for n, index in enumerate(_share(self.sampler, role, start.workers, self.chunk)):
            if n >= done:
                before = get_random_state() if tagged else b""
                sample = self.dataset[index]
                yield _Tagged(sample, index, before, get_random_state() if tagged else b"")

    def _restore(self, role: int, worker: int, seed: int) -> None:
        state = self.position.worker_states[role]
        if state is not None:
            set_random_state(state)
        elif worker != role:  # has not begun: seed this worker as that one would be
            torch.manual_seed(seed - worker + role)
            worker_init_reset_seed(role)


def _share(sampler: Sampler[int], worker: int, workers: int, chunk: int) -> Iterator[int]:
    """The draws of a worker: chunks number `worker`, `worker + workers`, ..."""
    for n, index in enumerate(sampler):
        if n // chunk % workers == worker:
            yield index


class StockLoader:
    """An endless iterable of micro-batches; see the head of this file.

    Args:
        dataset: maps an index to a model input.
        sampler: endless, the share of this process.
        batch_size: images of this process.
        aspect_ratio_grouping: batches hold images of one orientation.
        num_workers: processes that read images; 0 reads them in this one.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        sampler: Sampler[int],
        *,
        batch_size: int,
        aspect_ratio_grouping: bool,
        num_workers: int,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_size, self.grouped, self.num_workers = batch_size, aspect_ratio_grouping, num_workers
        workers = max(1, num_workers)
        self._position = _Position(0, workers, worker_states=[None] * workers)

    def __iter__(self) -> Iterator[list[Sample]]:
        """Starts the workers at once; continues behind what was consumed, by this loader or before `seek`."""
        position = self._position
        waiting = [self._read_again(*x) for x in position.waiting.values()]
        position.waiting = {id(x.sample): (x.index, x.before) for x in waiting}
        units = self._start_workers()
        return self._group(waiting, units) if self.grouped else self._batches(units)

    def _start_workers(self) -> Iterator[list[_Tagged]]:
        """Worker seeds are drawn from torch's random state; when continuing, from the one at the first start."""
        loader = build_batch_data_loader(
            _Stream(self.dataset, self.sampler, self.batch_size, self.grouped, self._position),
            None,
            total_batch_size=0,
            single_gpu_batch_size=1 if self.grouped else self.batch_size,
            num_workers=self.num_workers,
        )
        if not self._position.torch_state:
            self._position.torch_state = torch.get_rng_state().numpy().tobytes()
            return iter(loader)
        now = torch.get_rng_state()
        torch.set_rng_state(bytes_to_tensor(self._position.torch_state))
        units = iter(loader)
        torch.set_rng_state(now)
        return units

    def _read_again(self, index: int, before: bytes) -> _Tagged:
        now = get_random_state()
        set_random_state(before)
        sample = self.dataset[index]
        set_random_state(now)
        return _Tagged(sample, index, before, b"")

    def _batches(self, units: Iterator[list[_Tagged]]) -> Iterator[list[Sample]]:
        for unit in units:
            self._consume(unit[-1].after)
            yield [x.sample for x in unit]

    def _group(self, waiting: Sequence[_Tagged], units: Iterator[list[_Tagged]]) -> Iterator[list[Sample]]:
        def samples() -> Iterator[Sample]:
            for (tagged,) in units:
                self._consume(tagged.after)
                self._position.waiting[id(tagged.sample)] = (tagged.index, tagged.before)
                yield tagged.sample

        stream = chain([x.sample for x in waiting], samples())
        for batch in AspectRatioGroupedDataset(stream, self.batch_size):
            for sample in batch:
                del self._position.waiting[id(sample)]
            yield batch

    def _consume(self, after: bytes) -> None:
        position = self._position
        if self.num_workers:  # otherwise this process's own random state, which the trainer saves
            position.worker_states[position.units % position.workers] = after
        position.units += 1

    def state_dict(self) -> dict[str, Any]:
        """The position, as numbers and tensors."""
        position = self._position
        return {
            "images": position.units * (1 if self.grouped else self.batch_size) - len(position.waiting),
            "units": position.units,
            "num_workers": self.num_workers,
            "torch_state": bytes_to_tensor(position.torch_state),
            "worker_states": [None if x is None else bytes_to_tensor(x) for x in position.worker_states],
            "waiting": [(index, bytes_to_tensor(before)) for index, before in position.waiting.values()],
        }

    def seek(self, state: dict[str, Any]) -> bool:
        """Continues at a position when iterated next.

        Args:
            state: what `state_dict` returned; or only "images", the number that this process has consumed.

        Returns:
            Whether that is exact. It is not if the number of workers or the batch has changed: then the images
            continue about where they stopped, and their augmentation is drawn anew.
        """
        position = self._position
        unit = 1 if self.grouped else self.batch_size
        images = state["images"] + len(state.get("waiting", ()))
        position.units = images // unit
        if state.get("num_workers") != self.num_workers or images != state["units"] * unit:
            return False
        position.torch_state = tensor_to_bytes(state["torch_state"])
        position.worker_states = [None if x is None else tensor_to_bytes(x) for x in state["worker_states"]]
        position.waiting = {n: (index, tensor_to_bytes(before)) for n, (index, before) in enumerate(state["waiting"])}
        return True


def build_stock_loader(cfg: CfgNode) -> StockLoader:
    """Builds the resumable twin of `detectron2.data.build_detection_train_loader(cfg)`.

    Its mapper also honours `INPUT.RESIZE_ROUNDING`.

    Raises:
        ValueError: if the processes cannot share a batch evenly.
    """
    parts = build_detection_train_loader.from_config(
        cfg, mapper=build_stock_mapper(cfg, True), dataset=training_records(cfg)
    )
    dataset, processes = parts["dataset"], comm.get_world_size()
    if parts["total_batch_size"] % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {parts['total_batch_size']}, expected a multiple of {processes} processes."
        )
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return StockLoader(
        MapDataset(dataset, parts["mapper"]),
        parts["sampler"],
        batch_size=parts["total_batch_size"] // processes,
        aspect_ratio_grouping=parts["aspect_ratio_grouping"],
        num_workers=parts["num_workers"],
    )
