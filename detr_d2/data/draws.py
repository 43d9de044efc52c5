"""Numbered draws: what a training loader delivers depends on the seed and the number of the draw, and on nothing else.

The sampler's stream of indices, over all processes, is numbered 0, 1, 2, ...; process r of W sees draws r, r + W,
r + 2W, ... The augmentation of a draw is seeded by (seed, draw). So neither the number of loader workers nor a resume
changes a picture. The generators are numpy's global and its like, because detectron2's augmentations draw from them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import Dataset, Sampler

_ATTEMPTS = 100  # images tried for one draw when the mapper skips some by returning None


@contextmanager
def seeded_draw(seed: int, draw: int) -> Iterator[None]:
    """Seeds `random`, numpy and torch's CPU generator by (seed, draw) and puts their states back at the end."""
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence([seed, draw]).generate_state(3).tolist()
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    random.seed(python_seed)
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would reseed the GPUs as well
    try:
        with seeded_numpy(numpy_seed):
            yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, from which detectron2's samplers draw their seeds, and puts its state back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


class NumberedSampler(Sampler[tuple[int, int]]):
    """Numbers the indices of an infinite sampler, groups them by orientation on request, and skips consumed ones."""

    def __init__(
        self,
        sampler: Sampler[int],
        *,
        skip: int = 0,
        batch_size: int = 1,
        landscape: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            sampler: yields this process's share of the indices: of the common stream every W-th, from the rank on.
            skip: number of draws of this process that were consumed before.
            batch_size: images per batch of this process, used for grouping.
            landscape: (N,) bool per image of the dataset, True where it is wider than high. Given, each batch holds
                images of one orientation, as detectron2's ASPECT_RATIO_GROUPING makes them.
        """
        self._sampler = sampler
        self._skip = skip
        self._batch_size = batch_size
        self._landscape = landscape
        # Kept from now: loader workers know no process group.
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draws = ((self._rank + n * self._world_size, int(index)) for n, index in enumerate(self._sampler))
        grouped = draws if self._landscape is None else self._group(draws, self._landscape)
        yield from islice(grouped, self._skip, None)

    def _group(self, draws: Iterator[tuple[int, int]], landscape: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yields one full batch of either orientation after the other, in the order in which they become full."""
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        wide = landscape.tolist()  # a list is much faster than an array when read one by one
        for draw, index in draws:
            bucket = waiting[wide[index]]
            bucket.append((draw, index))
            if len(bucket) == self._batch_size:
                waiting[wide[index]] = []
                yield from bucket


class NumberedDataset(Dataset[dict[str, Any]]):
    """Maps record `index` under the random state of draw `draw`."""

    def __init__(
        self, records: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any] | None], *, seed: int
    ) -> None:
        """
        Args:
            records: dataset dicts.
            mapper: dataset dict -> model input, or None to try another image.
            seed: seed of all draws, at least 0.
        """
        self._records = records
        self._mapper = PicklableWrapper(mapper)  # so that a lambda reaches spawned workers
        self._seed = seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        draw, index = item
        with seeded_draw(self._seed, draw):
            for _ in range(_ATTEMPTS):
                sample = self._mapper(self._records[index])
                if sample is not None:
                    return sample
                index = int(np.random.randint(len(self._records)))  # noqa: NPY002
        raise ValueError(f"the mapper returned None for {_ATTEMPTS} images in a row: is it made for this dataset?")
