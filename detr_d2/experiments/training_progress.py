"""The progress of a training process on the console: a bar in a terminal, a line every half minute in a log file."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from ..compare.records.results import minutes

LINE_PERIOD = 30.0  # seconds


class TrainingProgress:
    """Shows iterations, rate, ETA and loss; give it as `report` to `run_training`, within `with`.

    Args:
        title: at the beginning of the line.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: tqdm | None = None
        self._first: tuple[int, float] | None = None  # iteration and time of the first report of this process
        self._last_line = time.monotonic()

    def __call__(
        self, *, max_iter: int, iteration: int = 0, loss: float | None = None, seconds_per_step: float | None = None
    ) -> None:
        """Takes what the training process reports."""
        if seconds_per_step is not None:
            print(f"{self.title}: an iteration takes {seconds_per_step:.3f} s here, so {max_iter:,} fit", flush=True)
        elif sys.stderr.isatty():
            if self._bar is None:  # a continued run: the rate is that of this part
                self._bar = tqdm(desc=self.title, initial=iteration - 1, total=max_iter, unit="it", leave=False)
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
            self._bar.update(iteration - self._bar.n)
        else:
            self._print_line(iteration, max_iter, loss)

    def _print_line(self, iteration: int, max_iter: int, loss: float | None) -> None:
        now = time.monotonic()
        first, start = self._first = self._first or (iteration, now)
        if now - self._last_line < LINE_PERIOD and iteration < max_iter:
            return
        self._last_line = now
        rate = (iteration - first) / max(now - start, 1e-9)
        eta = minutes((max_iter - iteration) / rate) if rate > 0 else "-"
        shown_loss = "" if loss is None else f", loss {loss:.2f}"
        done = f"{iteration:,} of {max_iter:,} iterations{shown_loss}"
        print(f"{self.title}: {done}, {rate:.1f} it/s, ETA {eta}", flush=True)

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
